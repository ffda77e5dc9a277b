"""Every dataset format keeps the promises of `plugins.DatasetFormat`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segdist.converting.convert import convert
from segdist.core import registry
from segdist.core.masks import encode
from segdist.testing.formats import FormatContract


def _coco(folder: Path) -> dict[str, Any]:
    rle = encode(np.eye(24, 32))
    images, annotations = [], []
    for number in range(3):
        Image.fromarray(np.full((24, 32, 3), 80 * number, np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 24, "width": 32})
        mask = {"size": [24, 32], "counts": rle.counts.decode()}
        if number:
            box = [0, 0, 24, 24]
            one = {"id": number, "image_id": number, "category_id": 5, "bbox": box, "area": rle.area}
            annotations.append({**one, "segmentation": mask})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "crack"}]}
    (folder / "coco.json").write_text(json.dumps(content))
    return {"path": str(folder)}


def _photos(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        Image.fromarray(np.full((24, 32, 3), 80 * number, np.uint8)).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(3)]


def _yolo(folder: Path) -> dict[str, Any]:
    _photos(folder / "images")
    (folder / "labels").mkdir()
    for number, line in enumerate(["", "0 0.5 0.5 0.9 0.5 0.9 0.9\n", "0 0.1 0.1 0.9 0.1 0.9 0.9\n"]):
        (folder / "labels" / f"{number}.txt").write_text(line)
    (folder / "data.yaml").write_text("names: [crack]\n")
    return {"path": str(folder)}


def _png_masks(folder: Path) -> dict[str, Any]:
    _photos(folder / "images")
    (folder / "masks").mkdir()
    for number in range(3):
        Image.fromarray(np.eye(24, 32, dtype=np.uint8) * number).save(folder / "masks" / f"{number}.png")
    return {"path": str(folder), "kind": "class_id", "classes": {1: "crack", 2: "seam"}}


def _paligemma(folder: Path) -> dict[str, Any]:
    suffixes = ["", "<loc0100><loc0200><loc0500><loc0700> crack", "<loc0000><loc0000><loc1023><loc1023> crack"]
    rows = [
        {"image": name, "prefix": "detect crack", "suffix": suffix}
        for name, suffix in zip(_photos(folder), suffixes, strict=True)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"path": str(folder)}


def _images(folder: Path) -> dict[str, Any]:
    _photos(folder)
    return {"path": str(folder)}


def _segdist(folder: Path) -> dict[str, Any]:
    convert(_coco(folder)["path"], str(folder / "out"), to="segdist", format_name="coco")
    return {"path": str(folder / "out")}


def _hf_objects(folder: Path) -> dict[str, Any]:
    convert(_coco(folder)["path"], str(folder / "out"), to="hf_objects", format_name="coco")
    return {"path": str(folder / "out")}


def _voc(folder: Path) -> dict[str, Any]:
    (folder / "Annotations").mkdir()
    corners = "<xmin>3</xmin><ymin>4</ymin><xmax>9.5</xmax><ymax>20</ymax>"
    for number, name in enumerate(_photos(folder / "JPEGImages")):
        listed = f"<object><name>crack</name><bndbox>{corners}</bndbox></object>" if number else ""
        text = f"<annotation><filename>{name}</filename><size><width>32</width><height>24</height></size>{listed}"
        (folder / "Annotations" / f"{number}.xml").write_text(text + "</annotation>")
    return {"path": str(folder)}


def _labelme(folder: Path) -> dict[str, Any]:
    for number, name in enumerate(_photos(folder)):
        shape = {"label": "crack", "points": [[2, 3], [20, 3], [20, 15]], "group_id": None, "shape_type": "polygon"}
        content = {"version": "5.5.0", "shapes": [shape] * bool(number), "imagePath": name, "imageData": None}
        (folder / f"{number}.json").write_text(json.dumps(content))
    return {"path": str(folder)}


def _ai2thor(folder: Path) -> dict[str, Any]:
    colours_HWC = np.zeros((24, 32, 3), np.uint8)
    colours_HWC[4:20, 8:30] = (107, 160, 213)
    (folder / "instances").mkdir()
    for name in _photos(folder / "frames"):
        Image.fromarray(colours_HWC).save(folder / "instances" / name)
    table = {"objects": [], "colors": [{"name": "Apple|+00.1|+00.2|+00.3", "color": [107, 160, 213]}]}
    (folder / "metadata.json").write_text(json.dumps(table))
    return {"path": str(folder)}


def _cvat(folder: Path) -> dict[str, Any]:
    shape = '<polygon label="crack" points="2.0,3.0;20.0,3.0;20.0,15.0" occluded="0" z_order="0"/>'
    images = "".join(
        f'<image id="{n}" name="{name}" width="32" height="24">{shape * bool(n)}</image>'
        for n, name in enumerate(_photos(folder))
    )
    (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{images}</annotations>")
    return {"path": str(folder)}


def _label_studio(folder: Path) -> dict[str, Any]:
    value = {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": ["crack"]}
    region = {"id": "a", "type": "polygonlabels", "original_width": 32, "original_height": 24, "value": value}
    tasks = [
        {"id": n, "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"}, "annotations": [{"result": [region] * bool(n)}]}
        for n, name in enumerate(_photos(folder))
    ]
    (folder / "project-1.json").write_text(json.dumps(tasks))
    return {"path": str(folder)}


def _via(folder: Path) -> dict[str, Any]:
    shape = {"name": "polygon", "all_points_x": [2, 20, 20], "all_points_y": [3, 3, 15]}
    region = {"shape_attributes": shape, "region_attributes": {"class": "crack"}}
    content = {
        f"{name}99": {"filename": name, "size": 99, "regions": [region] * bool(n), "file_attributes": {}}
        for n, name in enumerate(_photos(folder))
    }
    (folder / "via_region_data.json").write_text(json.dumps(content))
    return {"path": str(folder)}


def _createml(folder: Path) -> dict[str, Any]:
    one = {"label": "crack", "coordinates": {"x": 12, "y": 10, "width": 8, "height": 6}}
    content = [{"image": name, "annotations": [one] * bool(n)} for n, name in enumerate(_photos(folder))]
    (folder / "_annotations.createml.json").write_text(json.dumps(content))
    return {"path": str(folder)}


EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ai2thor": _ai2thor,
    "coco": _coco,
    "createml": _createml,
    "cvat": _cvat,
    "hf_objects": _hf_objects,
    "images": _images,
    "label_studio": _label_studio,
    "labelme": _labelme,
    "paligemma": _paligemma,
    "png_masks": _png_masks,
    "segdist": _segdist,
    "via": _via,
    "synthetic": lambda _: {"scene": "cracks", "count": 3, "size": 48},
    "voc": _voc,
    "yolo": _yolo,
}
"""For each format, a way to make a small source: three images, at least one with an instance where it has labels."""


class TestFormats(FormatContract):
    examples = EXAMPLES
    without_labels = ("images",)
    without_folder = ("segdist", "synthetic")


def test_every_format_has_an_example() -> None:
    assert sorted(EXAMPLES) == registry.names("formats"), "draw a small source, so that the contract is tested"
