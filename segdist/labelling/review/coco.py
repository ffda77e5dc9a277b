"""The queue as COCO JSON, and masks from COCO JSON of any tool: run lengths or polygons."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segdist.core import masks
from segdist.core.records import Instance
from segdist.labelling.review.queue import Task
from segdist.labelling.review.returned import Returned, drawn_mask
from segdist.reading.coco.index import key_of

FILE = "coco.json"


def write(folder: Path, tasks: Sequence[Task], classes: Sequence[str]) -> None:
    """Write `coco.json`; the id of an annotation, and its attribute `object`, are its number in the queue."""
    ids = {name: number for number, name in enumerate(classes, 1)}
    images, annotations = [], []
    for image_id, task in enumerate(tasks, 1):
        height, width = task.sample.size_hw
        images.append({"id": image_id, "file_name": task.file_name, "height": height, "width": width})
        for doubt in task.doubts:
            shown = Instance(doubt.instance.label, doubt.mask, doubt.instance.box_xyxy, doubt.instance.score)
            entry = shown.to_coco(number=doubt.number, image_id=image_id, category_id=ids[shown.label])
            annotations.append({**entry, "attributes": {"object": doubt.number}})
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / FILE).write_text(json.dumps(content, indent=1))


def read(content: Any, returned: Returned) -> None:
    """The masks of a COCO file.

    Raises:
        DataError: it is no COCO, or a mask does not fit its image.
    """
    with returned.naming("a COCO file"):
        images = {key_of(image["id"]): image for image in content["images"]}
        names = {key_of(category["id"]): category["name"] for category in content["categories"]}
        annotations = list(content["annotations"])
    found = {}
    for key, image in images.items():
        with returned.naming(f"image {key}"):
            found[key] = returned.image(image["file_name"], (image.get("height"), image.get("width")))
    for place, entry in enumerate(annotations, 1):
        with returned.naming(f"annotation {entry.get('id') if isinstance(entry, dict) else place}"):
            image_key, category_key = key_of(entry["image_id"]), key_of(entry["category_id"])
            if image_key not in found or category_key not in names:
                raise ValueError(f"there is no image with id {image_key!r:.40}, or no category {category_key!r:.40}")
            if image := found[image_key]:
                _annotation(entry, names[category_key], *image, returned)


def _annotation(
    entry: dict[str, Any], label: str, file_name: str, size_hw: tuple[int, int], returned: Returned
) -> None:
    number = (entry.get("attributes") or {}).get("object")
    segmentation = entry.get("segmentation")
    if not segmentation or segmentation == [[]]:
        kind = "set of keypoints" if entry.get("keypoints") else "box without a mask"
        returned.skip_shape(kind, file_name, label, number)
    elif isinstance(segmentation, dict):
        returned.add(file_name, label, masks.from_coco(segmentation, size_hw=size_hw), number)
    else:
        returned.add(file_name, label, drawn_mask(segmentation, size_hw=size_hw), number)
