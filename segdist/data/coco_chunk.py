"""The annotations of some images of a COCO file, parsed and checked together.

Most annotations are plain: whole polygons inside the image, run lengths that fill it, boxes that fit. Those are checked
and rasterised in bulk. Whatever is not plain goes through `coco_instances.instance_of`, which knows all that can be
wrong; the quick way only ever accepts what that function would accept without a word.
"""

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segdist.data.coco_index import parse
from segdist.data.coco_instances import STALE_BOX, instance_of
from segdist.data.codes import finding
from segdist.data.collected import identity
from segdist.data.geometry import crosses_itself
from segdist.data.json_lists import SEPARATORS, Spans
from segdist.data.run_lengths import measure
from segdist.records import Finding, Instance, Rle, Sample

MOST_ANNOTATIONS = 1000
"""More in one image are worth a warning."""
Report = Callable[[Finding], None]


class _Rle(msgspec.Struct):
    size: tuple[int, int]
    counts: str


class _Annotation(msgspec.Struct):
    """An annotation of the usual types; anything else is not plain."""

    id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] | _Rle | None = None
    iscrowd: int = 0
    score: float = 1.0


_ONE, _MANY = msgspec.json.Decoder(_Annotation), msgspec.json.Decoder(list[_Annotation])


@dataclass(frozen=True)
class CocoChunk:
    """Some images of a COCO file, ready to be read by any process.

    Attributes:
        uri: of the JSON file, for messages.
        path: of a local copy.
        names: class name by category id, as text.
        expects_mask: whether a missing mask is worth a warning.
        bare: the samples without their instances.
        spans: where the annotations of each image lie.
    """

    uri: str
    path: str
    names: Mapping[str, str]
    expects_mask: bool
    bare: tuple[Sample, ...]
    spans: tuple[Spans, ...]

    def samples(self, report: Report) -> Iterator[Sample]:
        """The samples with their instances; what is wrong is reported."""
        texts = self._texts()
        parsed = _decode([t for own in texts for t in own])
        plain = iter(self._plain(parsed, [s.size_hw for s, own in zip(self.bare, texts, strict=True) for _ in own]))
        for sample, own in zip(self.bare, texts, strict=True):
            found = [quick if (quick := next(plain)) else self._slow(text, sample, report) for text in own]
            if len(found) > MOST_ANNOTATIONS:
                report(
                    finding("image-crowded", f"it has {len(found)} annotations", file=self.uri, image=sample.image_id)
                )
            yield _with(sample, self._once(sample, own, found, report))

    def _texts(self) -> list[list[bytes]]:
        with open(self.path, "rb") as file:  # noqa: PTH123 - one descriptor for many small reads
            number = file.fileno()
            return [
                [os.pread(number, high - low, low).lstrip(SEPARATORS) for low, high in spans.tolist()]
                for spans in self.spans
            ]

    def _slow(self, text: bytes, sample: Sample, report: Report) -> Instance | None:
        """Everything that can be wrong, one annotation at a time."""
        annotation = parse(self.uri, text)[-1]
        found, notes = instance_of(annotation, self.names, size_hw=sample.size_hw, expects_mask=self.expects_mask)
        name = str(annotation.get("id"))
        for code, severity, message in notes:
            report(finding(code, message, file=self.uri, image=sample.image_id, annotation=name, severity=severity))
        return found

    def _once(
        self, sample: Sample, texts: Sequence[bytes], found: Sequence[Instance | None], report: Report
    ) -> Iterator[Instance]:
        """The instances without those that say again what another one says."""
        seen: set[Hashable] = set()
        for text, instance in zip(texts, found, strict=True):
            if instance is None:
                continue
            what = identity(instance)
            if what in seen:
                name = str(parse(self.uri, text)[-1].get("id"))
                message = f"the image has the same {instance.label} twice; the second is left out"
                report(finding("annotation-duplicate", message, file=self.uri, image=sample.image_id, annotation=name))
                continue
            seen.add(what)
            yield instance

    def _plain(
        self, parsed: Sequence[_Annotation | None], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[Instance | None]:
        """The instance of each plain annotation; None for the others."""
        found: list[Instance | None] = [None] * len(parsed)
        labels = [
            self.names.get(str(a.category_id), "") if a and a.iscrowd in (0, 1) and 0 <= a.score <= 1 else ""
            for a in parsed
        ]
        by_size: dict[tuple[int, int], list[int]] = {}
        for number, (label, size_hw) in enumerate(zip(labels, sizes_hw, strict=True)):
            if label:
                by_size.setdefault(size_hw, []).append(number)
        for size_hw, numbers in by_size.items():
            chosen: list[_Annotation] = [parsed[n] for n in numbers]  # type: ignore[misc]
            quick = self._of_size(chosen, [labels[n] for n in numbers], size_hw)
            for number, instance in zip(numbers, quick, strict=True):
                found[number] = instance
        return found

    def _of_size(
        self, annotations: Sequence[_Annotation], labels: Sequence[str], size_hw: tuple[int, int]
    ) -> Iterator[Instance | None]:
        """Annotations of images of one size, checked and rasterised together."""
        boxes_xyxy = _boxes(annotations)
        fits = _inside(boxes_xyxy, size_hw)
        rles = _Plain(annotations, np.flatnonzero(fits).tolist(), size_hw).rles
        good = _agree(boxes_xyxy, rles)
        for annotation, label, box_xyxy, fit, rle, agrees in zip(
            annotations, labels, boxes_xyxy.tolist(), fits.tolist(), rles, good, strict=True
        ):
            if rle is not None and agrees:
                mask = Rle(size_hw, rle["counts"])
                yield Instance(label, mask, tuple(box_xyxy), annotation.score, is_crowd=annotation.iscrowd == 1)
            elif fit and not self.expects_mask and not annotation.segmentation:
                yield Instance(label, None, tuple(box_xyxy), annotation.score, is_crowd=annotation.iscrowd == 1)
            else:
                yield None


def _decode(texts: Sequence[bytes]) -> list[_Annotation | None]:
    try:
        found = _MANY.decode(b"[" + b",".join(texts) + b"]")
        if len(found) == len(texts):
            return list(found)
    except (msgspec.DecodeError, msgspec.ValidationError):
        pass
    return [_decode_one(text) for text in texts]


def _decode_one(text: bytes) -> _Annotation | None:
    try:
        return _ONE.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _boxes(annotations: Sequence[_Annotation]) -> NDArray[np.float64]:
    """(N, 4) xyxy."""
    boxes = np.fromiter(chain.from_iterable(a.bbox for a in annotations), np.float64, 4 * len(annotations))
    boxes = boxes.reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _inside(boxes_xyxy: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes are finite, of some size, and within the image."""
    x1, y1, x2, y2 = boxes_xyxy.T
    return (x1 >= 0) & (y1 >= 0) & (x2 > x1) & (y2 > y1) & (x2 <= size_hw[1]) & (y2 <= size_hw[0])


class _Plain:
    """The run lengths of plain annotations of images of one size; None for all others."""

    def __init__(self, annotations: Sequence[_Annotation], numbers: Sequence[int], size_hw: tuple[int, int]) -> None:
        self._annotations, self._size_hw = annotations, size_hw
        self.rles: list[dict[str, Any] | None] = [None] * len(annotations)
        written = [n for n in numbers if type(annotations[n].segmentation) is _Rle]
        drawn = [n for n in numbers if type(annotations[n].segmentation) is list and not annotations[n].iscrowd]
        self._copy(written)
        self._rasterise([n for n in drawn if annotations[n].segmentation])

    def _copy(self, numbers: Sequence[int]) -> None:
        """Take over compressed run lengths that fill the image exactly; pycocotools must not see others."""
        found: list[Any] = [self._annotations[n].segmentation for n in numbers]
        counts = [rle.counts.encode() for rle in found]
        measured = measure(counts)
        fits = (measured.pixels == self._size_hw[0] * self._size_hw[1]) & (measured.areas > 0)
        for n, rle, text, fit in zip(numbers, found, counts, fits.tolist(), strict=True):
            if fit and rle.size == self._size_hw:
                self.rles[n] = {"size": rle.size, "counts": text}

    def _rasterise(self, numbers: Sequence[int]) -> None:
        """Rasterise polygons that have three points and more, all inside the image, and do not cross themselves."""
        parts: list[Any] = [part for n in numbers for part in self._annotations[n].segmentation]  # type: ignore[union-attr]
        owner = [n for n in numbers for _ in self._annotations[n].segmentation]  # type: ignore[union-attr]
        odd = {n for n, part in zip(owner, parts, strict=True) if len(part) < 6 or len(part) % 2}
        if odd:
            return self._rasterise([n for n in numbers if n not in odd])
        if not parts:
            return None
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        values = np.fromiter(chain.from_iterable(parts), np.float64, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        fits = _polygons_fit(values, starts, self._size_hw)
        if not fits.all():
            outside = {n for n, fit in zip(owner, fits.tolist(), strict=True) if not fit}
            return self._rasterise([n for n in numbers if n not in outside])
        made = coco_mask.frPyObjects(np.split(values, starts[1:]), *self._size_hw)
        areas = np.fromiter(map(coco_mask.area, made), np.int64, len(made))
        crossing = {owner[k] for k in np.flatnonzero(crosses_itself(values, starts, areas))}
        by_owner: dict[int, list[dict[str, Any]]] = {}
        for n, rle, area in zip(owner, made, areas.tolist(), strict=True):
            if area:
                by_owner.setdefault(n, []).append(rle)
        for n, own in by_owner.items():
            if n not in crossing:
                self.rles[n] = own[0] if len(own) == 1 else coco_mask.merge(own)
        return None


def _polygons_fit(
    values: NDArray[np.float64], starts: NDArray[np.int64], size_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which polygons, given as x, y, x, y ... one behind the other, lie inside the image."""
    points_N2 = values.reshape(-1, 2)
    inside = (points_N2 >= 0).all(axis=1) & (points_N2 <= (size_hw[1], size_hw[0])).all(axis=1)  # false for NaN
    return np.logical_and.reduceat(inside, starts // 2)


def _agree(boxes_xyxy: NDArray[np.float64], rles: Sequence[dict[str, Any] | None]) -> list[bool]:
    """Whether each box lies where its mask does; False where there is no mask."""
    found = np.zeros(len(rles), np.bool_)
    there = [n for n, rle in enumerate(rles) if rle is not None]
    if there:
        tight = np.asarray(coco_mask.toBbox([rles[n] for n in there]), np.float64).reshape(-1, 4)
        tight[:, 2:] += tight[:, :2]
        boxes = boxes_xyxy[there]
        sides = np.minimum(boxes[:, 2:], tight[:, 2:]) - np.maximum(boxes[:, :2], tight[:, :2])
        common = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0)
        whole = _size(boxes) + _size(tight) - common
        found[there] = common >= STALE_BOX * whole
    return found.tolist()


def _size(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])


def _with(sample: Sample, instances: Iterator[Instance]) -> Sample:
    """The sample with its instances; quicker than `replace`, which looks at every field."""
    return Sample(
        sample.image_id, sample.image_uri, sample.size_hw, tuple(instances), sample.split, sample.group, sample.source
    )
