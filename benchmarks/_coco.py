"""A COCO file of drawn outlines, as large as wanted: ten annotations an image, half polygons, half run lengths."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

ANNOTATIONS_PER_IMAGE = 10
HEIGHT, WIDTH = 480, 640
CLASSES = ("crack", "spall", "rust", "stain", "window")


def write_coco(path: Path, images: int, *, seed: int = 0) -> None:
    """A COCO file of drawn outlines; its images need not exist. Annotations lie in random order, as in COCO's own."""
    rng = np.random.default_rng(seed)
    rles = [_rle(rng) for _ in range(2000)]
    order = rng.permutation(images * ANNOTATIONS_PER_IMAGE)
    with path.open("w") as file:
        file.write('{"info": {"description": "drawn"}, "licenses": [{"id": 1, "name": "CC0"}], "images": [')
        _write(file, (_image(i) for i in range(images)))
        file.write('], "annotations": [')
        _write(file, (_annotation(int(i), rng, rles) for i in order))
        file.write('], "categories": ')
        json.dump([{"id": k + 1, "name": name, "supercategory": "defect"} for k, name in enumerate(CLASSES)], file)
        file.write("}")


def _write(file: Any, entries: Iterator[dict[str, Any]]) -> None:
    for number, entry in enumerate(entries):
        file.write((", " if number else "") + json.dumps(entry))


def _image(number: int) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number:012d}.jpg", "height": HEIGHT, "width": WIDTH, "license": 1}


def _annotation(number: int, rng: np.random.Generator, rles: list[dict[str, Any]]) -> dict[str, Any]:
    polygon_xy = _outline(rng)
    segmentation: Any = [polygon_xy.ravel().tolist()]
    low, size = polygon_xy.min(axis=0), np.ptp(polygon_xy, axis=0)
    box, area = [*low.tolist(), *size.tolist()], float(size.prod())
    if number % 2:
        chosen = rles[number % len(rles)]
        segmentation, box, area = chosen["segmentation"], chosen["bbox"], chosen["area"]
    return {
        "id": number + 1,
        "image_id": number // ANNOTATIONS_PER_IMAGE,
        "category_id": number % len(CLASSES) + 1,
        "segmentation": segmentation,
        "area": area,
        "bbox": box,
        "iscrowd": 0,
    }


def _outline(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(12, 2) the corners of a star-shaped outline inside the image."""
    radius = rng.uniform(8, 60)
    centre = rng.uniform((radius, radius), (WIDTH - radius, HEIGHT - radius))
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    reach = radius * rng.uniform(0.6, 1.0, 12)
    return np.round(centre + np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None], 2)


def _rle(rng: np.random.Generator) -> dict[str, Any]:
    found = coco_mask.merge(coco_mask.frPyObjects([_outline(rng).ravel().tolist()], HEIGHT, WIDTH))
    box, area = coco_mask.toBbox(found).tolist(), int(coco_mask.area(found))
    return {
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()},
        "bbox": box,
        "area": area,
    }
