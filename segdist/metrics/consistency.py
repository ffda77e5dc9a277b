"""Is a model as good everywhere? Spread over images, and values by class and group with intervals, worst first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from segdist.core.json_values import JsonDict
from segdist.metrics.counting import Metric, Numbers
from segdist.metrics.evaluator import Evaluator

RESAMPLES = 1000


@dataclass(frozen=True)
class Spread:
    """How the value of single images varies; images in which it is undefined are left out.

    Attributes:
        images: number of images.
        mean, std, low, high: over the images; the standard deviation is that of the population.
        p10, p50, p90: percentiles.
    """

    images: int
    mean: float
    std: float
    low: float
    high: float
    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Numbers) -> "Spread | None":
        """From one value an image; None where none is defined."""
        defined = values[~np.isnan(values)]
        if not defined.size:
            return None
        p10, p50, p90 = (float(v) for v in np.percentile(defined, (10, 50, 90)))
        low, high = float(defined.min()), float(defined.max())
        return cls(defined.size, float(defined.mean()), float(defined.std()), low, high, p10, p50, p90)


@dataclass(frozen=True)
class Part:
    """Some of the images, or one class of all: the metric over them, and its spread over the single images.

    Attributes:
        of: what divides the images: "class", "group", "source", ...
        name: which of them.
        value: the metric over the part as a whole.
        interval: in which it lies for 95 of 100 resamplings of the images (percentile bootstrap).
        spread: over single images.
    """

    of: str
    name: str
    value: float
    interval: tuple[float, float] | None
    spread: Spread | None


@dataclass(frozen=True)
class Consistency:
    """One metric over all images, and over every part of them, the worst part of a kind first."""

    metric: str
    whole: Part
    parts: tuple[Part, ...]

    def of(self, kind: str) -> tuple[Part, ...]:
        """The parts of one kind."""
        return tuple(p for p in self.parts if p.of == kind)

    def to_json(self) -> JsonDict:
        """JSON values."""
        kinds = dict.fromkeys(p.of for p in self.parts)
        return {
            "metric": self.metric,
            "whole": asdict(self.whole),
            "parts": {kind: [asdict(p) for p in self.of(kind)] for kind in kinds},
        }


def consistency(
    evaluator: Evaluator,
    facets: Mapping[str, Sequence[str]],
    *,
    metric: str = "iou",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Consistency:
    """How a metric varies over images, classes and groups of images.

    Args:
        evaluator: that saw the images.
        facets: for each kind of group, which of them each image belongs to, in the evaluator's order.
        metric: a metric that is a formula over sums.
        seed: of the resampling.
        resamples: how many; 0 leaves out the intervals.
    """
    what = evaluator.metric(metric)
    table = evaluator.table(what)
    rng = np.random.default_rng(seed)
    sign = -1 if what.shown.lower_is_better else 1
    parts: list[Part] = []
    if what.counter.of_class:
        per_class = [(name, table[:, [k]]) for k, name in enumerate(evaluator.classes)]
        parts += _ranked([_part("class", name, what, t, rng, resamples) for name, t in per_class], sign)
    for kind, names in facets.items():
        named = np.asarray(names, dtype=object)
        found = [_part(kind, name, what, table[named == name], rng, resamples) for name in sorted(dict.fromkeys(names))]
        parts += _ranked(found, sign)
    return Consistency(metric, _part("all", "all", what, table, rng, resamples), tuple(parts))


def per_image(evaluator: Evaluator, metric: str = "iou") -> Numbers:
    """The metric of every single image, in the evaluator's order; NaN where undefined."""
    what = evaluator.metric(metric)
    return what.overall(evaluator.table(what))


def _part(of: str, name: str, metric: Metric, table: Numbers, rng: np.random.Generator, resamples: int) -> Part:
    value = float(metric.overall(table.sum(axis=0)))
    interval = _interval(metric, table, rng, resamples) if resamples and len(table) > 1 else None
    return Part(of, name, value, interval, Spread.of(metric.overall(table)))


def _interval(metric: Metric, table: Numbers, rng: np.random.Generator, resamples: int) -> tuple[float, float] | None:
    """The 2.5th and 97.5th percentile over images drawn with replacement (Efron 1979)."""
    count = len(table)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    values = metric.overall(np.tensordot(weights, table, axes=1))
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def _ranked(parts: Sequence[Part], sign: int) -> list[Part]:
    """The worst first; those undefined last."""
    return sorted(parts, key=lambda p: (np.isnan(p.value), sign * p.value if not np.isnan(p.value) else 0.0, p.name))
