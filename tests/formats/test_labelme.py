"""LabelMe: every kind of shape, images inside and beside the file, groups, and what goes wrong."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from segdist.core.masks import decode
from segdist.core.records import Finding, Sample, Severity
from segdist.formats.labelme import Format, Options
from segdist.reading.guess import guess_format
from tests.formats.reading import read_all

SIZE_HW = (40, 50)
SQUARE = [[5, 5], [15, 5], [15, 15], [5, 15]]


def png(values: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


PHOTO = png(np.zeros((*SIZE_HW, 3), np.uint8))


def shape(kind: str = "polygon", points: Any = SQUARE, label: Any = "crack", **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **fields}


def write(folder: Path, *shapes: Any, image: bool = True, **fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if image:
        (folder / "a.png").write_bytes(PHOTO)
    content: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "a.png",
        "imageData": None,
    }
    content |= {"imageData": None, "imageHeight": SIZE_HW[0], "imageWidth": SIZE_HW[1], **fields}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def read(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    return read_all(Format(Options(path=str(folder), **options)))


def mask_of(sample: Sample) -> np.ndarray[Any, Any]:
    (instance,) = sample.instances
    assert instance.mask is not None
    return decode(instance.mask)


def test_a_polygon_covers_what_it_encloses(tmp_path: Path) -> None:
    assert guess_format(str(write(tmp_path, shape()))) == "labelme"
    (sample,), findings = read(tmp_path)
    assert findings == []
    assert (sample.image_id, sample.size_hw) == ("a.png", SIZE_HW)
    expected = np.zeros(SIZE_HW, np.bool_)
    expected[5:15, 5:15] = True
    assert np.array_equal(mask_of(sample), expected)


def test_a_circle_has_the_area_of_its_radius(tmp_path: Path) -> None:
    (sample,), findings = read(write(tmp_path, shape("circle", [[25, 20], [25, 30]])))
    assert findings == []
    angles = np.linspace(0, 2 * np.pi, 400)
    outline = np.stack([20 + 10 * np.sin(angles), 25 + 10 * np.cos(angles)], axis=1) - 0.5
    drawn = polygon2mask(SIZE_HW, outline)
    assert (mask_of(sample) ^ drawn).sum() <= 6
    assert abs(mask_of(sample).sum() - np.pi * 100) < 8


def test_a_rectangle_is_a_box_or_on_request_a_filled_one_however_it_was_dragged(tmp_path: Path) -> None:
    write(tmp_path, shape("rectangle", [[20.5, 30], [10, 8]]))
    (sample,), findings = read(tmp_path)
    assert findings == []
    assert [(i.mask, i.box_xyxy) for i in sample.instances] == [(None, (10, 8, 20.5, 30))]
    (sample,), _ = read(tmp_path, rectangles="masks")
    assert mask_of(sample).sum() == 10 * 22


def test_lines_are_left_out_unless_they_have_a_width(tmp_path: Path) -> None:
    write(tmp_path, shape("linestrip", [[5, 10], [30, 10], [30, 35]]), shape("point", [[3, 3]], label="mark"))
    (sample,), findings = read(tmp_path)
    assert sample.instances == ()
    assert [(f.code, f.severity) for f in findings] == [("shape-without-area", Severity.SKIPPED)] * 2
    (sample,), findings = read(tmp_path, line_width=3)
    assert len(findings) == 1
    assert mask_of(sample)[9:12, 6:29].all()
    assert mask_of(sample)[12:34, 29:32].all()
    assert 140 < mask_of(sample).sum() < 165


def test_a_mask_shape_is_put_at_its_corner_and_clipped(tmp_path: Path) -> None:
    inner = np.zeros((6, 8), np.uint8)
    inner[1:5, 1:7] = 255
    encoded = base64.b64encode(png(inner)).decode()
    (sample,), findings = read(write(tmp_path, shape("mask", [[12, 30], [19, 35]], mask=encoded)))
    assert findings == []
    assert np.array_equal(mask_of(sample)[30:36, 12:20], inner > 0)
    (sample,), findings = read(write(tmp_path, shape("mask", [[45, 37], [52, 42]], mask=encoded)))
    assert [f.code for f in findings] == ["annotation-repaired"]
    assert mask_of(sample).sum() == 4 * 2


def test_shapes_of_one_group_and_label_are_parts_of_one_instance(tmp_path: Path) -> None:
    other = [[x + 20, y + 20] for x, y in SQUARE]
    shapes = [shape(group_id=3), shape(points=other, group_id=3), shape(points=other, label="seam", group_id=3)]
    (sample,), findings = read(write(tmp_path, *shapes))
    assert findings == []
    assert [(i.label, i.mask.area, i.box_xyxy) for i in sample.instances if i.mask] == [
        ("crack", 200, (5, 5, 35, 35)),
        ("seam", 100, (25, 25, 35, 35)),
    ]


def test_an_image_inside_the_file_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    write(tmp_path, shape(), image=False, imageData=base64.b64encode(PHOTO).decode(), imagePath="..\\photos\\b.png")
    (sample,), findings = read(tmp_path)
    assert findings == []
    assert sample.image_id == "b.png"
    assert Format(Options(path=str(tmp_path))).image_bytes(sample) == PHOTO


@pytest.mark.parametrize("written", ["../images/a.png", "..\\images\\a.png"])
def test_a_path_to_a_folder_beside_is_followed_but_never_out_of_the_source(tmp_path: Path, written: str) -> None:
    write(tmp_path / "in" / "json", shape(), image=False, imagePath=written)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(PHOTO)
    _, findings = read(tmp_path / "in" / "json")
    assert [f.code for f in findings] == ["image-missing"]
    (tmp_path / "in" / "images").mkdir()
    (tmp_path / "in" / "images" / "a.png").write_bytes(PHOTO)
    (sample,), findings = read(tmp_path / "in")
    assert findings == []
    assert sample.image_id == "images/a.png"


def test_images_that_nobody_annotated_are_named_and_not_taken_for_empty_ones(tmp_path: Path) -> None:
    write(tmp_path, shape())
    (tmp_path / "b.png").write_bytes(PHOTO)
    samples, findings = read(tmp_path)
    assert [s.image_id for s in samples] == ["a.png"]
    assert [f.code for f in findings] == ["image-unlisted"]
    assert "b.png" in findings[0].message


@pytest.mark.parametrize(
    ("broken", "code", "severity"),
    [
        (shape(points=[[1, 2], [3, 4]]), "polygon-too-short", Severity.SKIPPED),
        (shape(points=[[1, 2], [3, float("nan")], [5, 6]]), "number-invalid", Severity.ERROR),
        (shape(points=[[1, 2, 3], [3, 4], [5, 6]]), "polygon-odd-length", Severity.ERROR),
        (shape(points="no"), "number-invalid", Severity.ERROR),
        (shape(points=[[100, 100], [120, 100], [120, 120]]), "polygon-outside", Severity.SKIPPED),
        (shape(points=[[5, 5], [1e300, 5], [5, 15]]), "annotation-repaired", Severity.REPAIRED),
        (shape(points=[["5", "5"], ["15", "5"], ["15", "15"]]), "annotation-repaired", Severity.REPAIRED),
        (shape("rectangle", [[1, 2], [3, 4], [5, 6]]), "box-malformed", Severity.ERROR),
        (shape("circle", [[1, 2]]), "shape-unknown", Severity.ERROR),
        (shape("spiral"), "shape-unknown", Severity.ERROR),
        (shape("mask", [[1, 2], [3, 4]], mask="!"), "mask-unreadable", Severity.ERROR),
        (shape("mask", [[1, 2], [3, 4]]), "mask-unreadable", Severity.ERROR),
        (shape("circle", [[-90, -90], [-90, -80]]), "mask-empty", Severity.SKIPPED),
        (shape(label=None), "category-unknown", Severity.ERROR),
        (shape(label="__ignore__"), "class-ignored", Severity.SKIPPED),
        ("no object", "annotation-malformed", Severity.ERROR),
        (shape(points=[[20, 20], [30, 20], [30, 30]]), "annotation-duplicate", Severity.SKIPPED),
    ],
)
def test_what_is_wrong_with_a_shape_is_named_and_the_others_stay(
    tmp_path: Path, broken: Any, code: str, severity: Severity
) -> None:
    (sample,), findings = read(write(tmp_path, shape(points=[[20, 20], [30, 20], [30, 30]]), broken))
    assert [(f.code, f.severity, f.annotation) for f in findings] == [(code, severity, "shape 2")]
    assert len(sample.instances) == 1 + (severity is Severity.REPAIRED)


@pytest.mark.parametrize("text", ['{"shapes": [', '{"shapes": []', '[{"shapes": []}]', '{"shapes": [], "x": '])
def test_a_file_that_is_damaged_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / "good", shape())
    (tmp_path / "b.json").write_text(text)
    samples, findings = read(tmp_path)
    assert len(samples) == 1
    assert [f.code for f in findings] == ["row-malformed"]
    assert findings[0].file.endswith("b.json")


def test_files_of_old_versions_without_a_size_or_kind_of_shape_are_read(tmp_path: Path) -> None:
    old = {"label": "crack", "points": SQUARE, "line_color": None, "fill_color": None}
    (sample,), findings = read(write(tmp_path, old, imageHeight=None, imageWidth=None, lineColor=[0, 255, 0, 128]))
    assert findings == []
    assert sample.size_hw == SIZE_HW
    assert mask_of(sample).sum() == 100


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("C:\\photos\\cam2\\0001.png", "images/cam2/0001.png"),
        ("/home/someone/cam1/0001.png", "images/cam1/0001.png"),
        ("../images/cam1/0001.png", "images/cam1/0001.png"),
        ("CAM2/0001.PNG", "images/cam2/0001.png"),
        ("cam3/0001.png", ""),
    ],
)
def test_an_image_in_another_folder_is_found_by_the_end_of_its_path(tmp_path: Path, written: str, meant: str) -> None:
    for camera in ("cam1", "cam2"):
        (tmp_path / "images" / camera).mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(tmp_path / "images" / camera / "0001.png")
    (tmp_path / "labels").mkdir()
    shape = {"label": "crack", "points": [[1, 1], [6, 1], [6, 5]], "shape_type": "polygon"}
    content = {"shapes": [shape], "imagePath": written, "imageHeight": 7, "imageWidth": 9}
    (tmp_path / "labels" / "a.json").write_text(json.dumps(content))
    samples, findings = read_all(Format(Options(path=str(tmp_path))))
    assert [sample.image_id for sample in samples] == [meant] * bool(meant)
    assert ("image-missing" in {f.code for f in findings}) == (not meant)
