"""What came back of a data set that was written in another format: counted and measured, instance by instance."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from segdist import masks
from segdist.data.geometry import box_iou
from segdist.data.sample_store import SampleStore
from segdist.records import Instance, Sample


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
    _ious: list[float] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        """Whether every image, instance, mask and box came back as it was."""
        same = (self.images, self.instances, self.masks, self.instances)
        return same == (self.images_back, self.instances_back, self.masks_exact, self.boxes_exact) and not self.extra

    def as_json(self) -> dict[str, Any]:
        """The figures; null where there is nothing to measure."""
        ious = self._ious
        measured = {
            "mask_iou_min": round(min(ious), 6) if ious else None,
            "mask_iou_mean": round(float(np.mean(ious)), 6) if ious else None,
        }
        plain = {k: v for k, v in asdict(self).items() if not k.startswith("_")}
        return {"exact": self.is_exact, **plain, "box_shift_max": round(self.box_shift_max, 4), **measured}

    def add(self, written: Sample, back: Sample | None) -> None:
        """Count one image."""
        self.images += 1
        self.images_back += bool(back and (back.size_hw, back.split) == (written.size_hw, written.split))
        left = list(back.instances) if back and back.size_hw == written.size_hw else []
        exact = {n: _take_exact(one, left) for n, one in enumerate(written.instances)}
        for number, instance in enumerate(written.instances):
            self._count(instance, exact[number] or _take_nearest(instance, left))
        self.extra += len(left)

    def _count(self, written: Instance, back: Instance | None) -> None:
        self.instances += 1
        self.instances_back += back is not None
        if written.mask is not None:
            self.masks += 1
            exact = back is not None and back.mask == written.mask
            self.masks_exact += exact
            self._ious.append(1.0 if exact else _mask_iou(written, back))
        if back is not None:
            shift = max(abs(a - b) for a, b in zip(written.box_xyxy, back.box_xyxy, strict=True))
            self.boxes_exact += shift < 1e-3
            self.box_shift_max = max(self.box_shift_max, shift)


def compare(written: SampleStore, back: Iterable[Sample]) -> RoundTrip:
    """Match images by file name and instances by label, order and overlap.

    Args:
        written: samples by the file name that they were written under, as they were before.
        back: what a reader makes of the folder.
    """
    found, ids = SampleStore(), {}
    for sample in back:
        found.add(sample.image_id, sample)
        ids[PurePosixPath(sample.image_id).name] = sample.image_id
    result = RoundTrip()
    for name in written.names():
        sample = written[name]
        result.add(sample, found.get(ids.get(name, sample.image_id)))  # our own data sets keep the id, not the name
    return result


def _take_exact(wanted: Instance, left: list[Instance]) -> Instance | None:
    """Remove and give the instance with the same label and mask."""
    for number, one in enumerate(left):
        if wanted.mask is not None and one.mask == wanted.mask and _same_kind(one, wanted):
            return left.pop(number)
    return None


def _take_nearest(wanted: Instance, left: list[Instance]) -> Instance | None:
    """Remove and give the instance of the same label whose box overlaps most."""
    numbers = [number for number, one in enumerate(left) if _same_kind(one, wanted)]
    if not numbers:
        return None
    return left.pop(max(numbers, key=lambda n: box_iou(left[n].box_xyxy, wanted.box_xyxy)))


def _same_kind(a: Instance, b: Instance) -> bool:
    return (a.label, a.is_crowd) == (b.label, b.is_crowd)


def _mask_iou(written: Instance, back: Instance | None) -> float:
    if back is None or back.mask is None or written.mask is None:
        return 0.0
    iou = masks.iou(written.mask, back.mask)
    return 1.0 if iou != iou else iou  # both empty
