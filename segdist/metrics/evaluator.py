"""The one evaluator: image after image in, named values out, for every family, every split and other tools' results."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segdist.core.errors import SpecError, did_you_mean
from segdist.core.records import Prediction, Sample
from segdist.core.spec import EvaluateSpec
from segdist.metrics import counting
from segdist.metrics.counting import Counter, Metric, Numbers
from segdist.metrics.gathered import Gathering, Kept, gathered_metrics
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Place, Shown

QUICK = ("iou", "dice")
"""What is computed after every epoch: on run lengths, without decoding a mask."""


def names() -> tuple[str, ...]:
    """Every metric that can be asked for; those of average precision stand for a family of values."""
    return tuple(dict.fromkeys((*QUICK, *counting.metrics(), *gathered_metrics())))


def shown(name: str) -> Shown | None:
    """How a value, e.g. `hausdorff_95/crack` or `mask_ap_50`, is shown; None where no metric has it."""
    return _all_shown().get(name.partition("/")[0])


def shown_in(place: Place) -> dict[str, Shown]:
    """The values that stand in a table, by name, in the order of `names`."""
    return {name: how for name, how in _all_shown().items() if place in how.places}


def _all_shown() -> dict[str, Shown]:
    sums, gathered = counting.metrics(), gathered_metrics()
    found: dict[str, Shown] = {}
    for name in names():
        found |= {name: sums[name].shown} if name in sums else gathered[name].shown
    return found


def family_of(name: str) -> str:
    """The metric that a value belongs to: `mask_ap` of `mask_ap_50/crack`; "" where there is none."""
    base = name.partition("/")[0]
    families = {value: metric.name for metric in gathered_metrics().values() for value in metric.shown}
    return base if base in counting.metrics() else families.get(base, "")


def lower_is_better(name: str) -> bool:
    """Whether a value, e.g. `hausdorff_95/crack`, is an error or a distance."""
    how = shown(name)
    return how is not None and how.lower_is_better


def is_minimised(metric: str) -> bool:
    """Whether the lowest value is the best; `metric` is named as in MLflow, e.g. `val/iou`."""
    return lower_is_better(metric.partition("/")[2])


def is_better(score: float, than: float, *, metric: str) -> bool:
    """Whether a score beats another one; `metric` is named as in MLflow."""
    return score < than if is_minimised(metric) else score > than


@dataclass(frozen=True)
class CountedImage:
    """What one image adds: the numbers of each counter, and what each metric that does not add up keeps of it."""

    image_id: str
    numbers: tuple[Numbers, ...]
    kept: tuple[Kept, ...]


class Evaluator:
    """Adds up what metrics need of each image; holds a few numbers an image, and no mask.

    Args:
        classes: the class names; instances of other labels do not count.
        min_score: predicted instances scored lower do not count as found in metrics at one threshold; average
            precision and calibration see them all.
        metrics: names; by default all.
        boundary_width_fraction: of the band of boundary IoU and AP, of the image diagonal; None takes 0.02.
        boundary_width_pixels: the same in pixels, in place of the fraction.
        min_scores: per class in place of `min_score`.

    Attributes:
        seen: what each image added, in order; workers that share a split put theirs together.

    Raises:
        SpecError: there is no such metric.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        min_score: float,
        metrics: Collection[str] | None = None,
        boundary_width_fraction: float | None = None,
        boundary_width_pixels: float | None = None,
        min_scores: Mapping[str, float] | None = None,
    ) -> None:
        self._min_scores = dict.fromkeys(classes, min_score) | dict(min_scores or {})
        self.classes = tuple(classes)
        self.seen: list[CountedImage] = []
        self._boundary = {
            "boundary_width_fraction": boundary_width_fraction,
            "boundary_width_pixels": boundary_width_pixels,
        }
        wanted = names() if metrics is None else tuple(metrics)
        for name in wanted:
            if name not in names():
                raise SpecError(f"There is no metric `{name}`. {did_you_mean(name, names())}")
        self.metrics: tuple[Metric, ...] = tuple(counting.metrics()[n] for n in wanted if n in counting.metrics())
        self._counters: tuple[Counter, ...] = tuple({m.counter.name: m.counter for m in self.metrics}.values())
        self._gathered: tuple[Gathering, ...] = tuple(gathered_metrics()[n] for n in wanted if n in gathered_metrics())

    def add(self, sample: Sample, prediction: Prediction | None) -> None:
        """Look at one image; a missing prediction is an empty one.

        Raises:
            ValueError: a predicted mask is not of the image's size.
        """
        found = prediction.instances if prediction else ()
        pair = Pair(sample, found, self.classes, min_scores=self._min_scores, **self._boundary)
        numbers = counting.count(self._counters, pair, self.classes)
        self.seen.append(CountedImage(sample.image_id, tuple(numbers), tuple(g.of(pair) for g in self._gathered)))

    def values(self) -> dict[str, float]:
        """Every metric over all images: `<name>`, and `<name>/<class>` where it is one of classes."""
        found: dict[str, float] = {}
        for metric in self.metrics:
            sums = self.table(metric).sum(axis=0)
            found[metric.name] = float(metric.overall(sums))
            if metric.counter.of_class:
                per_class = metric.per_class(sums)
                found |= {f"{metric.name}/{c}": float(v) for c, v in zip(self.classes, per_class, strict=True)}
        for k, gathered in enumerate(self._gathered):
            found |= gathered.values([image.kept[k] for image in self.seen], self.classes)
        return found

    def table(self, metric: Metric) -> Numbers:
        """(images, classes, size) numbers of a metric's counter; what groups and intervals are computed from."""
        column = [c.name for c in self._counters].index(metric.counter.name)
        size = len(self.classes) if metric.counter.of_class else 1
        return np.array([image.numbers[column] for image in self.seen]).reshape(-1, size, metric.counter.size)

    def metric(self, name: str) -> Metric:
        """One of the metrics that are formulas over sums."""
        return next(m for m in self.metrics if m.name == name)


def evaluator_of(classes: Sequence[str], evaluate: EvaluateSpec, metrics: Collection[str] | None = None) -> Evaluator:
    """The evaluator with the settings of a run; of all metrics by default."""
    return Evaluator(
        classes,
        min_score=evaluate.min_score,
        min_scores=evaluate.post.min_scores,
        metrics=metrics,
        boundary_width_fraction=evaluate.boundary_width_fraction,
        boundary_width_pixels=evaluate.boundary_width_pixels,
    )


def evaluate(
    samples: Iterable[Sample],
    predictions: Iterable[Prediction],
    *,
    classes: Sequence[str],
    min_score: float,
    metrics: Sequence[str] | None = None,
    boundary_width_fraction: float | None = None,
    boundary_width_pixels: float | None = None,
) -> dict[str, float]:
    """All metrics, or the named ones, over samples and what was found in them.

    Args:
        samples: the truth; every one counts, also those without objects.
        predictions: what a model found, matched by `image_id`.
        classes: the class names; instances of other labels do not count.
        min_score: see `Evaluator`.
        metrics: names; by default all.
        boundary_width_fraction: see `Evaluator`.
        boundary_width_pixels: see `Evaluator`.

    Raises:
        ValueError: a prediction belongs to no sample, or its masks are not of the sample's size.
    """
    found = {p.image_id: p for p in predictions}
    evaluator = Evaluator(
        classes,
        min_score=min_score,
        metrics=metrics,
        boundary_width_fraction=boundary_width_fraction,
        boundary_width_pixels=boundary_width_pixels,
    )
    for sample in samples:
        evaluator.add(sample, found.pop(sample.image_id, None))
    if found:
        raise ValueError(f"every prediction must belong to a sample, but there is none named {min(found)!r}")
    return evaluator.values()
