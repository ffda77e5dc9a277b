"""What real exports do: each case breaks a clean export in one way and says exactly what must be found."""

import io
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from segdist.core.masks import encode
from tests.dirty.export import ANNOTATIONS, HEIGHT, WIDTH, Export, picture, square

INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Case:
    """One broken export.

    Attributes:
        name: what is wrong.
        change: breaks a clean export.
        found: the severities and codes of all findings.
        train: instances left in train; 6 in the clean export.
        mentions: what some finding must say.
    """

    name: str
    change: Callable[[Export], Any]
    found: tuple[str, ...] = ()
    train: int = 6
    mentions: tuple[str, ...] = ()


def _first(**fields: Any) -> Callable[[Export], Any]:
    """Change the first annotation."""
    return lambda export: export.first.update(fields)


def _image(**fields: Any) -> Callable[[Export], Any]:
    """Change the entry of the first image."""
    return lambda export: export.train["images"][0].update(fields)


def _bytes(content: bytes) -> Callable[[Export], Any]:
    """Change the file of the first image."""
    return lambda export: export.files.update({export.path(): content})


def _category(**fields: Any) -> Callable[[Export], Any]:
    return lambda export: export.train["categories"][1].update(fields)


def _json(make: Callable[[bytes], bytes]) -> Callable[[Export], Any]:
    """Write the JSON file of train in another way."""
    return lambda export: export.files.update({f"train/{ANNOTATIONS}": make(json.dumps(export.train).encode())})


def _many(*changes: Callable[[Export], Any]) -> Callable[[Export], Any]:
    def change(export: Export) -> None:
        for one in changes:
            one(export)

    return change


def _runs(mask_HW: "np.ndarray[Any, Any]") -> list[int]:
    """Uncompressed counts, by NumPy."""
    flat = mask_HW.T.ravel()
    return np.diff(np.flatnonzero(np.diff(np.r_[2, flat, 2]))).tolist() if not flat[0] else [0, *_runs(1 - mask_HW)]


def _mask() -> "np.ndarray[Any, Any]":
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask_HW[10:16, 5:45] = 1
    return mask_HW


def _with_exif(orientation: int, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    image = Image.open(io.BytesIO(picture(0, size_hw=size_hw)))
    exif = image.getexif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def _animated() -> bytes:
    frames = [Image.open(io.BytesIO(picture(n))).convert("P") for n in (0, 77)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def _sixteen_bits() -> bytes:
    values_HW = np.random.default_rng(0).integers(0, 65_535, (HEIGHT, WIDTH)).astype(np.uint16)
    out = io.BytesIO()
    Image.fromarray(values_HW).save(out, "PNG")
    return out.getvalue()


def _other_split(export: Export) -> None:
    """The valid image becomes a copy of the first training image."""
    export.files[export.path(folder="valid")] = export.files[export.path()]


def _same_source(export: Export) -> None:
    name = f"img0_jpg.rf.{99:032x}.jpg"
    export.files[f"valid/{name}"] = export.files.pop(export.path(folder="valid"))
    export.splits["valid"]["images"][0]["file_name"] = name


def _modes(export: Export) -> None:
    for number, mode in enumerate(("L", "RGBA", "P")):
        export.files[export.path(number)] = picture(number, "PNG", mode)


def _without_annotations(number: int) -> Callable[[Export], Any]:
    def change(export: Export) -> None:
        export.train["annotations"] = [a for a in export.train["annotations"] if a["image_id"] != number]

    return change


def _sparse(export: Export) -> None:
    for content in export.splits.values():
        content["categories"] = [{"id": 91, "name": "seam"}, {"id": 17, "name": "crack"}]
        for number, annotation in enumerate(content["annotations"]):
            annotation["category_id"] = (91, 17)[number % 2]


def _ids_differ(export: Export) -> None:
    export.splits["valid"]["categories"][1]["id"] = 2
    for annotation in export.splits["valid"]["annotations"]:
        annotation["category_id"] = 2


def _own_parent(export: Export) -> None:
    for content in export.splits.values():
        content["categories"] = [{"id": 0, "name": "pothole", "supercategory": "pothole"}]
        for annotation in content["annotations"]:
            annotation["category_id"] = 0


def _unicode(export: Export) -> None:
    """A name written with a combining accent on disk and with a single letter in the JSON file, as between systems."""
    name = "fa\u00e7ade.jpg"
    export.rename(unicodedata.normalize("NFD", name), listed=name)


def _same_stem(export: Export) -> None:
    export.rename("photo.jpg", 0)
    export.rename("Photo.JPG", 1)


SHARED_LIKE = (
    Case("nothing", lambda export: None),
    Case("a placeholder category", lambda export: None),
    Case("a category that is its own parent and annotated", _own_parent),
    Case("the same bytes in two splits", _other_split, ("warning image-in-two-splits",), mentions=("img0_jpg",)),
    Case("one source in two splits", _same_source, ("warning source-in-two-splits",), mentions=("img0_jpg",)),
    Case("an image without annotations", _without_annotations(0), train=4),
    Case("a box without a mask", _first(segmentation=[]), ("warning mask-missing",)),
    Case("a polygon of two points", _first(segmentation=[[1, 2, 3, 4]]), ("skipped polygon-too-short",), 5),
    Case(
        "an odd number of coordinates", _first(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), ("error polygon-odd-length",), 5
    ),
    Case(
        "a polygon partly outside",
        _first(segmentation=[square(50, 10, 40, 6)], bbox=[50, 10, 40, 6]),
        ("repaired annotation-repaired",),
    ),
    Case(
        "a polygon that scribbles over the image",
        _first(segmentation=[[0, 0, WIDTH, HEIGHT] * 40_000]),
        ("error polygon-too-large",),
        5,
        ("4,194,304 pixels",),
    ),
    Case("a polygon outside", _first(segmentation=[square(100, 10, 9, 6)]), ("skipped polygon-outside",), 5),
    Case("a stale box", _first(bbox=[50, 30, 5, 5]), ("repaired annotation-repaired",)),
    Case("uncompressed run lengths", _first(segmentation={"size": [HEIGHT, WIDTH], "counts": _runs(_mask())})),
    Case(
        "run lengths that do not fill the image",
        _first(segmentation={"size": [HEIGHT, WIDTH], "counts": [1, 2, 3]}),
        ("error rle-malformed",),
        5,
        ("3072",),
    ),
    Case("a crowd with a polygon", _first(iscrowd=1), ("warning crowd-polygon",)),
    Case(
        "an annotation id twice",
        lambda e: e.train["annotations"][1].update(id=0),
        ("error annotation-id-duplicate",),
        5,
    ),
    Case("an unknown image id", _first(image_id=999), ("error image-unknown",), 5, ("999",)),
    Case("sparse category ids", _sparse),
    Case("width and height swapped", _image(width=HEIGHT, height=WIDTH), ("error image-size-differs",), 4),
    Case("an infinite coordinate", _first(segmentation=[[1, 2, INF, 4, 5, 6]]), ("error number-invalid",), 5),
    Case("numbers as text", _first(bbox=["5", "10", "40", "6"]), ("repaired annotation-repaired",)),
    Case(
        "a truncated image",
        lambda e: e.files.update({e.path(): e.files[e.path()][:300]}),
        ("error image-unreadable",),
        4,
    ),
    Case("grey, transparent and palette images", _modes),
    Case("a suffix in another case", lambda e: e.rename("img0.jpg", listed="img0.JPG"), ("repaired image-renamed",)),
    Case("no annotation in train", lambda e: e.train.update(annotations=[]), ("error split-without-annotations",), 0),
    Case(
        "no test split",
        lambda e: (e.splits.pop("test"), [e.files.pop(n) for n in list(e.files) if n.startswith("test")]),
    ),
    Case("another category id in valid", _ids_differ, ("repaired category-id-differs",), mentions=("crack",)),
    Case("a name in other case", _category(name="Crack "), ("repaired class-name-spelling",) * 2),
    Case("two parts", _first(segmentation=[square(5, 10, 10, 6), square(30, 10, 15, 6)])),
    Case(
        "points in pairs",
        _first(segmentation=[[[5, 10], [45, 10], [45, 16], [5, 16]]]),
        ("repaired annotation-repaired",),
    ),
    Case(
        "below one pixel",
        _first(segmentation=[square(5.1, 10.1, 0.2, 0.2)], bbox=[5.1, 10.1, 0.2, 0.2]),
        ("skipped mask-empty",),
        5,
    ),
    Case("the whole image", _first(segmentation=[square(0, 0, WIDTH, HEIGHT)], bbox=[0, 0, WIDTH, HEIGHT])),
    Case(
        "a split in a file's name",
        lambda e: e.train["images"][0].update(file_name=f"train/{e.train['images'][0]['file_name']}"),
        ("repaired image-renamed",),
    ),
    Case(
        "a class name that breaks answers",
        _category(name="crack ; drywall <loc0000>"),
        ("error class-name-reserved", "warning class-untrained"),
    ),
)

NUMBERS = (
    Case("a NaN box beside a mask", _first(bbox=[NAN, 1, 2, 3]), ("repaired annotation-repaired",)),
    Case("a NaN box without a mask", _first(bbox=[NAN, 1, 2, 3], segmentation=[]), ("error number-invalid",), 5),
    Case("a NaN in a polygon", _first(segmentation=[[1, 2, NAN, 4, 5, 6]]), ("error number-invalid",), 5),
    Case("null in a polygon", _first(segmentation=[[1, 2, None, 4, 5, 6]]), ("error number-invalid",), 5),
    Case("true in a polygon", _first(segmentation=[[1, 2, True, 4, 5, 6]]), ("error number-invalid",), 5),
    Case(
        "a huge coordinate",
        _first(segmentation=[[5, 10, 1e300, 10, 5, 16]], bbox=[5, 10, 40, 6]),
        ("repaired annotation-repaired",),
    ),
    Case("an integer of 400 digits", _first(segmentation=[[5, 10, 10**400, 10, 5, 16]]), ("error number-invalid",), 5),
    Case("negative coordinates", _first(segmentation=[square(-20, 10, 65, 6)]), ("repaired annotation-repaired",)),
    Case("a negative width", _first(bbox=[45, 10, -40, 6], segmentation=[]), ("error box-malformed",), 5),
    Case("a box of no size without a mask", _first(bbox=[5, 10, 0, 0], segmentation=[]), ("skipped box-empty",), 5),
    Case("a box with five numbers", _first(bbox=[1, 2, 3, 4, 5], segmentation=[]), ("error box-malformed",), 5),
    Case(
        "a box as an object",
        _first(bbox={"x": 5, "y": 10, "width": 40, "height": 6}),
        ("repaired annotation-repaired",),
    ),
    Case("a box as text without a mask", _first(bbox="5 10 40 6", segmentation=[]), ("error number-invalid",), 5),
    Case("no box beside a mask", lambda e: e.first.pop("bbox"), ("repaired annotation-repaired",)),
    Case(
        "a polygon as text", _first(segmentation=json.dumps([square(5, 10, 40, 6)])), ("repaired annotation-repaired",)
    ),
    Case(
        "a polygon of text",
        _first(segmentation=[[str(v) for v in square(5, 10, 40, 6)]]),
        ("repaired annotation-repaired",),
    ),
    Case("a polygon that is no list", _first(segmentation="polygon"), ("error segmentation-malformed",), 5),
    Case(
        "a polygon that was not put into a list",
        _first(segmentation=square(5, 10, 40, 6)),
        ("repaired annotation-repaired",),
    ),
    Case("a polygon of numbers in lists", _first(segmentation=[[5], [10], [45]]), ("error polygon-odd-length",), 5),
    Case(
        "a bow tie",
        _first(segmentation=[[5, 10, 45, 40, 45, 10, 5, 40]], bbox=[5, 10, 40, 30]),
        ("warning polygon-crosses-itself",),
    ),
    Case("the first point repeated at the end", _first(segmentation=[[*square(5, 10, 40, 6), 5, 10]])),
    Case("an area that is wrong", _first(area=-7), ("repaired annotation-repaired",), mentions=("area -7",)),
    Case("an area in shares of the image", _first(area=0.078), ("repaired annotation-repaired",)),
    Case("an area of another object", _first(area=99_999), ("repaired annotation-repaired",)),
    Case("an area that is infinite", _first(area=INF), ("repaired annotation-repaired",)),
    Case("no area", lambda e: e.first.pop("area"), ("repaired area-missing",)),
    Case("an area of null", _first(area=None), ("repaired area-missing",)),
    Case("an area of text", _first(area="many"), ("repaired annotation-repaired",)),
    Case("an area that is a number as text", _first(area="240")),
    Case("the same annotation twice", lambda e: e.again(), ("skipped annotation-duplicate",)),
)

RUN_LENGTHS = (
    Case(
        "a size of the wrong order",
        _first(segmentation={"size": [WIDTH, HEIGHT], "counts": _runs(_mask())}),
        ("error rle-malformed",),
        5,
    ),
    Case(
        "compressed run lengths",
        _first(segmentation={"size": [HEIGHT, WIDTH], "counts": encode(_mask()).counts.decode()}),
    ),
    Case(
        "negative run lengths",
        _first(segmentation={"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}),
        ("error rle-malformed",),
        5,
    ),
    Case(
        "run lengths far too long",
        _first(segmentation={"size": [HEIGHT, WIDTH], "counts": [0, 10**12]}),
        ("error rle-malformed",),
        5,
    ),
    Case(
        "run lengths cut off",
        _first(segmentation={"size": [HEIGHT, WIDTH], "counts": encode(_mask()).counts.decode()[:-1]}),
        ("error rle-malformed",),
        5,
    ),
    Case(
        "foreign characters",
        _first(segmentation={"size": [HEIGHT, WIDTH], "counts": "\u00e9\x01"}),
        ("error rle-malformed",),
        5,
    ),
    Case("no counts", _first(segmentation={"size": [HEIGHT, WIDTH]}), ("error rle-malformed",), 5),
    Case("no size", _first(segmentation={"counts": [HEIGHT * WIDTH]}), ("error rle-malformed",), 5),
    Case(
        "an empty mask",
        _first(segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        ("skipped mask-empty",),
        5,
    ),
    Case(
        "fractions of pixels",
        _first(segmentation={"size": [HEIGHT, WIDTH], "counts": [0.5, HEIGHT * WIDTH - 0.5]}),
        ("error rle-malformed",),
        5,
    ),
)

IDS = (
    Case("ids as decimals", _first(id=0.0, image_id=0.0, category_id=1.0), ("repaired id-type",)),
    Case("ids as text", _first(id="0", image_id="0", category_id="1"), ("repaired id-type",)),
    Case(
        "ids that are words",
        _many(_first(image_id="img0"), _image(id="img0")),
        ("error image-unknown", "repaired id-type"),
        5,
    ),
    Case("no annotation id", lambda e: e.first.pop("id")),
    Case(
        "no image id in an annotation",
        lambda e: e.first.pop("image_id"),
        ("error image-unknown", "repaired id-type"),
        5,
    ),
    Case("an unknown category id", _first(category_id=7), ("error category-unknown",), 5, ("7",)),
    Case("no category id", lambda e: e.first.pop("category_id"), ("error category-unknown", "repaired id-type"), 5),
    Case(
        "two images with one id",
        lambda e: e.train["images"][1].update(id=0),
        ("error image-id-duplicate", "error image-unknown", "warning image-unlisted"),
        4,
    ),
    Case(
        "a file listed twice",
        lambda e: e.train["images"].append({**e.train["images"][0], "id": 50}),
        ("error image-name-duplicate",),
    ),
    Case(
        "an image without a name",
        lambda e: e.train["images"][0].pop("file_name"),
        ("error image-malformed", "error image-unknown", "warning image-unlisted"),
        4,
    ),
    Case(
        "an annotation that is no object", lambda e: e.train["annotations"].append("x"), ("error annotation-malformed",)
    ),
    Case("an annotation that is null", lambda e: e.train["annotations"].append(None), ("error annotation-malformed",)),
    Case(
        "a category that is no object", lambda e: e.train["categories"].append("crack"), ("error category-malformed",)
    ),
    Case("a category without a name", _category(name=None), ("error class-name-reserved", "warning class-untrained")),
    Case(
        "a category without an id",
        lambda e: e.train["categories"][1].pop("id"),
        ("error category-malformed", "error category-unknown", "skipped annotations-lost"),
        0,
    ),
    Case(
        "two categories with one id",
        lambda e: e.train["categories"].append({"id": 1, "name": "seam"}),
        ("error category-id-duplicate", "warning class-untrained"),
    ),
    Case(
        "two categories with one name",
        lambda e: e.train["categories"].append({"id": 9, "name": "crack"}),
        ("repaired category-name-duplicate",),
    ),
    Case(
        "no categories at all",
        lambda e: e.train.update(categories=[]),
        ("error category-unknown", "skipped annotations-lost"),
        0,
    ),
)

IMAGES = (
    Case("an empty file", _bytes(b""), ("error image-unreadable",), 4),
    Case("a file that is no image", _bytes(b"<html>404</html>"), ("error image-unreadable",), 4),
    Case("a missing file", lambda e: e.files.pop(e.path()), ("error image-missing",), 4),
    Case("sixteen bits", _bytes(_sixteen_bits())),
    Case("an animation", _bytes(_animated()), ("warning image-animated",)),
    Case("a stated size of zero", _image(width=0, height=0), ("error image-size-invalid",), 4),
    Case("a stated size of text", _image(width=str(WIDTH), height=str(HEIGHT))),
    Case("a stated size of null", _image(width=None), ("error image-size-invalid",), 4),
    Case("a stated size of halves", _image(width=WIDTH - 0.5), ("error image-size-invalid",), 4),
    Case(
        "an image scaled after annotation",
        _bytes(picture(0, size_hw=(HEIGHT * 2, WIDTH * 2))),
        ("error image-size-differs",),
        4,
    ),
    Case("a photo turned by EXIF, annotated as stored", _bytes(_with_exif(6)), ("repaired exif-turned",)),
    Case("a photo upside down by EXIF", _bytes(_with_exif(3))),
    Case(
        "a broken EXIF block",
        _bytes(
            _with_exif(6)
            .replace(b"Exif\x00\x00II", b"Exif\x00\x00XX", 1)
            .replace(b"Exif\x00\x00MM", b"Exif\x00\x00XX", 1)
        ),
    ),
    Case("accents written in two ways", _unicode, ("repaired image-renamed",)),
    Case("two names that differ in case only", _same_stem),
    Case(
        "a name as a browser writes it", lambda e: e.rename("a b.jpg", listed="a%20b.jpg"), ("repaired image-renamed",)
    ),
    Case(
        "a folder of another system",
        lambda e: e.rename("a.jpg", listed="C:\\photos\\a.jpg"),
        ("repaired image-renamed",),
    ),
    Case(
        "a name with folders that are not there",
        lambda e: e.rename("a.jpg", listed="/home/me/a.jpg"),
        ("repaired image-renamed",),
    ),
    Case(
        "a path out of the source",
        _image(file_name="../../secret.jpg"),
        ("error image-missing", "warning image-unlisted"),
        4,
    ),
    Case("an absolute path", _image(file_name="/etc/passwd"), ("error image-missing", "warning image-unlisted"), 4),
    Case(
        "images that are not listed",
        lambda e: e.files.update({"train/x.jpg": picture(50)}),
        ("warning image-unlisted",),
    ),
    Case(
        "what macOS leaves behind",
        lambda e: e.files.update(
            {"train/._a.jpg": b"x", "train/.DS_Store": b"x", f"__MACOSX/train/._{ANNOTATIONS}": b"x"}
        ),
    ),
    Case("Windows' thumbnails", lambda e: e.files.update({"train/Thumbs.db": b"x"})),
)

FILES = (
    Case("a byte order mark", _json(lambda text: b"\xef\xbb\xbf" + text)),
    Case("UTF-16", _json(lambda text: text.decode().encode("utf-16")), ("repaired encoding-repaired",)),
    Case(
        "Latin-1",
        _json(lambda text: text.replace(b'"crack"', '"fa\u00e7ade"'.encode("latin-1"))),
        ("repaired encoding-repaired", "warning class-untrained"),
    ),
    Case("an empty JSON file", _json(lambda text: b""), ("error source-unreadable",), 0),
    Case("a JSON file cut off", _json(lambda text: text[: len(text) // 2]), ("error source-unreadable",), 0),
    Case("a JSON file that is a list", _json(lambda text: b"[]"), ("error source-unreadable",), 0),
    Case("no list of annotations", lambda e: e.train.pop("annotations"), ("error source-unreadable",), 0),
    Case("annotations that are an object", lambda e: e.train.update(annotations={}), ("error source-unreadable",), 0),
    Case(
        "further keys",
        lambda e: (
            e.train.update(info=None, licenses=[], extra={"x": [1]}) or e.first.update(attributes={"occluded": True})
        ),
    ),
    Case(
        "white space and keys in another order",
        _json(lambda text: json.dumps(json.loads(text), indent=3, sort_keys=True).encode()),
    ),
    Case(
        "valid without annotations",
        lambda e: e.splits["valid"].update(annotations=[]),
        ("warning split-without-annotations",),
    ),
    Case(
        "another folder of annotations",
        lambda e: e.files.update({f"extra/{ANNOTATIONS}": json.dumps(e.train).encode()}),
        ("warning folder-unread",),
    ),
)

CASES = (*SHARED_LIKE, *NUMBERS, *RUN_LENGTHS, *IDS, *IMAGES, *FILES)
