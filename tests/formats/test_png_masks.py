"""Mask images: what the numbers mean in each kind, and the traps of files that changed them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from segdist.core.errors import DataError
from segdist.core.masks import decode
from segdist.core.records import Finding, Sample, Severity
from segdist.formats.png_masks import Format, Options
from tests.formats.reading import read_all

SIZE_HW = (12, 16)
Values = np.ndarray[Any, Any]
BINARY: dict[str, Any] = {"kind": "binary", "classes": {1: "crack"}}
CLASSES: dict[str, Any] = {"kind": "class_id", "classes": {1: "crack", 2: "seam"}}


def stripes(*numbers: int, dtype: Any = np.uint8) -> Values:
    """Four columns of each number."""
    values_HW = np.zeros(SIZE_HW, dtype)
    for place, number in enumerate(numbers):
        values_HW[:, 4 * place : 4 * place + 4] = number
    return values_HW


def write(
    folder: Path, mask: Values | Image.Image | bytes | None, name: str = "masks/a.png", kind: str = "PNG"
) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE_HW, 3), np.uint8)).save(folder / "images" / "a.jpg")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(mask, bytes):
        (folder / name).write_bytes(mask)
    elif mask is not None:
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(folder / name, kind)
    return folder


def read(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    return read_all(Format(Options(path=str(folder), **options)))


def found(sample: Sample) -> dict[str, Values]:
    return {i.label: decode(i.mask) for i in sample.instances if i.mask}


@pytest.mark.parametrize("value", [1, 128, 255])
def test_a_binary_mask_may_write_its_one_as_anything(tmp_path: Path, value: int) -> None:
    (sample,), findings = read(write(tmp_path, stripes(0, value)), **BINARY)
    assert findings == []
    assert np.array_equal(found(sample)["crack"], stripes(0, 1) > 0)


def test_a_binary_mask_saved_as_jpeg_is_cut_in_the_middle_and_that_is_reported(tmp_path: Path) -> None:
    rough = np.random.default_rng(0).integers(0, 5, SIZE_HW) + stripes(0, 250).astype(np.int64)
    (sample,), findings = read(write(tmp_path, rough.clip(0, 255).astype(np.uint8)), **BINARY)
    assert [(f.code, f.severity) for f in findings] == [("mask-not-binary", Severity.REPAIRED)]
    assert np.array_equal(found(sample)["crack"], stripes(0, 1) > 0)


@pytest.mark.parametrize("mask", [stripes(0, 1, 2), np.dstack([stripes(0, 255), stripes(0, 9), stripes(0, 9)])])
def test_a_binary_mask_of_several_values_or_colours_is_an_error(tmp_path: Path, mask: Values) -> None:
    (sample,), findings = read(write(tmp_path, mask), **BINARY)
    assert [(f.code, f.severity) for f in findings] == [("mask-not-binary", Severity.ERROR)]
    assert sample.instances == ()


def test_an_empty_mask_is_an_image_without_objects(tmp_path: Path) -> None:
    for options in (BINARY, CLASSES):
        (sample,), findings = read(write(tmp_path, stripes()), **options)
        assert (sample.instances, findings) == ((), [])


@pytest.mark.parametrize("mode", ["grey", "palette", "sixteen bits", "grey as colour"])
def test_class_numbers_survive_however_the_png_stores_them(tmp_path: Path, mode: str) -> None:
    values_HW = stripes(0, 1, 2)
    image = {
        "grey": lambda: Image.fromarray(values_HW),
        "palette": lambda: Image.fromarray(values_HW, "P"),
        "sixteen bits": lambda: Image.fromarray(values_HW.astype(np.uint16)),
        "grey as colour": lambda: Image.fromarray(np.dstack([values_HW] * 3)),
    }[mode]()
    if mode == "palette":
        image.putpalette([c for n in range(256) for c in (n, 255 - n, 7)])
    (sample,), findings = read(write(tmp_path, image), **CLASSES)
    assert findings == []
    assert {label: int(m.sum()) for label, m in found(sample).items()} == {"crack": 48, "seam": 48}


def test_colours_name_classes_where_the_keys_are_colours(tmp_path: Path) -> None:
    mask = np.dstack([stripes(0, 250), stripes(0, 50), stripes(0, 83)])
    (sample,), findings = read(write(tmp_path, mask), kind="class_id", classes={"#fa3253": "crack"})
    assert findings == []
    assert np.array_equal(found(sample)["crack"], stripes(0, 1) > 0)
    _, findings = read(write(tmp_path, mask), kind="class_id", classes={"#000001": "crack"})
    assert [(f.code, f.annotation) for f in findings] == [("category-unknown", "#fa3253")]


def test_a_number_without_a_class_is_an_error_unless_it_is_to_be_ignored(tmp_path: Path) -> None:
    write(tmp_path, stripes(1, 255))
    (sample,), findings = read(tmp_path, **CLASSES)
    assert [(f.code, f.severity, f.annotation) for f in findings] == [("category-unknown", Severity.ERROR, "255")]
    (sample,), findings = read(tmp_path, **CLASSES, ignore=(255,))
    assert findings == []
    assert list(found(sample)) == ["crack"]


def test_objects_are_numbered_and_their_class_may_be_in_the_number(tmp_path: Path) -> None:
    write(tmp_path, stripes(1000, 1001, 2000, dtype=np.uint16))
    (sample,), findings = read(tmp_path, kind="instance_id", classes={1: "crack", 2: "seam"}, divisor=1000)
    assert findings == []
    assert [i.label for i in sample.instances] == ["crack", "crack", "seam"]
    (sample,), findings = read(tmp_path, kind="instance_id", classes={1: "crack"})
    assert [i.label for i in sample.instances] == ["crack"] * 3


def test_regions_of_a_class_become_objects_on_request(tmp_path: Path) -> None:
    write(tmp_path, stripes(1, 0, 1))
    assert len(read(tmp_path, **CLASSES)[0][0].instances) == 1
    (sample,), _ = read(tmp_path, **CLASSES, components=True)
    assert [i.box_xyxy for i in sample.instances] == [(0, 0, 4, 12), (8, 0, 12, 12)]


def test_numbers_in_a_jpeg_and_a_damaged_mask_are_errors(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(stripes(0, 1, 2)).save(out, "JPEG")
    _, findings = read(write(tmp_path, out.getvalue()), **CLASSES)
    assert [(f.code, f.severity) for f in findings] == [("mask-lossy", Severity.ERROR)]
    samples, findings = read(write(tmp_path, b"x"), **CLASSES)
    assert (samples, [f.code for f in findings]) == ([], ["mask-unreadable"])


def test_a_missing_mask_a_mask_without_an_image_and_one_of_another_size_are_named(tmp_path: Path) -> None:
    from segdist.checking.validation import review

    samples, findings = read(write(tmp_path / "a", stripes(1), "masks/b.png"), **CLASSES)
    assert [s.instances for s in samples] == [()]
    assert sorted(f.code for f in findings) == ["image-missing", "label-file-missing"]
    write(tmp_path / "b", np.ones((5, 5), np.uint8))
    reviewed = review(Format(Options(path=str(tmp_path / "b"), **CLASSES)), "png_masks")
    assert [f.code for f in reviewed.findings] == ["image-size-differs"]


def test_masks_may_lie_beside_the_images_under_a_longer_name(tmp_path: Path) -> None:
    write(tmp_path, stripes(0, 255), "images/a_mask.png")
    (sample,), findings = read(tmp_path / "images", **BINARY, images="", masks="", mask_suffix="_mask")
    assert findings == []
    assert sample.image_id == "a.jpg"
    assert np.array_equal(found(sample)["crack"], stripes(0, 1) > 0)


def test_a_folder_of_masks_for_an_image_holds_one_object_each(tmp_path: Path) -> None:
    write(tmp_path, stripes(255), "masks/a/0.png")
    write(tmp_path, stripes(0, 255), "masks/a/1.png")
    (sample,), findings = read(tmp_path, **BINARY)
    assert findings == []
    assert [i.box_xyxy for i in sample.instances] == [(0, 0, 4, 12), (4, 0, 8, 12)]


def test_what_the_options_must_say_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, stripes(1))
    with pytest.raises(DataError, match=r"no masks\.json\. Set `kind`"):
        read(tmp_path)
    with pytest.raises(DataError, match="exactly one class"):
        read(tmp_path, kind="binary", classes={1: "a", 2: "b"})
    (tmp_path / "masks.json").write_text(json.dumps({"kind": "other"}))
    with pytest.raises(DataError, match="must say `kind` and `classes`"):
        read(tmp_path)


def test_a_binary_mask_that_may_be_inverted_is_reported_and_not_guessed(tmp_path: Path) -> None:
    hole = np.full(SIZE_HW, 255, np.uint8)
    hole[4:7, 5:9] = 0
    (sample,), findings = read(write(tmp_path, hole), **BINARY)
    assert [(f.code, f.severity) for f in findings] == [("mask-inverted", Severity.WARNING)]
    assert np.array_equal(found(sample)["crack"], hole > 0)
    for plain in (stripes(255), np.full(SIZE_HW, 255, np.uint8), 255 - hole):
        assert read(write(tmp_path, plain), **BINARY)[1] == []


def test_masks_in_a_white_first_palette_or_an_alpha_channel_are_read_as_they_look(tmp_path: Path) -> None:
    drawn = stripes(0, 1)
    palette = Image.fromarray(1 - drawn, "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    alpha = Image.fromarray(np.dstack([np.zeros((*SIZE_HW, 3), np.uint8), drawn * 255]))
    for image in (palette, alpha):
        (sample,), findings = read(write(tmp_path, image), **BINARY)
        assert [(f.code, f.severity) for f in findings] == [("mask-palette", Severity.REPAIRED)]
        assert np.array_equal(found(sample)["crack"], drawn > 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_a_mask_is_turned_as_its_own_orientation_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = np.zeros(SIZE_HW, np.uint8)
    stored[1:4, 2:9] = 255
    mask, exif = Image.fromarray(stored), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo = Image.fromarray(np.zeros((*SIZE_HW, 3), np.uint8))
    for folder, image in (("images", photo), ("masks", mask)):
        (tmp_path / folder).mkdir()
        extra = {"tiffinfo": {274: orientation}} if suffix == ".tif" else {"exif": exif, "lossless": True}
        image.save(tmp_path / folder / f"a{suffix}", **extra)
    turned = mask.copy()
    turned.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned)) > 0
    (sample,), findings = read(tmp_path, **BINARY)
    assert np.array_equal(found(sample)["crack"], expected)
    assert findings == []
