"""What came back of a data set that was written in another format: counted and measured, instance by instance."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

import numpy as np

from segdist.converting.losses import ReportedLosses
from segdist.converting.sample_store import SampleStore
from segdist.core import masks
from segdist.core.json_values import JsonDict
from segdist.core.records import Instance, Sample
from segdist.core.text import counted
from segdist.metrics.matching import box_matrix
from segdist.metrics.objects import one_to_one

Pair = tuple[Instance, Instance | None]
"""What was written, and what came back of it."""
SAME_BOX = 1e-3
"""Pixels that a side of the same box moves by at most."""
MOST_SHOWN = 12
"""Failures that fit an error of one screen."""


@dataclass
class RoundTrip:
    """Truth against what was read back.

    Attributes:
        images: images written.
        images_back: of those, images read back with the same size and split.
        instances: instances written.
        instances_back: of those, instances that came back with their label.
        masks: masks written.
        masks_exact: of those, masks that came back to the pixel.
        mask_iou_min: smallest intersection over union of a mask and what came back; 0 where nothing did, NaN for none.
        mask_iou_mean: mean of the same.
        boxes_exact: instances whose box came back within a thousandth of a pixel.
        box_shift_max: largest distance in pixels that a side of a box moved by.
        extra: instances read back that nothing was written for.
        failures: what did not come back though the format holds it: of each image, in words. The first ones.
        failed: number of images with a failure.
    """

    images: int = 0
    images_back: int = 0
    instances: int = 0
    instances_back: int = 0
    masks: int = 0
    masks_exact: int = 0
    boxes_exact: int = 0
    box_shift_max: float = 0.0
    extra: int = 0
    failures: list[str] = field(default_factory=list)
    failed: int = 0
    _ious: list[float] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        """Whether every image, instance, mask and box came back as it was."""
        same = (self.images, self.instances, self.masks, self.instances)
        return same == (self.images_back, self.instances_back, self.masks_exact, self.boxes_exact) and not self.extra

    def as_json(self) -> JsonDict:
        """The figures; null where there is nothing to measure."""
        ious = self._ious
        measured = {
            "mask_iou_min": round(min(ious), 6) if ious else None,
            "mask_iou_mean": round(float(np.mean(ious)), 6) if ious else None,
        }
        plain = {k: v for k, v in asdict(self).items() if not k.startswith("_") and k not in ("failures", "failed")}
        return {"exact": self.is_exact, **plain, "box_shift_max": round(self.box_shift_max, 4), **measured}

    def add(self, written: Sample, back: Sample | None, reported: ReportedLosses) -> None:
        """Count one image; what did not come back, and was not reported as a loss, is a failure."""
        is_back = back is not None and (back.size_hw, back.split) == (written.size_hw, written.split)
        left = list(back.instances) if back and back.size_hw == written.size_hw else []
        pairs = _paired(written.instances, left)
        self.images += 1
        self.images_back += is_back
        for pair in pairs:
            self._count(*pair)
        self.extra += len(left)
        wrong = (
            list(_unreported(pairs, len(left), written.image_id, reported))
            if is_back
            else ["it is not there as it was"]
        )
        if wrong:
            self.failed += 1
            self.failures += [f"{written.image_id}: {', '.join(wrong)}"] * (len(self.failures) < MOST_SHOWN)

    def _count(self, written: Instance, back: Instance | None) -> None:
        self.instances += 1
        self.instances_back += back is not None
        if written.mask is not None:
            self.masks += 1
            exact = back is not None and back.mask == written.mask
            self.masks_exact += exact
            self._ious.append(1.0 if exact else _mask_iou(written, back))
        if back is not None:
            shift = _shift(written, back)
            self.boxes_exact += shift < SAME_BOX
            self.box_shift_max = max(self.box_shift_max, shift)


def compare(written: SampleStore, back: Iterable[Sample], reported: ReportedLosses) -> RoundTrip:
    """Match images by file name, or by id where all have kept theirs, and instances by label, order and overlap.

    Args:
        written: samples by the file name that they were written under, as they were before.
        back: what a reader makes of the folder.
        reported: the losses that the writer has reported.
    """
    found, ids = SampleStore(), {}
    for sample in back:
        found.add(sample.image_id, sample)
        ids[PurePosixPath(sample.image_id).name] = sample.image_id
    result = RoundTrip()
    keeps_ids = all(sample.image_id in found for sample in written)  # our own data sets do, and not the names
    for name in written.names():
        sample = written[name]
        result.add(sample, found.get(sample.image_id if keeps_ids else ids.get(name, sample.image_id)), reported)
    return result


def _unreported(pairs: Sequence[Pair], extra: int, image_id: str, reported: ReportedLosses) -> Iterator[str]:
    """What of an image should have come back and did not."""
    missing = [written.label for written, back in pairs if back is None]
    if len(missing) > reported.instances(image_id):
        yield f"gone: {len(missing)} of {counted(len(pairs), 'instance')} ({', '.join(sorted(set(missing)))})"
    if extra > reported.instances(image_id):
        yield f"{counted(extra, 'instance is', 'instances are')} there that nobody wrote"
    there = [(written, back) for written, back in pairs if back is not None]
    changed = sum(written.mask != back.mask for written, back in there)
    if changed and not reported.masks(image_id):
        yield f"changed: {changed} of {counted(len(there), 'mask')}"
    moved = sum(_shift(written, back) >= SAME_BOX for written, back in there)
    if moved and not reported.boxes(image_id):
        yield f"moved: {moved} of {counted(len(there), 'box')}"


def _paired(written: Sequence[Instance], left: list[Instance]) -> list[Pair]:
    """Each instance with what came back of it, which is removed from `left`: the same, or what overlaps it best."""
    found = [_take_exact(one, left) for one in written]
    missing = [n for n, back in enumerate(found) if back is None]
    overlaps = box_matrix(left, [written[n] for n in missing])
    same_kind = np.array([[_same_kind(one, written[n]) for n in missing] for one in left], np.bool_)
    overlaps = np.where(same_kind.reshape(overlaps.shape), overlaps, -1.0)
    matched = one_to_one(overlaps, at_least=0.0)
    for taken, place in matched:
        found[missing[place]] = left[taken]
    for taken in sorted((taken for taken, _ in matched), reverse=True):
        del left[taken]
    return list(zip(written, found, strict=True))


def _take_exact(wanted: Instance, left: list[Instance]) -> Instance | None:
    """Remove and give the instance with the same label and mask; with the same box where there is no mask."""
    for number, one in enumerate(left):
        same = one.mask == wanted.mask and (wanted.mask is not None or _shift(one, wanted) < SAME_BOX)
        if same and _same_kind(one, wanted):
            return left.pop(number)
    return None


def _shift(a: Instance, b: Instance) -> float:
    """How far the sides of two boxes lie apart at most, in pixels."""
    return max(abs(one - other) for one, other in zip(a.box_xyxy, b.box_xyxy, strict=True))


def _same_kind(a: Instance, b: Instance) -> bool:
    return (a.label, a.is_crowd) == (b.label, b.is_crowd)


def _mask_iou(written: Instance, back: Instance | None) -> float:
    if back is None or back.mask is None or written.mask is None:
        return 0.0
    iou = masks.iou(written.mask, back.mask)
    return 1.0 if iou != iou else iou  # both empty
