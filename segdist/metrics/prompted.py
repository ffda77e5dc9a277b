"""How good are masks that were made from the true boxes, and what is the least they must beat?"""

import math
from collections.abc import Iterable, Sequence

from segdist.core import masks
from segdist.core.records import Instance, Prediction, Sample


def prompted_iou(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Mean IoU of masks made from the true boxes: `prompted_iou` over all objects, `prompted_iou/<label>` per label.

    The k-th predicted instance belongs to the k-th true one that is no crowd; true boxes without mask do not count.

    Raises:
        ValueError: an image has not one prediction an object, or a prediction belongs to no sample.
    """
    found = {p.image_id: p.instances for p in predictions}
    if unknown := sorted(found.keys() - {s.image_id for s in samples}):
        raise ValueError(f"every prediction must belong to a sample, but there is none named {unknown[0]!r}")
    by_label: dict[str, list[float]] = {}
    for sample in samples:
        objects = [i for i in sample.instances if not i.is_crowd]
        for truth, guess in zip(objects, found.get(sample.image_id, ()), strict=True):
            if truth.mask is not None:
                overlap = 0.0 if guess.mask is None else masks.iou(truth.mask, guess.mask)
                by_label.setdefault(truth.label, []).append(overlap)
    values = {label: _mean(overlaps) for label, overlaps in sorted(by_label.items())}
    everything = _mean(v for overlaps in by_label.values() for v in overlaps)
    return {"prompted_iou": everything} | {f"prompted_iou/{label}": value for label, value in values.items()}


def box_fill(samples: Sequence[Sample]) -> list[Prediction]:
    """The baseline that any mask must beat: every true box, filled."""

    def filled(instance: Instance, size_hw: tuple[int, int]) -> Instance:
        return Instance(instance.label, masks.from_box(instance.box_xyxy, size_hw=size_hw), instance.box_xyxy)

    return [Prediction(s.image_id, tuple(filled(i, s.size_hw) for i in s.instances if not i.is_crowd)) for s in samples]


def _mean(values: Iterable[float]) -> float:
    """The mean of the numbers that are defined; NaN without any."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan
