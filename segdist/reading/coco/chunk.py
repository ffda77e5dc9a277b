"""The annotations of some images of a COCO file, parsed and checked together.

Most annotations are plain: whole polygons inside the image, run lengths that fill it, boxes that fit. Those are checked
and rasterised in bulk. Whatever is not plain goes through `coco_instances.instance_of`, which knows all that can be
wrong; the quick way only ever accepts what that function would accept without a word.
"""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segdist.core import masks
from segdist.core.records import CocoRle, Instance, ReportFinding, Rle, Sample
from segdist.core.run_lengths import measure
from segdist.core.text import counted
from segdist.reading.coco.index import key_of, parse
from segdist.reading.coco.instances import STALE_BOX, area_fits, instance_of
from segdist.reading.coco.json_lists import SEPARATORS, Spans
from segdist.reading.codes import finding
from segdist.reading.collected import identity
from segdist.reading.garbage_collection import gc_disabled
from segdist.reading.geometry import crosses_itself

MOST_ANNOTATIONS = 1000
"""More in one image are worth a warning."""
_PIECE = 1 << 23
"""Bytes of annotations that are decoded together."""


class _Rle(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: str


class _Annotation(msgspec.Struct, gc=False):
    """An annotation of the usual types; anything else is not plain."""

    id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] | _Rle | None = None
    iscrowd: int = 0
    score: float = 1.0
    area: float | None = None


_ONE, _MANY = msgspec.json.Decoder(_Annotation), msgspec.json.Decoder(list[_Annotation])


@dataclass(frozen=True)
class CocoChunk:
    """Some images of a COCO file, ready to be read by any process.

    Attributes:
        uri: of the JSON file, for messages.
        path: of a local copy.
        names: class name by category id, as text.
        expects_mask: whether a missing mask is worth a warning.
        fit_boxes: whether boxes are cut at the image's border and taken from the mask where they lie beside it.
        bare: the samples without their instances.
        spans: where the annotations of each image lie.
    """

    uri: str
    path: str
    names: Mapping[str, str]
    expects_mask: bool
    fit_boxes: bool
    bare: tuple[Sample, ...]
    spans: tuple[Spans, ...]

    @property
    def image_ids(self) -> list[str]:
        """The ids of the images."""
        return [sample.image_id for sample in self.bare]

    def samples(self, report: ReportFinding) -> Iterator[Sample]:
        """The samples with their instances; what is wrong is reported."""
        texts = self._texts()
        plain = iter(self._plain(texts))
        for sample, own in zip(self.bare, texts, strict=True):
            found = [quick if (quick := next(plain)) else self._slow(text, sample, report) for text in own]
            if len(found) > MOST_ANNOTATIONS:
                message = f"it has {counted(len(found), 'annotation')}"
                report(finding("image-crowded", message, file=self.uri, image=sample.image_id))
            yield _with(sample, self._once(sample, own, found, report))

    def _texts(self) -> list[list[bytes]]:
        with open(self.path, "rb") as file:  # noqa: PTH123 - one descriptor for many small reads
            number = file.fileno()
            return [
                [os.pread(number, high - low, low).lstrip(SEPARATORS) for low, high in spans.tolist()]
                for spans in self.spans
            ]

    def _slow(self, text: bytes, sample: Sample, report: ReportFinding) -> Instance | None:
        """Everything that can be wrong, one annotation at a time."""
        annotation = parse(self.uri, text)[-1]
        how = {"expects_mask": self.expects_mask, "fit_boxes": self.fit_boxes}
        found, notes = instance_of(annotation, self.names, size_hw=sample.size_hw, **how)
        name = str(annotation.get("id"))
        for code, severity, message in notes:
            report(finding(code, message, file=self.uri, image=sample.image_id, annotation=name, severity=severity))
        return found

    def _once(
        self, sample: Sample, texts: Sequence[bytes], found: Sequence[Instance | None], report: ReportFinding
    ) -> tuple[Instance, ...]:
        """The instances without those that say again what another one says."""
        there = tuple(i for i in found if i is not None)
        if len({i.box_xyxy for i in there}) == len(there):
            return there  # as nearly always
        kept: dict[Hashable, Instance] = {}
        for text, instance in zip(texts, found, strict=True):
            if instance is None:
                continue
            what = identity(instance)
            if what in kept:
                name = str(parse(self.uri, text)[-1].get("id"))
                message = f"the image has the same {instance.label} twice; the second is left out"
                report(finding("annotation-duplicate", message, file=self.uri, image=sample.image_id, annotation=name))
            kept.setdefault(what, instance)
        return tuple(kept.values())

    def _plain(self, texts: Sequence[Sequence[bytes]]) -> list[Instance | None]:
        """The instance of each plain annotation; None for the others."""
        flat = [text for own in texts for text in own]
        size_of = [sample.size_hw for sample, own in zip(self.bare, texts, strict=True) for _ in own]
        found: list[Instance | None] = []
        with gc_disabled():
            for start, stop in _pieces(flat):
                found += self._piece(flat[start:stop], size_of[start:stop])
        return found

    def _piece(self, texts: Sequence[bytes], size_of: Sequence[tuple[int, int]]) -> list[Instance | None]:
        """The same for as many as are in memory together."""
        parsed = _decode(texts)
        found: list[Instance | None] = [None] * len(parsed)
        by_size: dict[tuple[int, int], list[int]] = {}
        for n, size_hw in enumerate(size_of):
            by_size.setdefault(size_hw, []).append(n)
        for size_hw, numbers in by_size.items():
            chosen = {n: a for n in numbers if (a := parsed[n]) and self._is_plain(a)}
            for n, instance in zip(chosen, self._of_size(list(chosen.values()), size_hw), strict=True):
                found[n] = instance
        return found

    def _is_plain(self, annotation: _Annotation) -> bool:
        is_usual = annotation.iscrowd in (0, 1) and 0 <= annotation.score <= 1
        return is_usual and annotation.category_id in self._names

    @cached_property
    def _names(self) -> dict[int, str]:
        """Class name by category id where it is a whole number."""
        found = ((key_of(key), key, name) for key, name in self.names.items() if name)
        return {number: name for number, key, name in found if type(number) is int and str(number) == key}

    def _of_size(self, annotations: Sequence[_Annotation], size_hw: tuple[int, int]) -> Iterator[Instance | None]:
        """Annotations of images of one size, checked and rasterised together."""
        boxes_xyxy = _boxes(annotations)
        fits = _inside(boxes_xyxy, size_hw)
        plain = _Plain(annotations, np.flatnonzero(fits).tolist(), size_hw)
        good = _agree(boxes_xyxy, plain.rles)
        boxes = map(tuple, boxes_xyxy.tolist())
        columns = (annotations, boxes, fits.tolist(), plain.rles, plain.areas, good)
        for annotation, box_xyxy, fit, rle, area, agrees in zip(*columns, strict=True):
            stated = annotation.area
            if stated is not None and not area_fits(stated, area if agrees else 0, box_xyxy):
                yield None
                continue
            if agrees:
                mask = Rle.measured(size_hw, rle["counts"], area)
            elif fit and not self.expects_mask and not annotation.segmentation:
                mask = None
            else:
                yield None
                continue
            label = self._names[annotation.category_id]
            yield Instance(label, mask, box_xyxy, annotation.score, is_crowd=annotation.iscrowd == 1)


def _pieces(texts: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Ranges of texts that are decoded together: a number of two characters takes 32 bytes."""
    start, size = 0, 0
    for n, text in enumerate(texts):
        size += len(text)
        if size > _PIECE:
            yield start, n + 1
            start, size = n + 1, 0
    if start < len(texts):
        yield start, len(texts)


def _decode(texts: Sequence[bytes]) -> list[_Annotation | None]:
    try:
        found = _MANY.decode(b"[" + b",".join(texts) + b"]")
        if len(found) == len(texts):
            return list(found)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        pass
    return [_decode_one(text) for text in texts]


def _decode_one(text: bytes) -> _Annotation | None:
    try:
        return _ONE.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
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
        self.rles: list[CocoRle | None] = [None] * len(annotations)
        self.areas = [0] * len(annotations)
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
        for n, rle, text, fit, area in zip(numbers, found, counts, fits.tolist(), measured.areas.tolist(), strict=True):
            if fit and rle.size == self._size_hw:
                self.rles[n], self.areas[n] = {"size": rle.size, "counts": text}, area

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
        fits &= masks.outline_lengths(values, starts) <= masks.MOST_OUTLINE
        if not fits.all():
            outside = {n for n, fit in zip(owner, fits.tolist(), strict=True) if not fit}
            return self._rasterise([n for n in numbers if n not in outside])
        made = coco_mask.frPyObjects(parts, *self._size_hw)
        areas = [int(coco_mask.area(rle)) for rle in made]
        crossing = {owner[k] for k in np.flatnonzero(crosses_itself(values, starts, np.array(areas)))}
        by_owner: dict[int, list[CocoRle]] = {}
        for n, rle, area in zip(owner, made, areas, strict=True):
            if area:
                by_owner.setdefault(n, []).append(rle)
                self.areas[n] = area
        for n, own in by_owner.items():
            if n not in crossing:
                self.rles[n] = masks.merged(own)
                self.areas[n] = self.areas[n] if len(own) == 1 else int(coco_mask.area(self.rles[n]))
        return None


def _polygons_fit(
    values: NDArray[np.float64], starts: NDArray[np.int64], size_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which polygons, given as x, y, x, y ... one behind the other, lie inside the image."""
    points_N2 = values.reshape(-1, 2)
    inside = (points_N2 >= 0).all(axis=1) & (points_N2 <= (size_hw[1], size_hw[0])).all(axis=1)  # false for NaN
    return np.logical_and.reduceat(inside, starts // 2)


def _agree(boxes_xyxy: NDArray[np.float64], rles: Sequence[CocoRle | None]) -> list[bool]:
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


def _with(sample: Sample, instances: tuple[Instance, ...]) -> Sample:
    """The sample with its instances; quicker than `replace`, which looks at every field."""
    return Sample(
        sample.image_id, sample.image_uri, sample.size_hw, instances, sample.split, sample.group, sample.source
    )
