"""The queue as Label Studio tasks with brush predictions, and brush and polygon regions from its JSON export."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from segdist import masks
from segdist.errors import DataError
from segdist.labelling.review.queue import Doubt, Drawn, Task
from segdist.records import Rle

FILE, CONFIG = "label_studio.json", "label_studio_config.xml"
_REGION = "object-"
_SIZES = (3, 4, 8, 16)
"""Bits of the lengths of runs."""


def write(folder: Path, tasks: Sequence[Task], classes: Sequence[str]) -> None:
    """Write the labelling interface and the tasks; images are served from `images/` as local files."""
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in classes)
    (folder / CONFIG).write_text(
        '<View><Image name="image" value="$image" zoom="true"/>'
        f'<BrushLabels name="mask" toName="image">{labels}</BrushLabels></View>\n'
    )
    (folder / FILE).write_text(json.dumps([_task(task) for task in tasks]))


def read(content: Any) -> Iterator[Drawn]:
    """The regions of each task's latest annotation; tasks that nobody has submitted are passed over.

    Raises:
        DataError: it is no export of Label Studio, or a region does not fit its image.
    """
    try:
        for task in content:
            done = [a for a in task.get("annotations", ()) if not a.get("was_cancelled")]
            if done:
                latest = max(done, key=lambda a: str(a.get("updated_at") or a.get("created_at") or ""))
                yield from _regions(task["data"], latest["result"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"A Label Studio export must hold tasks with regions that fit, but: {error!r}") from error


def encode_brush(rle: Rle) -> list[int]:
    """The bytes of a brush region: the packed run lengths of thi.ng/rle-pack over RGBA pixels row by row.

    32 bits of length, 5 of the word's size, four times 4 of the sizes of lengths; then runs: a bit that says whether
    one value repeats, two bits that choose the length's size, the length less one, and the value.
    """
    flat = masks.decode(rle).ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=len(flat)) * 4
    bits = [f"{len(flat) * 4:032b}{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        for done in range(0, length, 1 << _SIZES[-1]):
            part = min(length - done, 1 << _SIZES[-1]) - 1
            kind = next(k for k, size in enumerate(_SIZES) if part < 1 << size)
            bits.append(f"1{kind:02b}{part:0{_SIZES[kind]}b}{255 if flat[start] else 0:08b}")
    text = "".join(bits)
    packed = np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0"))
    return [int(v) for v in packed]


def decode_brush(content: Sequence[int], size_hw: tuple[int, int]) -> Rle:
    """The mask of a brush region: pixels whose alpha is set.

    Raises:
        ValueError: the bytes end too early, or are of another size.
    """
    bits = "".join(map(str, np.unpackbits(np.asarray(content, np.uint8)).tolist()))
    place = 0

    def read_bits(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("the run lengths of a brush region end in the middle")
        place += count
        return int(bits[place - count : place], 2)

    total, word = read_bits(32), read_bits(5) + 1
    if total != size_hw[0] * size_hw[1] * 4:
        raise ValueError(f"a brush region must have 4 x {size_hw[0]} x {size_hw[1]} values, but has {total}")
    sizes = [read_bits(4) + 1 for _ in range(4)]
    values: NDArray[np.uint32] = np.zeros(total, np.uint32)
    done = 0
    while done < total:
        repeats = read_bits(1)
        stop = min(done + 1 + read_bits(sizes[read_bits(2)]), total)
        values[done:stop] = read_bits(word) if repeats else [read_bits(word) for _ in range(stop - done)]
        done = stop
    return masks.encode(values.reshape(*size_hw, 4)[..., 3] > 0)


def _task(task: Task) -> dict[str, Any]:
    height, width = task.sample.size_hw
    results = [_region(d, width, height) for d in task.doubts if d.mask is not None and d.mask.area]
    score = float(np.mean([d.instance.score for d in task.doubts]))
    return {
        "data": {"image": f"/data/local-files/?d=images/{task.file_name}", "file_name": task.file_name},
        "predictions": [{"model_version": task.sample.source, "score": score, "result": results}],
    }


def _region(doubt: Doubt, width: int, height: int) -> dict[str, Any]:
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


def _regions(data: Any, results: Any) -> Iterator[Drawn]:
    name = data.get("file_name") or PurePosixPath(str(data["image"])).name
    for region in results:
        kind, value = region["type"], region["value"]
        if kind not in ("brushlabels", "polygonlabels"):
            continue
        size_hw = int(region["original_height"]), int(region["original_width"])
        if kind == "brushlabels":
            rle = decode_brush(value["rle"], size_hw)
        else:  # in percent of the sides
            points = np.asarray(value["points"], np.float64) / 100 * (size_hw[1], size_hw[0])
            rle = masks.from_polygons([points.ravel().tolist()], size_hw=size_hw)
        number = str(region.get("id", "")).removeprefix(_REGION)
        yield Drawn(name, value[kind][0], rle, int(number) if number.isdigit() else 0)
