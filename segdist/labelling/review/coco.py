"""The queue as COCO JSON, and masks from COCO JSON of any tool: run lengths or polygons."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from segdist import masks
from segdist.data.coco.export import annotation
from segdist.errors import DataError
from segdist.labelling.review.queue import Drawn, Task
from segdist.records import Instance, Rle

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
            entry = annotation(shown, number=doubt.number, image_id=image_id, category_id=ids[shown.label])
            annotations.append({**entry, "attributes": {"object": doubt.number}})
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / FILE).write_text(json.dumps(content, indent=1))


def read(content: Any) -> Iterator[Drawn]:
    """The masks of a COCO file; annotations with a box alone say nothing about pixels and are passed over.

    Raises:
        DataError: it is no COCO, or a mask does not fit its image.
    """
    try:
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        for entry in content["annotations"]:
            image = images[entry["image_id"]]
            rle = _mask(entry.get("segmentation"), (int(image["height"]), int(image["width"])))
            if rle is not None:
                number = int((entry.get("attributes") or {}).get("object") or 0)
                yield Drawn(PurePosixPath(image["file_name"]).name, names[entry["category_id"]], rle, number)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"A COCO file must hold images, categories and annotations that fit, but: {error!r}") from error


def _mask(segmentation: Any, size_hw: tuple[int, int]) -> Rle | None:
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return masks.from_coco(segmentation, size_hw=size_hw)
    return masks.from_polygons(segmentation, size_hw=size_hw)
