"""Which found object is which true one: COCO's greedy matching of one class in one image.

Written here, on the overlaps that pycocotools computes on run lengths, because libraries that match want the whole
data set at once: image by image, memory stays flat, workers can share a split, and any group of images or resampled
split has its average precision. The tests compare with pycocotools and faster-coco-eval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segdist.core import masks
from segdist.core.records import Instance, Rle
from segdist.metrics.boundaries import band
from segdist.metrics.pair import Pair

OverlapKind = Literal["mask", "box", "boundary"]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""The IoU from which on a found object is a true one."""
AREAS: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10),
}  # fmt: skip
"""Sizes of objects in pixels, as COCO has them."""
MOST = 100
"""Objects of one class and image that count, best scores first."""


@dataclass(frozen=True)
class RankedMatches:
    """The found objects of one class in one image, best first, and what they are.

    Attributes:
        scores: (D,) of the found objects.
        hit: (areas, thresholds, D) whether it is a true one.
        ignored: (areas, thresholds, D) whether it does not count: matched to a crowd, or of another size.
        true: (areas,) number of true objects that count.
    """

    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    true: NDArray[np.int64]


def matches(pair: Pair, label: str, kind: OverlapKind) -> RankedMatches:
    """COCO's matching of one class: found objects in order of their scores, each to the best true one left.

    Crowds may be matched many times and count neither way; so do, for masks and boundaries, true boxes without a mask.
    """
    return pair.once((label, kind), lambda: _matches(pair, label, kind))  # calibration and average precision ask


def _matches(pair: Pair, label: str, kind: OverlapKind) -> RankedMatches:
    truths = [i for i in pair.truths if i.label == label]
    found = [i for i in pair.found if i.label == label]
    order = np.argsort([-i.score for i in found], kind="mergesort")[:MOST]
    found = [found[k] for k in order]
    crowd = np.array([i.is_crowd or (i.mask is None and kind != "box") for i in truths], np.bool_)
    overlaps = _overlaps(pair, found, truths, crowd, kind)
    true_areas, found_areas = _areas(truths, "mask"), _areas(found, kind)
    hit = np.zeros((len(AREAS), len(THRESHOLDS), len(found)), np.bool_)
    ignored = np.zeros_like(hit)
    true = np.zeros(len(AREAS), np.int64)
    for a, (low, high) in enumerate(AREAS.values()):
        left_out = crowd | (true_areas < low) | (true_areas > high)
        hit[a], ignored[a] = _match(overlaps, left_out, crowd)
        ignored[a] |= ~hit[a] & ((found_areas < low) | (found_areas > high))[None]
        hit[a] &= ~ignored[a]
        true[a] = int((~left_out).sum())
    return RankedMatches(np.array([i.score for i in found], np.float64), hit, ignored, true)


def overlap_matrix(found: Sequence[Rle], true: Sequence[Rle], crowd: Sequence[bool] | None = None) -> NDArray[Any]:
    """(found, true) IoU of masks; with a crowd, the intersection over the found area."""
    if not found or not true:
        return np.zeros((len(found), len(true)))
    flags = [int(c) for c in crowd] if crowd is not None else [0] * len(true)
    return np.asarray(coco_mask.iou([r.coco for r in found], [r.coco for r in true], flags), np.float64)


def box_matrix(
    found: Sequence[Instance], true: Sequence[Instance], crowd: Sequence[bool] | None = None
) -> NDArray[Any]:
    """(found, true) IoU of boxes; with a crowd, the intersection over the found area."""
    if not found or not true:
        return np.zeros((len(found), len(true)))
    flags = [int(c) for c in crowd] if crowd is not None else [0] * len(true)
    return np.asarray(coco_mask.iou(_xywh(found), _xywh(true), flags), np.float64)


def _overlaps(
    pair: Pair, found: Sequence[Instance], truths: Sequence[Instance], crowd: NDArray[np.bool_], kind: OverlapKind
) -> NDArray[np.generic]:
    if kind == "box":
        return box_matrix(found, truths, list(crowd))
    found_rles = [i.mask or masks.empty(pair.size_hw) for i in found]
    true_rles = [i.mask or masks.from_box(i.box_xyxy, size_hw=pair.size_hw) for i in truths]
    overlaps = overlap_matrix(found_rles, true_rles, list(crowd))
    if kind == "boundary":
        # The smaller of mask and boundary IoU counts; below the lowest threshold it makes no difference.
        near = np.argwhere((overlaps >= THRESHOLDS[0] - 1e-9) & ~crowd)
        found_bands, true_bands = (
            {k: Band.of(rles[k], pixels=pair.boundary_pixels()) for k in np.unique(near[:, side])}
            for side, rles in enumerate((found_rles, true_rles))
        )
        for d, g in near:
            overlaps[d, g] = min(overlaps[d, g], found_bands[d].iou(true_bands[g]))
    return overlaps


@dataclass(frozen=True, eq=False)
class Band:
    """The band along the boundary of an object, in the cut around it.

    Attributes:
        cut: rows and columns of the image.
        inside_HW: the pixels there.
        area: number of pixels set.
    """

    cut: masks.Cut
    inside_HW: masks.Mask
    area: int

    @classmethod
    def of(cls, rle: Rle, *, pixels: int) -> "Band":
        """That of a mask; `pixels` wide."""
        cut = masks.tight_cut(rle)
        inside_HW = band(masks.decode_cut(rle, cut, margin=1), pixels)[1:-1, 1:-1]
        return cls(cut, inside_HW, int(np.count_nonzero(inside_HW)))

    def iou(self, other: "Band") -> float:
        """Boundary IoU (Cheng et al. 2021); NaN where both are empty."""
        spans = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(self.cut, other.cut, strict=True)]
        common = 0
        if all(span.start < span.stop for span in spans):
            common = int(np.count_nonzero(self._part(spans) & other._part(spans)))
        whole = self.area + other.area - common
        return common / whole if whole else float("nan")

    def _part(self, spans: Sequence[slice]) -> masks.Mask:
        """The pixels in rows and columns of the image, which lie in the cut."""
        return self.inside_HW[
            tuple(slice(s.start - c.start, s.stop - c.start) for s, c in zip(spans, self.cut, strict=True))
        ]


def band_iou(a: Rle, b: Rle, *, pixels: int) -> float:
    """Boundary IoU of two masks (Cheng et al. 2021); NaN where both are empty."""
    return Band.of(a, pixels=pixels).iou(Band.of(b, pixels=pixels))


def _match(
    overlaps: NDArray[Any], left_out: NDArray[np.bool_], crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(thresholds, D) whether each found object was matched, and whether to one that is left out."""
    matched = np.zeros((len(THRESHOLDS), len(overlaps)), np.bool_)
    ignored = np.zeros_like(matched)
    taken = np.zeros((len(THRESHOLDS), len(left_out)), np.bool_)
    rows = np.arange(len(THRESHOLDS))
    for d, row in enumerate(overlaps):
        if not len(row) or row.max() < THRESHOLDS[0]:
            continue
        may = (row[None] >= THRESHOLDS[:, None]) & (~taken | crowd[None])
        counts = may & ~left_out[None]
        # Those that count come first; among equals COCO takes the last one.
        choice = np.where(counts.any(axis=1, keepdims=True), counts, may)
        best = len(row) - 1 - np.argmax(np.where(choice, row[None], -1.0)[:, ::-1], axis=1)
        some = choice.any(axis=1)
        taken[rows[some], best[some]] = True
        matched[:, d] = some
        ignored[:, d] = some & left_out[best]
    return matched, ignored


def _areas(instances: Sequence[Instance], kind: OverlapKind) -> NDArray[np.float64]:
    """In pixels: of the mask where there is one and masks are compared, otherwise of the box."""
    return np.array([_area(i, kind) for i in instances], np.float64)


def _area(instance: Instance, kind: OverlapKind) -> float:
    if kind != "box" and instance.mask is not None:
        return float(instance.mask.area)
    x1, y1, x2, y2 = instance.box_xyxy
    return (x2 - x1) * (y2 - y1)


def _xywh(instances: Sequence[Instance]) -> NDArray[np.float64]:
    boxes = np.array([i.box_xyxy for i in instances], np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
