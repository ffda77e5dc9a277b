"""Polygons that leave the image mean what pycocotools makes of them, in every format, and that is reported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from segdist.core import masks, registry
from segdist.core.records import Rle
from segdist.labelling.review import coco, cvat, label_studio
from segdist.labelling.review.returned import Returned
from segdist.reading.coco.results import read_results
from segdist.reading.drawn.shapes import ShapeOptions, drawn_ellipse, drawn_line
from segdist.reading.geometry import mask_from_segmentation
from tests.formats.reading import read_all

HEIGHT, WIDTH = 20, 30
Polygon = list[float]
POLYGONS: dict[str, Polygon] = {
    "less than a pixel to the left": [-0.4, 3, 4, 5, 2.6, 9],
    "a corner above": [5, -7, 12, 6, 3, 8],
    "around a corner of the image": [-9, -4, 11, 2, 4, 13],
    "slanted far to the right": [20, 4, 55, 31, 18, 15],
    "through the whole image": [-29, 7.6, 58, 3, 56, 12.4],
    "a thousandth of a pixel below": [4, 12, 9, 20.001, 2, 16],
}


def drawn(polygon: Polygon) -> np.ndarray:
    """What pycocotools makes of it."""
    return np.asarray(coco_mask.decode(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0]), np.bool_)


far = st.one_of(st.floats(-6, 36), st.floats(-200, 200), st.integers(-3, 33).map(float))


@given(st.lists(st.lists(far, min_size=6, max_size=14), min_size=1, max_size=3))
def test_any_polygon_is_rasterised_as_it_is_and_its_raster_cut(parts: list[Polygon]) -> None:
    parts = [part[: len(part) // 2 * 2] for part in parts]
    expected = np.any([drawn(part) for part in parts], axis=0)
    assert np.array_equal(masks.decode(masks.from_polygons(parts, size_hw=(HEIGHT, WIDTH))), expected)
    repairs: list[str] = []
    xy = np.array([v for part in parts for v in part]).reshape(-1, 2)
    if expected.any():
        found = mask_from_segmentation(parts, size_hw=(HEIGHT, WIDTH), repairs=repairs)
        assert np.array_equal(masks.decode(found), expected)
        assert bool(repairs) == bool((xy < 0).any() or (xy > (WIDTH, HEIGHT)).any())


@pytest.mark.parametrize("far", [1e7, 1e9, 1e12, 1e300])
def test_a_polygon_that_reaches_absurdly_far_takes_no_memory(far: float) -> None:
    band = [-far, 5, far, 5, far, 9, -far, 9]
    expected = np.zeros((HEIGHT, WIDTH), np.bool_)
    expected[5:9] = True
    assert np.array_equal(masks.decode(masks.from_polygons([band], size_hw=(HEIGHT, WIDTH))), expected)
    around = [-far, -far, far, -far, far, far, -far, far]
    assert masks.from_polygons([around], size_hw=(HEIGHT, WIDTH)).area == HEIGHT * WIDTH
    assert masks.from_polygons([[v + 2 * far for v in around]], size_hw=(HEIGHT, WIDTH)).area == 0


@pytest.mark.parametrize(
    ("polygon", "said"),
    [
        ([1, 2, 3, 4], "at least three points, but has 4 numbers"),
        ([1, 2, 3, 4, 5, 6, 7], "but has 7 numbers"),
        ([1, 2, 3, float("nan"), 5, 6], "finite"),
        ([1, 2, 3, float("inf"), 5, 6], "finite"),
        ([0, 0, 1e7, 9] * 4, "an outline of"),
    ],
)
def test_what_is_no_polygon_is_refused(polygon: Polygon, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        masks.from_polygons([polygon], size_hw=(HEIGHT, 10_000_000) if len(polygon) == 16 else (HEIGHT, WIDTH))


def _photo(folder: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "1.png")


def _coco(folder: Path, polygon: Polygon, *, truth: bool = True) -> Path:
    x, y = polygon[::2], polygon[1::2]
    box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    image = {"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}
    shape: dict[str, Any] = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [polygon], "bbox": box}
    content = {"images": [image], "categories": [{"id": 1, "name": "crack"}], "annotations": [shape] * truth}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def _yolo(folder: Path, polygon: Polygon) -> Path:
    for kind in ("images", "labels"):
        (folder / "train" / kind).mkdir(parents=True)
    _photo(folder / "train" / "images")
    shares = [v / (HEIGHT if n % 2 else WIDTH) for n, v in enumerate(polygon)]
    (folder / "train" / "labels" / "1.txt").write_text(" ".join(["0", *map(repr, shares)]))
    (folder / "data.yaml").write_text("train: train/images\nnames: [crack]\n")
    return folder


def _labelme(folder: Path, polygon: Polygon) -> Path:
    points = np.reshape(polygon, (-1, 2)).tolist()
    shape: dict[str, Any] = {"label": "crack", "points": points, "shape_type": "polygon", "flags": {}, "group_id": None}
    content = {"imagePath": "1.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": [shape]}
    (folder / "1.json").write_text(json.dumps(content))
    return folder


def _voc(folder: Path, polygon: Polygon) -> Path:
    """VOC counts pixels from 1."""
    points = "".join(f"<pt><x>{x + 1!r}</x><y>{y + 1!r}</y></pt>" for x, y in np.reshape(polygon, (-1, 2)).tolist())
    (folder / "1.xml").write_text(
        f"<annotation><filename>1.png</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size><object>"
        "<name>crack</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        f"<polygon>{points}</polygon></object></annotation>"
    )
    return folder


def _cvat(folder: Path, polygon: Polygon) -> Path:
    points = ";".join(f"{x!r},{y!r}" for x, y in np.reshape(polygon, (-1, 2)).tolist())
    (folder / "annotations.xml").write_text(
        f'<annotations><version>1.1</version><image id="0" name="1.png" width="{WIDTH}" height="{HEIGHT}">'
        f'<polygon label="crack" points="{points}"/></image></annotations>'
    )
    return folder


def _label_studio(folder: Path, polygon: Polygon) -> Path:
    """In percent of the sides."""
    shares = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in np.reshape(polygon, (-1, 2)).tolist()]
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    region = {"type": "polygonlabels", **size, "value": {"points": shares, "polygonlabels": ["crack"]}}
    tasks = [{"data": {"image": "/data/upload/1.png"}, "annotations": [{"result": [region]}]}]
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder


def _via(folder: Path, polygon: Polygon) -> Path:
    shape = {"name": "polygon", "all_points_x": polygon[::2], "all_points_y": polygon[1::2]}
    region = {"shape_attributes": shape, "region_attributes": {"class": "crack"}}
    entry = {"filename": "1.png", "size": 99, "regions": [region], "file_attributes": {}}
    (folder / "via_region_data.json").write_text(json.dumps({"1.png99": entry}))
    return folder


WRITERS: dict[str, Callable[[Path, Polygon], Path]] = {
    "coco": _coco,
    "yolo": _yolo,
    "labelme": _labelme,
    "voc": _voc,
    "cvat": _cvat,
    "label_studio": _label_studio,
    "via": _via,
}


@pytest.mark.parametrize("polygon", POLYGONS.values(), ids=POLYGONS)
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_them_as_pycocotools_and_says_so(tmp_path: Path, name: str, polygon: Polygon) -> None:
    _photo(tmp_path)
    module = registry.load("formats", name)
    samples, findings = read_all(module.Format(module.Options(path=str(WRITERS[name](tmp_path, polygon)))))
    (instance,) = (i for sample in samples for i in sample.instances)
    assert instance.mask is not None
    assert np.array_equal(masks.decode(instance.mask), drawn(polygon))
    (found,) = (f for f in findings if f.code == "annotation-repaired")
    assert "outside the image" in found.message


@pytest.mark.parametrize("polygon", POLYGONS.values(), ids=POLYGONS)
def test_results_are_read_alike(tmp_path: Path, polygon: Polygon) -> None:
    truth = _coco(tmp_path, polygon, truth=False) / "annotations.json"
    result = {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": [polygon]}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    ((instance,),) = read_results(tmp_path / "results.json", truth).found.values()
    assert instance.mask is not None
    assert np.array_equal(masks.decode(instance.mask), drawn(polygon))


@pytest.mark.parametrize("polygon", POLYGONS.values(), ids=POLYGONS)
def test_reviews_of_every_tool_are_read_alike(tmp_path: Path, polygon: Polygon) -> None:
    content = json.loads((_coco(tmp_path, polygon) / "annotations.json").read_text())
    points = ";".join(f"{x!r},{y!r}" for x, y in np.reshape(polygon, (-1, 2)).tolist())
    xml = (
        f'<annotations><image name="1.png" width="{WIDTH}" height="{HEIGHT}">'
        f'<polygon label="crack" points="{points}"/></image></annotations>'
    )
    shares = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in np.reshape(polygon, (-1, 2)).tolist()]
    region = {
        "type": "polygonlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {"points": shares, "polygonlabels": ["crack"]},
    }
    tasks = [{"data": {"file_name": "1.png"}, "annotations": [{"result": [region]}]}]
    returned = Returned(tmp_path, {"1.png": (HEIGHT, WIDTH)})
    coco.read(content, returned)
    (tmp_path / "cvat.xml").write_text(xml)
    cvat.read(tmp_path / "cvat.xml", returned)
    label_studio.read(tasks, returned)
    found: list[Rle] = [one.mask for one in returned.drawn]
    assert len(found) == 3
    assert all(np.array_equal(masks.decode(rle), drawn(polygon)) for rle in found)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0])
@pytest.mark.parametrize(
    ("centre", "radii"),
    [((2.0, 20.0), (6.0, 3.0)), ((8.0, 20.0), (6.0, 3.0)), ((20.0, 20.0), (60.0, 3.0)), ((20.0, 20.0), (1e100, 1e100))],
)
def test_an_ellipse_that_its_image_cuts_says_so(centre: Any, radii: Any, degrees: float) -> None:
    repairs: list[str] = []
    drawn_ellipse(centre, radii, (40, 40), repairs, degrees)
    ys, xs = np.mgrid[-200:240, -200:240] + 0.5
    turn = np.radians(degrees)
    along = (xs - centre[0]) * np.cos(turn) + (ys - centre[1]) * np.sin(turn)
    across = (ys - centre[1]) * np.cos(turn) - (xs - centre[0]) * np.sin(turn)
    covered = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    leaves = (covered & ((xs < 0) | (xs > 40) | (ys < 0) | (ys > 40))).any()
    assert bool(repairs) == leaves
    assert all("ellipse reaches" in repair for repair in repairs)


def test_a_line_that_its_image_cuts_says_so_and_one_inside_does_not() -> None:
    options, repairs = ShapeOptions(line_width=3), list[str]()
    drawn_line([(3.0, 3.0), (30.0, 30.0)], (40, 40), options, repairs)
    assert repairs == []
    drawn_line([(3.0, 3.0), (60.0, 30.0)], (40, 40), options, repairs)
    assert repairs == ["the line reaches 20 pixels outside the image and was cut at its border"]
