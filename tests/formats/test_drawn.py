"""CVAT, Label Studio, VIA and CreateML: every shape against its definition, images found, and what is wrong named."""

import csv
import io
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from segdist.core.errors import DataError
from segdist.core.masks import decode, encode
from segdist.core.records import Finding, Instance, Sample
from segdist.reading.archived import open_format
from segdist.reading.drawn.brush import decode_brush, encode_brush
from segdist.reading.guess import guess_format
from tests.formats.reading import read_all
from tests.formats.test_contract import EXAMPLES

H, W = 40, 50
NAN, INF = float("nan"), float("inf")
SQUARE: list[tuple[float, float]] = [(5, 5), (25, 5), (25, 15), (5, 15)]


def photo(file: Path, size_hw: tuple[int, int] = (H, W)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size_hw, 3)).astype(np.uint8)).save(file)


def polygon_mask(points: list[tuple[float, float]], size_hw: tuple[int, int] = (H, W)) -> Any:
    flat = [v for point in points for v in point]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([flat], *size_hw))).astype(bool)


def ellipse_mask(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> Any:
    """By complex numbers: turn each pixel's centre back."""
    ys, xs = np.mgrid[:H, :W] + 0.5
    turned = ((xs - x) + 1j * (ys - y)) * np.exp(-1j * np.radians(degrees))
    return (turned.real / rx) ** 2 + (turned.imag / ry) ** 2 <= 1


def cvat(folder: Path, *shapes: str, name: str = "a.png", **attributes: Any) -> None:
    given = {"id": 0, "name": name, "width": W, "height": H, **attributes}
    head = " ".join(f'{key}="{value}"' for key, value in given.items())
    (folder / "annotations.xml").write_text(f"<annotations><image {head}>{''.join(shapes)}</image></annotations>")


def label_studio(folder: Path, *regions: dict[str, Any], image: str = "/data/upload/3/0a1b2c3d-a.png") -> None:
    results = [{"id": str(n), "original_width": W, "original_height": H, **r} for n, r in enumerate(regions)]
    content = {"id": 1, "data": {"image": image}, "annotations": [{"result": results}]}
    (folder / "export.json").write_text(json.dumps([content]))


def via(folder: Path, *shapes: dict[str, Any], attributes: Any = None, filename: str = "a.png") -> None:
    named = {"class": "crack"} if attributes is None else attributes
    regions = [{"shape_attributes": shape, "region_attributes": named} for shape in shapes]
    (folder / "via.json").write_text(json.dumps({"a.png1": {"filename": filename, "size": 1, "regions": regions}}))


def read(name: str, folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    return read_all(open_format(name, {"path": str(folder), **options}))


def one(name: str, folder: Path, **options: Any) -> Instance:
    (sample,), findings = read(name, folder, **options)
    assert [str(f) for f in findings] == []
    (instance,) = sample.instances
    return instance


def pixels(instance: Instance) -> Any:
    assert instance.mask is not None
    return decode(instance.mask)


MASK = np.zeros((H, W), bool)
MASK[7:20, 9:33] = np.random.default_rng(1).random((13, 24)) > 0.5
CUT = MASK[7:20, 9:33]


def runs(mask_HW: Any) -> list[int]:
    """Row by row, unset pixels first."""
    text = "".join("01"[int(v)] for v in mask_HW.flat)
    return [0] * int(text[0]) + [len(part) for part in text.replace("01", "0 1").replace("10", "1 0").split()]


CVAT_SHAPES: list[tuple[str, Any]] = [
    ('<polygon label="crack" points="5,5;25,5;25,15;5,15"/>', lambda: polygon_mask(SQUARE)),
    (
        f'<mask label="crack" rle="{", ".join(map(str, runs(CUT)))}" left="9" top="7" width="24" height="13"/>',
        lambda: MASK,
    ),
    ('<ellipse label="crack" cx="20" cy="18" rx="12" ry="6"/>', lambda: ellipse_mask(20, 18, 12, 6)),
    (
        '<ellipse label="crack" cx="20" cy="18" rx="12" ry="6" rotation="30"/>',
        lambda: ellipse_mask(20, 18, 12, 6, 30),
    ),
]


@pytest.mark.parametrize(("shape", "expected"), CVAT_SHAPES)
def test_shapes_of_cvat_cover_what_they_are(tmp_path: Path, shape: str, expected: Callable[[], Any]) -> None:
    photo(tmp_path / "images" / "a.png")
    cvat(tmp_path, shape)
    assert guess_format(str(tmp_path)) == "cvat"
    assert np.array_equal(pixels(one("cvat", tmp_path)), expected())


def test_boxes_of_cvat_are_boxes_or_filled_and_turned_ones_turn_about_their_centre(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    cvat(tmp_path, '<box label="crack" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>')
    found = one("cvat", tmp_path)
    assert found.mask is None
    assert found.box_xyxy == pytest.approx((15, 5, 25, 25))
    cvat(tmp_path, '<box label="crack" xtl="10" ytl="10" xbr="30" ybr="20" rotation="45"/>')
    c = 2**-0.5
    corners = [(20 + (x * c - y * c), 15 + (x * c + y * c)) for x, y in ((-10, -5), (10, -5), (10, 5), (-10, 5))]
    assert np.array_equal(pixels(one("cvat", tmp_path, rectangles="masks")), polygon_mask(corners))


def test_shapes_of_a_group_are_parts_of_one_instance_in_cvat(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    square = '<polygon label="crack" points="{0},5;{1},5;{1},15;{0},15" group_id="{2}"/>'
    cvat(tmp_path, square.format(5, 10, 4), square.format(20, 30, 4), square.format(35, 40, 0))
    (sample,), findings = read("cvat", tmp_path)
    assert findings == []
    assert [i.mask.area for i in sample.instances if i.mask] == [150, 50]


def test_lines_points_and_what_is_no_shape_of_cvat_are_named(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    polyline = '<polyline label="crack" points="5,5;25,5"/>'
    shapes = ('<points label="crack" points="5,5"/>', '<skeleton label="crack"/>', '<tag label="crack"/>', "<cuboid/>")
    cvat(tmp_path, polyline, *shapes, '<cuboid label="crack" xtl1="1"/>')
    (sample,), findings = read("cvat", tmp_path)
    assert sample.instances == ()
    assert [f.code for f in findings] == ["shape-without-area"] * 4 + ["category-unknown", "shape-unknown"]
    cvat(tmp_path, polyline)
    assert pixels(one("cvat", tmp_path, line_width=3)).sum() > 60


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ('<polygon label="crack" points="1,1;2,nan;3,3"/>', "number-invalid"),
        ('<polygon label="crack" points="1,1;2;3,3"/>', "polygon-odd-length"),
        ('<polygon label="crack" points="1,1;2,2"/>', "polygon-too-short"),
        ('<polygon label="crack"/>', "number-invalid"),
        ('<mask label="crack" rle="1,2" left="0" top="0" width="2" height="2"/>', "rle-malformed"),
        ('<mask label="crack" rle="4" left="49" top="0" width="2" height="2"/>', "rle-malformed"),
        ('<mask label="crack" rle="-4,8" left="0" top="0" width="2" height="2"/>', "rle-malformed"),
        ('<mask label="crack" rle="9999999999" left="0" top="0" width="99999" height="99999"/>', "rle-malformed"),
        ('<mask label="crack" rle="4" left="0" top="0" width="2" height="2"/>', "mask-empty"),
        ('<box label="crack" xtl="1"/>', "number-invalid"),
        ('<ellipse label="crack" cx="20" cy="18" rx="-2" ry="6"/>', "mask-empty"),
    ],
)
def test_what_is_wrong_with_a_shape_of_cvat_is_named_and_the_others_stay(tmp_path: Path, shape: str, code: str) -> None:
    photo(tmp_path / "a.png")
    cvat(tmp_path, '<polygon label="crack" points="5,5;25,5;25,15;5,15"/>', shape)
    (sample,), findings = read("cvat", tmp_path)
    assert len(sample.instances) == 1
    assert [(f.code, f.image, f.annotation.rpartition(" ")[2]) for f in findings] == [(code, "a.png", "2")]


def test_tasks_subsets_and_paths_of_cvat_mean_their_own_images(tmp_path: Path) -> None:
    shape = '<polygon label="crack" points="5,5;25,5;25,15;5,15"/>'
    for split in ("train", "val"):
        photo(tmp_path / split / "0001.png")
    image = f'<image name="0001.png" subset="{{}}" width="{W}" height="{H}">{shape}</image>'
    images = [image.format(subset) for subset in ("Train", "Validation")]
    (tmp_path / "annotations.xml").write_text(f"<annotations><meta/>{''.join(images)}</annotations>")
    samples, findings = read("cvat", tmp_path)
    assert findings == []
    assert [(s.image_id, s.split, len(s.instances)) for s in samples] == [
        ("train/0001.png", "train", 1),
        ("val/0001.png", "val", 1),
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("<annotations><track id='0'/></annotations>", "tracks of a video"),
        ("<annotations/>", "must hold elements `image`"),
        ("<annotations><image", "no XML"),
    ],
)
def test_files_of_cvat_that_cannot_be_read_say_why(tmp_path: Path, text: str, match: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "annotations.xml").write_text(text)
    samples, findings = read("cvat", tmp_path)
    assert samples == []
    assert [f.code for f in findings] == ["source-unreadable", "image-unlisted"]
    assert match in findings[0].message


def test_a_brush_of_label_studio_comes_back_to_the_pixel_and_its_raw_runs_are_read(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    value = {"format": "rle", "rle": encode_brush(encode(MASK)), "brushlabels": ["crack"]}
    label_studio(tmp_path, {"type": "brushlabels", "value": value})
    assert guess_format(str(tmp_path)) == "label_studio"
    assert np.array_equal(pixels(one("label_studio", tmp_path)), MASK)


def test_runs_of_different_values_are_decoded_wherever_they_begin() -> None:
    """By hand after thi.ng/rle-pack: 8 values; one run of 3 equal, one of 5 that are written one by one."""
    values = [0, 0, 0, 255, 9, 9, 9, 255]
    bits = f"{8:032b}{7:05b}" + "".join(f"{s - 1:04b}" for s in (3, 4, 8, 16))
    bits += f"1{0:02b}{2:03b}{0:08b}" + f"0{0:02b}{4:03b}" + "".join(f"{v:08b}" for v in values[3:])
    content = [int(bits[k : k + 8].ljust(8, "0"), 2) for k in range(0, len(bits), 8)]
    assert decode(decode_brush(content, (1, 2))).tolist() == [[True, True]]
    assert decode(decode_brush(encode_brush(encode(np.array([[0, 1]]))), (1, 2))).tolist() == [[False, True]]


c, s = float(np.cos(np.radians(30))), float(np.sin(np.radians(30)))
LS_SHAPES: list[tuple[str, dict[str, Any], Callable[[], Any]]] = [
    ("polygon", {"points": [[10, 12.5], [50, 12.5], [50, 37.5], [10, 37.5]]}, lambda: polygon_mask(SQUARE)),
    ("rectangle", {"x": 10, "y": 12.5, "width": 40, "height": 25, "rotation": 0}, lambda: polygon_mask(SQUARE)),
    (
        "rectangle",
        {"x": 40, "y": 25, "width": 20, "height": 10, "rotation": 30},
        lambda: polygon_mask(
            [tuple(np.array([20, 10]) + [[c, -s], [s, c]] @ np.array(p)) for p in ((0, 0), (10, 0), (10, 4), (0, 4))]
        ),
    ),
    (
        "ellipse",
        {"x": 40, "y": 45, "radiusX": 24, "radiusY": 15, "rotation": 30},
        lambda: ellipse_mask(20, 18, 12, 6, 30),
    ),
]


@pytest.mark.parametrize(("kind", "value", "expected"), LS_SHAPES)
@pytest.mark.parametrize("is_typed", [True, False])
def test_shapes_of_label_studio_are_percent_of_the_image(
    tmp_path: Path, kind: str, value: dict[str, Any], expected: Callable[[], Any], is_typed: bool
) -> None:
    photo(tmp_path / "a.png")
    if is_typed:
        label_studio(tmp_path, {"type": f"{kind}labels", "value": {**value, f"{kind}labels": ["crack"]}})
    else:  # as of a plain tool with a `Labels` tag: two results of one id
        named = {"id": "x", "type": "labels", "value": {**value, "labels": ["crack"]}}
        label_studio(tmp_path, {"id": "x", "type": kind, "value": value}, named)
    assert np.array_equal(pixels(one("label_studio", tmp_path, rectangles="masks")), expected())


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/3/0a1b2c3d-a.png",
        "/data/local-files/?d=photos/site%201/a.png",
        "s3://bucket/photos/a.png",
        "https://host/x/a.png?X-Signature=1%2F2",
        "photos\\a.png",
    ],
)
def test_urls_of_label_studio_mean_the_file_that_they_end_in(tmp_path: Path, image: str) -> None:
    photo(tmp_path / "photos" / "a.png")
    label_studio(tmp_path, image=image)
    (sample,), findings = read("label_studio", tmp_path)
    assert findings == []
    assert (sample.image_id, sample.instances) == ("photos/a.png", ())


def test_the_latest_submitted_annotation_counts_and_open_tasks_are_no_images_without_objects(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        photo(tmp_path / f"{name}.png")
    value = {"points": [[10, 12.5], [50, 12.5], [50, 37.5]], "polygonlabels": ["crack"]}
    drawn = [{"type": "polygonlabels", "original_width": W, "original_height": H, "value": value}]
    tasks = [
        {
            "data": {"image": "a.png"},
            "annotations": [
                {"result": drawn, "updated_at": "2024-02-01"},
                {"result": [], "updated_at": "2024-01-01"},
                {"result": [], "updated_at": "2024-03-01", "was_cancelled": True},
            ],
        },
        {"data": {"image": "b.png"}, "annotations": [], "predictions": [{"result": drawn}]},
        {"data": {"image": "c.png"}, "annotations": [{"result": [], "was_cancelled": True}]},
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    (sample,), findings = read("label_studio", tmp_path)
    assert (sample.image_id, len(sample.instances)) == ("a.png", 1)
    assert [f.code for f in findings] == ["image-unlisted", "annotations-unread", "image-unlisted"]
    assert findings[0].message.endswith("submitted: 2 tasks")


def test_a_task_at_another_size_or_a_broken_region_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    label_studio(tmp_path, {"type": "brushlabels", "value": {"rle": [1, 2], "brushlabels": ["crack"]}})
    _, findings = read("label_studio", tmp_path)
    assert [f.code for f in findings] == ["rle-malformed"]
    label_studio(tmp_path, {"type": "brushlabels", "original_width": 10**9, "value": {"rle": [], "brushlabels": ["x"]}})
    samples, findings = read("label_studio", tmp_path)
    assert (samples, [f.code for f in findings]) == ([], ["image-size-differs"])


VIA_SHAPES: list[tuple[dict[str, Any], Callable[[], Any]]] = [
    (
        {"name": "polygon", "all_points_x": [x for x, _ in SQUARE], "all_points_y": [y for _, y in SQUARE]},
        lambda: polygon_mask(SQUARE),
    ),
    ({"name": "rect", "x": 5, "y": 5, "width": 20, "height": 10}, lambda: polygon_mask(SQUARE)),
    ({"name": "circle", "cx": 20, "cy": 18, "r": 9.5}, lambda: ellipse_mask(20, 18, 9.5, 9.5)),
    ({"name": "ellipse", "cx": 20, "cy": 18, "rx": 12, "ry": 6, "theta": 30}, lambda: ellipse_mask(20, 18, 12, 6, 30)),
    ({"name": "ellipse", "cx": 20, "cy": 18, "rx": 12, "ry": 6}, lambda: ellipse_mask(20, 18, 12, 6)),
]


@pytest.mark.parametrize(("shape", "expected"), VIA_SHAPES)
def test_shapes_of_via_cover_what_their_definition_says(
    tmp_path: Path, shape: dict[str, Any], expected: Callable[[], Any]
) -> None:
    photo(tmp_path / "a.png")
    via(tmp_path, shape)
    assert guess_format(str(tmp_path)) == "via"
    assert np.array_equal(pixels(one("via", tmp_path, rectangles="masks")), expected())


RECT = {"name": "rect", "x": 5, "y": 5, "width": 20, "height": 10}


@pytest.mark.parametrize(
    ("attributes", "options", "label"),
    [
        ({"damage": "crack"}, {}, "crack"),
        ({"class": "crack", "note": "wet"}, {}, "crack"),
        ({"Label": {"crack": True, "seam": False}}, {}, "crack"),
        ({"note": "wet", "kind": "crack"}, {"attribute": "kind"}, "crack"),
        ({}, {"label": "crack"}, "crack"),
        ({"class": ""}, {"label": "crack"}, "crack"),
        ({"class": 3}, {}, "3"),
    ],
)
def test_the_attribute_that_is_the_class_is_found_or_named(
    tmp_path: Path, attributes: dict[str, Any], options: dict[str, Any], label: str
) -> None:
    photo(tmp_path / "a.png")
    via(tmp_path, RECT, attributes=attributes)
    assert one("via", tmp_path, **options).label == label


@pytest.mark.parametrize(
    ("attributes", "code", "mention"),
    [
        ({}, "category-unknown", "no class"),
        ({"class": {"crack": True, "seam": True}}, "category-unknown", "no class"),
        ({"note": "wet", "kind": "crack"}, "source-unreadable", "`attribute`"),
    ],
)
def test_a_region_of_via_without_one_class_is_an_error(
    tmp_path: Path, attributes: dict[str, Any], code: str, mention: str
) -> None:
    photo(tmp_path / "a.png")
    via(tmp_path, RECT, attributes=attributes)
    _, findings = read("via", tmp_path)
    assert findings[0].code == code
    assert mention in findings[0].message


def test_projects_old_regions_and_csv_of_via_hold_the_same(tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "a.png")
    photo(tmp_path / "photos" / "b.png")
    region = {"shape_attributes": VIA_SHAPES[0][0], "region_attributes": {"class": "crack"}}
    entry = {"filename": "http://host/a.png", "size": 1, "regions": {"0": region}}
    project = {"_via_settings": {}, "_via_img_metadata": {"a1": entry, "b1": {"filename": "b.png", "regions": []}}}
    out = io.StringIO()
    table = csv.writer(out)
    attributes = ["file_attributes", "region_count", "region_id", "region_shape_attributes", "region_attributes"]
    table.writerow(["filename", "file_size", *attributes])
    table.writerow(["a.png", 1, "{}", 1, 0, *map(json.dumps, region.values())])
    table.writerow(["b.png", 1, "{}", 0, 0, "{}", "{}"])
    found = []
    for name, text in (("a.json", json.dumps(project)), ("a.csv", out.getvalue())):
        (tmp_path / name).write_text(text)
        samples, findings = read("via", tmp_path)
        assert findings == []
        found.append([(s.image_id, s.instances) for s in samples])
        (tmp_path / name).unlink()
    assert found[0] == found[1]
    assert [(name, len(instances)) for name, instances in found[0]] == [("photos/a.png", 1), ("photos/b.png", 0)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "#filename,region_count,region_shape_attributes,region_attributes\na.png,1,{,{}\n"),
        ("a.csv", "filename,region_shape_attributes\na.png,{}\n"),
        ("a.json", '{"_via_img_metadata": {"a": {"filename": 3}}}'),
        ("a.json", '{"_via_img_metadata": {"a": {"filename": "a.png", "regions": 7}}}'),
        ("a.json", '{"_via_img_metadata": {"a": '),
    ],
)
def test_files_of_via_that_cannot_be_read_are_one_error(tmp_path: Path, name: str, text: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    samples, findings = read("via", tmp_path)
    assert samples == []
    assert findings[0].code == "source-unreadable"
    assert findings[0].file.endswith(name)


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ({"name": "point", "cx": 1, "cy": 1}, "shape-without-area"),
        ({"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}, "shape-without-area"),
        ({"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}, "polygon-odd-length"),
        ({"name": "polygon"}, "number-invalid"),
        ({"name": "circle", "cx": 1, "cy": 1, "r": float("nan")}, "number-invalid"),
        ({"name": "rect", "x": 5, "y": 5, "width": -3, "height": 2}, "annotation-repaired"),
        ({"name": "cube"}, "shape-unknown"),
        ({}, "shape-unknown"),
    ],
)
def test_what_is_wrong_with_a_region_of_via_is_named(tmp_path: Path, shape: dict[str, Any], code: str) -> None:
    photo(tmp_path / "a.png")
    via(tmp_path, RECT, shape)
    _, findings = read("via", tmp_path)
    if code == "annotation-repaired":
        assert findings == [], "a rectangle may be dragged in any direction"
    else:
        assert [(f.code, f.annotation) for f in findings] == [(code, "region 1")]


def test_boxes_of_createml_are_given_by_their_centre(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    one_box = {"label": "crack", "coordinates": {"x": 20, "y": 15, "width": 10, "height": 6}}
    negative = {"label": "crack", "coordinates": {"x": 1, "y": 1, "width": -1, "height": 1}}
    broken = [{"label": "crack"}, {"coordinates": {}}, negative]
    (tmp_path / "x.json").write_text(json.dumps([{"image": "a.png", "annotations": [one_box, *broken]}]))
    assert guess_format(str(tmp_path)) == "createml"
    (sample,), findings = read("createml", tmp_path)
    assert [(i.label, i.mask, i.box_xyxy) for i in sample.instances] == [("crack", None, (15, 12, 25, 18))]
    assert [f.code for f in findings] == ["box-malformed", "category-unknown", "box-malformed"]


WRITERS: dict[str, Callable[..., None]] = {"cvat": cvat, "label_studio": label_studio, "via": via}


@pytest.mark.parametrize("name", WRITERS)
def test_an_annotation_file_may_be_named_itself_and_images_are_found_by_their_ending(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "deep" / "a.png")
    keys = {"cvat": "name", "label_studio": "image", "via": "filename"}
    WRITERS[name](tmp_path, **{keys[name]: "C:\\work\\deep\\a.png"})
    (file,) = [f for f in tmp_path.iterdir() if f.is_file()]
    (sample,), findings = read(name, file)
    assert (sample.image_id, findings) == ("deep/a.png", [])
    photo(tmp_path / "other" / "b.png")
    _, findings = read(name, tmp_path)
    assert [f.code for f in findings] == ["image-unlisted"]
    (tmp_path / "deep" / "a.png").unlink()
    samples, findings = read(name, tmp_path)
    assert (samples, [f.code for f in findings]) == ([], ["image-missing", "image-unlisted"])


@pytest.mark.parametrize(
    "broken", [7, {"data": 3}, {"data": {}, "annotations": [1]}, {"data": {}, "annotations": [{}]}]
)
def test_a_broken_task_is_named_and_the_others_stay(tmp_path: Path, broken: Any) -> None:
    photo(tmp_path / "a.png")
    label_studio(tmp_path)
    (good,) = json.loads((tmp_path / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps([good, broken]))
    samples, findings = read("label_studio", tmp_path)
    assert [s.image_id for s in samples] == ["a.png"]
    assert [(f.code, f.annotation) for f in findings] == [("row-malformed", "task 2")]


_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    10**400,
    NAN,
    INF,
    "",
    "\x00",
    [],
    {},
    [1],
    [[1, 2]],
    {"x": 1},
    "9" * 5000,
)
_FILES = {
    "via": "via_region_data.json",
    "label_studio": "project-1.json",
    "createml": "_annotations.createml.json",
    "labelme": "1.json",
    "ai2thor": "metadata.json",
}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [p for key, one in inner for p in _places(one, (*path, key))]


@pytest.mark.parametrize("name", _FILES)
def test_whatever_stands_in_a_file_reading_ends_in_findings(tmp_path: Path, name: str) -> None:
    options = EXAMPLES[name](tmp_path)
    file = tmp_path / _FILES[name]
    clean = json.loads(file.read_text())
    draws = np.random.default_rng(0)
    places = _places(clean)
    for _ in range(60):
        content = deepcopy(clean)
        *way, last = places[draws.integers(len(places))]
        at = content
        for key in way:
            at = at[key]
        at[last] = _VALUES[draws.integers(len(_VALUES))]
        file.write_text(json.dumps(content))
        try:
            samples, _ = read_all(open_format(name, options))
        except DataError:
            continue
        assert sum(len(s.instances) for s in samples) <= 3


def test_of_several_annotation_files_the_one_that_is_named_is_read(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for name in ("1.json", "2.json"):
        via(tmp_path, RECT, attributes={"class": name})
        (tmp_path / "via.json").rename(tmp_path / name)
    (sample,), findings = read("via", tmp_path / "2.json")
    assert ([i.label for i in sample.instances], findings) == (["2.json"], [])
    source = open_format("via", {"path": str(tmp_path / "2.json")})
    before = source.signature()
    photo(tmp_path / "b.png")
    assert source.signature() != before
    _, findings = read("via", tmp_path)
    assert [f.code for f in findings] == ["image-name-duplicate", "image-unlisted"]


def test_one_image_is_never_taken_for_two_that_end_alike(tmp_path: Path) -> None:
    photo(tmp_path / "0001.png")
    shape = '<polygon label="crack" points="5,5;25,5;25,15;5,15"/>'
    image = f'<image name="{{}}/0001.png" width="{W}" height="{H}">{shape}</image>'
    text = "".join(image.format(camera) for camera in ("cam1", "cam2"))
    (tmp_path / "annotations.xml").write_text(f"<annotations>{text}</annotations>")
    samples, findings = read("cvat", tmp_path)
    assert samples == []
    assert [f.code for f in findings] == ["image-missing", "image-missing", "image-unlisted"]
    photo(tmp_path / "cam2" / "0001.png")
    samples, _ = read("cvat", tmp_path)
    assert [s.image_id for s in samples] == ["cam2/0001.png"]


SHARED = Path(__file__).parents[3] / "shared" / "data" / "buildings"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real exports lie beside the project only here")
def test_the_via_files_of_a_real_export_hold_the_masks_of_its_coco_files() -> None:
    samples, findings = read("via", SHARED)
    assert {f.code for f in findings} <= {"mask-empty", "annotations-unread"}
    twins = {sample.image_id: sample for sample in read("coco", SHARED)[0]}
    assert len(samples) == len(twins) > 100
    for sample in samples:
        twin = twins[sample.image_id.replace("valid/", "val/")]
        assert sample.split == twin.split
        assert sorted(i.mask.counts for i in sample.instances if i.mask) == sorted(
            i.mask.counts for i in twin.instances if i.mask
        )
