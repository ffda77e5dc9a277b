"""Metrics: one function each over samples and predictions, found by decorator, computed on run lengths.

What counts is the same for all of them. Instances of one class are united to one mask an image, so nothing depends on
how a region was split. Predictions scored below `min_score` were not found; an image without a prediction is an
image with an empty one. Crowds, and true boxes whose mask is unknown, are neither right nor wrong: predicted pixels
there are left out, except where another true mask says what they are.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from segdist import masks
from segdist.records import Instance, Prediction, Rle, Sample

Metric = Callable[..., dict[str, float]]
_FOUND: dict[str, Metric] = {}


def metric(function: Metric) -> Metric:
    """Makes a function part of `evaluate`.

    It takes `(samples, predictions, *, classes, min_score)` and returns named numbers.
    """
    _FOUND[function.__name__] = function
    return function


def evaluate(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, classes: Sequence[str], min_score: float
) -> dict[str, float]:
    """All metrics.

    Args:
        samples: the truth; every one counts, also those without objects.
        predictions: what a model found, matched by `image_id`.
        classes: the class names; instances of other labels do not count.
        min_score: predicted instances scored lower do not count as found.

    Raises:
        ValueError: a prediction belongs to no sample, or its masks are not of the sample's size.
    """
    values: dict[str, float] = {}
    for function in _FOUND.values():
        values |= function(samples, predictions, classes=classes, min_score=min_score)
    return values


@metric
def iou(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, classes: Sequence[str], min_score: float
) -> dict[str, float]:
    """Intersection over union, both summed over the images: `iou` (mean over classes) and `iou/<class>`.

    A class that is neither in the truth nor predicted in any image is NaN and left out of the mean.
    """
    pixels = _pixels(samples, predictions, classes, min_score)
    return _per_class("iou", {c: _ratio(p.common, p.true + p.found - p.common) for c, p in pixels.items()})


@metric
def dice(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, classes: Sequence[str], min_score: float
) -> dict[str, float]:
    """Twice the intersection over the sum of areas (Dice 1945), summed like `iou`: `dice` and `dice/<class>`."""
    pixels = _pixels(samples, predictions, classes, min_score)
    return _per_class("dice", {c: _ratio(2 * p.common, p.true + p.found) for c, p in pixels.items()})


def prompted_iou(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Mean IoU of masks made from the true boxes: `prompted_iou` over all objects, `prompted_iou/<label>` per label.

    The k-th predicted instance belongs to the k-th true one that is no crowd; true boxes without mask do not count.

    Raises:
        ValueError: an image has not one prediction an object.
    """
    found = _by_image(samples, predictions)
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


@dataclass
class _Pixels:
    """Pixels of one class over all images: true, found, and both at once."""

    true: int = 0
    found: int = 0
    common: int = 0


def _pixels(
    samples: Sequence[Sample], predictions: Sequence[Prediction], classes: Sequence[str], min_score: float
) -> dict[str, _Pixels]:
    found = _by_image(samples, predictions)
    totals = {label: _Pixels() for label in classes}
    for sample in samples:
        known = [i for i in sample.instances if i.mask is not None and not i.is_crowd]
        unknown = _Unknown.of(sample, known)
        guesses = [i for i in found.get(sample.image_id, ()) if i.score >= min_score]
        for label in {i.label for i in (*known, *guesses)} & set(classes):
            truth, guess = (_union(instances, label, sample.size_hw) for instances in (known, guesses))
            total = totals[label]
            total.true += truth.area
            total.found += guess.area - unknown.area_in(guess)
            total.common += masks.intersection_area(truth, guess)
    return totals


@dataclass(frozen=True)
class _Unknown:
    """The pixels of one image that nobody annotated: in `region`, but in no `known` mask."""

    region: Rle | None
    known: Rle

    @classmethod
    def of(cls, sample: Sample, known: Sequence[Instance]) -> "_Unknown":
        rles = [
            i.mask or masks.from_box(i.box_xyxy, size_hw=sample.size_hw)
            for i in sample.instances
            if i.mask is None or i.is_crowd
        ]
        region = masks.union(rles, size_hw=sample.size_hw) if rles else None
        return cls(region, masks.union([i.mask for i in known if i.mask], size_hw=sample.size_hw))

    def area_in(self, guess: Rle) -> int:
        if self.region is None:
            return 0
        inside = masks.intersection(self.region, guess)
        return inside.area - masks.intersection_area(inside, self.known)


def _by_image(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, tuple[Instance, ...]]:
    found = {p.image_id: p.instances for p in predictions}
    if strangers := sorted(found.keys() - {s.image_id for s in samples}):
        raise ValueError(f"every prediction must belong to a sample, but there is none named {strangers[0]!r}")
    return found


def _union(instances: Sequence[Instance], label: str, size_hw: tuple[int, int]) -> Rle:
    return masks.union([i.mask for i in instances if i.label == label and i.mask is not None], size_hw=size_hw)


def _per_class(name: str, values: dict[str, float]) -> dict[str, float]:
    return {name: _mean(values.values())} | {f"{name}/{label}": value for label, value in values.items()}


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: Iterable[float]) -> float:
    """The mean of the numbers that are defined; NaN without any."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan
