"""The queue as Label Studio tasks with brush predictions, and brush and polygon regions from its JSON export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from segdist.labelling.review.queue import Doubt, Task
from segdist.labelling.review.returned import Returned, drawn_mask
from segdist.reading.drawn.brush import decode_brush, encode_brush
from segdist.reading.drawn.label_studio import corners, latest

FILE, CONFIG = "label_studio.json", "label_studio_config.xml"
_REGION = "object-"


def write(folder: Path, tasks: Sequence[Task], classes: Sequence[str]) -> None:
    """Write the labelling interface and the tasks; images are served from `images/` as local files."""
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in classes)
    (folder / CONFIG).write_text(
        '<View><Image name="image" value="$image" zoom="true"/>'
        f'<BrushLabels name="mask" toName="image">{labels}</BrushLabels></View>\n'
    )
    (folder / FILE).write_text(json.dumps([_task(task) for task in tasks]))


def read(content: Any, returned: Returned) -> None:
    """The regions of each task's latest annotation; tasks that nobody has submitted are passed over.

    Raises:
        DataError: it is no export of Label Studio, or a region does not fit its image.
    """
    for place, task in enumerate(content, 1):
        with returned.naming(f"task {place}"):
            if not isinstance(task, dict) or "data" not in task:
                returned.others["entry that is no task of Label Studio's JSON export"] += 1
                continue
            regions = latest(task)
            if regions is None:
                returned.others["task that nobody has submitted"] += 1
                continue
            data, regions = task["data"], list(regions)
            found = returned.image(data.get("file_name") or data["image"])
        for number, region in enumerate(regions if found else (), 1):
            assert found
            with returned.naming(f"region {region.get('id') if isinstance(region, dict) else number} of {found[0]}"):
                _read_region(region, *found, returned)


def _task(task: Task) -> dict[str, object]:
    height, width = task.sample.size_hw
    results = [_region(d, width, height) for d in task.doubts if d.mask is not None and d.mask.area]
    score = float(np.mean([d.instance.score for d in task.doubts]))
    return {
        "data": {"image": f"/data/local-files/?d=images/{task.file_name}", "file_name": task.file_name},
        "predictions": [{"model_version": task.sample.source, "score": score, "result": results}],
    }


def _region(doubt: Doubt, width: int, height: int) -> dict[str, object]:
    assert doubt.mask is not None
    value = {"format": "rle", "rle": encode_brush(doubt.mask), "brushlabels": [doubt.instance.label]}
    return {
        "id": f"{_REGION}{doubt.number}",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": doubt.instance.score,
        "value": value,
    }


def _read_region(region: Any, file_name: str, size_hw: tuple[int, int], returned: Returned) -> None:
    kind, number = str(region["type"]), str(region.get("id", "")).removeprefix(_REGION)
    if kind == "relation":
        return
    value = region["value"]
    label = value[kind][0] if value.get(kind) else ""
    if kind not in ("brushlabels", "polygonlabels") or not label:
        returned.skip_shape(f"region of type {kind}", file_name, label, number)
        return
    returned.image(file_name, (region["original_height"], region["original_width"]))
    if kind == "brushlabels":
        rle = decode_brush(value["rle"], size_hw)
    else:  # in percent of the sides
        flat = [v for point in corners(value, size_hw) for v in point]
        rle = drawn_mask([flat], size_hw=size_hw)
    returned.add(file_name, label, rle, number)
