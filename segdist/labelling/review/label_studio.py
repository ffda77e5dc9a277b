"""The queue as Label Studio tasks with brush predictions, and brush and polygon regions from its JSON export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from segdist import masks
from segdist.labelling.review.queue import Doubt, Task
from segdist.labelling.review.returned import Returned
from segdist.records import Rle

FILE, CONFIG = "label_studio.json", "label_studio_config.xml"
_REGION = "object-"
_SIZES = (3, 4, 8, 16)
"""Bits of the lengths of runs."""
_MOST_BRUSH = 1 << 21
"""Bytes of a brush region: a run takes at least two."""


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
            done = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
            if not done:
                returned.others["task that nobody has submitted"] += 1
                continue
            latest = max(done, key=lambda a: str(a.get("updated_at") or a.get("created_at") or ""))
            data, regions = task["data"], list(latest["result"])
            found = returned.image(data.get("file_name") or data["image"])
        for number, region in enumerate(regions if found else (), 1):
            assert found
            with returned.naming(f"region {region.get('id') if isinstance(region, dict) else number} of {found[0]}"):
                _read_region(region, *found, returned)


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
    stream = _Bits(content)
    total, word = stream.number(32), stream.number(5) + 1
    if total != size_hw[0] * size_hw[1] * 4:
        raise ValueError(f"a brush region must have 4 x {size_hw[0]} x {size_hw[1]} values, but has {total}")
    if word != 8:
        raise ValueError(f"a brush region must have values of 8 bits, but has some of {word}")
    sizes = [stream.number(4) + 1 for _ in range(4)]
    alpha: NDArray[np.bool_] = np.zeros(total // 4, np.bool_)
    done = 0
    while done < total:
        repeats = stream.number(1)
        stop = min(done + 1 + stream.number(sizes[stream.number(2)]), total)
        pixels = slice(done // 4, stop // 4)  # alpha is the last value of each pixel
        if repeats:
            alpha[pixels] = stream.number(8) > 0
        else:
            alpha[pixels] = stream.values(stop - done)[3 - done % 4 :: 4] > 0
        done = stop
    return masks.encode(alpha.reshape(size_hw))


class _Bits:
    """Numbers of some bits each, one behind the other."""

    def __init__(self, content: Sequence[int]) -> None:
        if len(content) > _MOST_BRUSH:
            raise ValueError(f"a brush region must have at most {_MOST_BRUSH:,} bytes, but has {len(content):,}")
        self._bits = np.unpackbits(np.array(content, np.uint8))
        self._text = (self._bits + np.uint8(ord("0"))).tobytes()
        self._place = 0

    def number(self, bits: int) -> int:
        """The next number of so many bits."""
        return int(self._text[self._take(bits) : self._place], 2)

    def values(self, count: int) -> NDArray[np.uint8]:
        """The next bytes."""
        return np.packbits(self._bits[self._take(8 * count) : self._place])

    def _take(self, bits: int) -> int:
        start, self._place = self._place, self._place + bits
        if self._place > len(self._bits):
            raise ValueError("the run lengths of a brush region end in the middle")
        return start


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


def _read_region(region: Any, file_name: str, size_hw: tuple[int, int], returned: Returned) -> None:
    kind, number = str(region["type"]), str(region.get("id", "")).removeprefix(_REGION)
    if kind == "relation":
        return
    value = region["value"]
    label = value[kind][0] if value.get(kind) else ""
    if kind not in ("brushlabels", "polygonlabels") or not label:
        returned.pass_over(f"region of type {kind}", file_name, label, number)
        return
    returned.image(file_name, (region["original_height"], region["original_width"]))
    if kind == "brushlabels":
        rle = decode_brush(value["rle"], size_hw)
    else:  # in percent of the sides
        shares = [float(v) / 100 for point in value["points"] for v in point]
        rle = masks.from_polygons([[v * size_hw[1 - n % 2] for n, v in enumerate(shares)]], size_hw=size_hw)
    returned.add(file_name, label, rle, number)
