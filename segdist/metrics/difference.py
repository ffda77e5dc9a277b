"""Is one model better than another, and where? The same images by both, resampled together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segdist.core.json_values import JsonDict
from segdist.metrics.consistency import RESAMPLES
from segdist.metrics.evaluator import Evaluator

TIE = 1e-9
"""Values that differ by less are equal."""


@dataclass(frozen=True)
class OneImage:
    """One image under both models; None where the metric is undefined."""

    image_id: str
    first: float | None
    second: float | None

    @property
    def gain(self) -> float:
        """What the first is better by; 0 where either is undefined. Errors and distances count negative."""
        return 0.0 if self.first is None or self.second is None else self.first - self.second


@dataclass(frozen=True)
class Difference:
    """Two models on the same images.

    Attributes:
        metric: its name.
        lower_is_better: whether it is an error.
        first, second: the metric over all images, of each model.
        interval: in which `first - second` lies for 95 of 100 resamplings of the images, both models on the same ones
            (paired percentile bootstrap, Efron 1979); None for fewer than two images.
        per_class: (first, second) of each class; None where undefined.
        images: every image, those that the first wins by most at the top.
    """

    metric: str
    lower_is_better: bool
    first: float
    second: float
    interval: tuple[float, float] | None
    per_class: dict[str, tuple[float | None, float | None]]
    images: tuple[OneImage, ...]

    @property
    def difference(self) -> float:
        """`first - second`."""
        return self.first - self.second

    @property
    def won(self) -> tuple[OneImage, ...]:
        """Images on which the first is better, the clearest at the top."""
        return tuple(i for i in self.images if self._sign * i.gain > TIE)

    @property
    def lost(self) -> tuple[OneImage, ...]:
        """Images on which the second is better, the clearest at the top."""
        return tuple(i for i in reversed(self.images) if self._sign * i.gain < -TIE)

    @property
    def winner(self) -> int:
        """1 or 2 where the interval leaves no doubt which is better, otherwise 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 0
        return 1 if self._sign * self.interval[0] > 0 else 2

    @property
    def _sign(self) -> int:
        return -1 if self.lower_is_better else 1

    def to_json(self) -> JsonDict:
        """JSON values."""
        return {
            "metric": self.metric,
            "first": _defined(self.first),
            "second": _defined(self.second),
            "difference": _defined(self.difference),
            "interval": list(self.interval) if self.interval else None,
            "winner": self.winner,
            "lower_is_better": self.lower_is_better,
            "per_class": {name: list(values) for name, values in self.per_class.items()},
            "images_won": len(self.won),
            "images_lost": len(self.lost),
            "images": [{"image_id": i.image_id, "first": i.first, "second": i.second} for i in self.images],
        }


def difference(
    first: Evaluator, second: Evaluator, *, metric: str = "iou", seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Compare two models by a metric that is a formula over sums.

    Args:
        first: that saw the images with the first model's predictions.
        second: the same images, in the same order, with the second's.
        metric: its name; both evaluators know it.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: the images or classes are not the same.
    """
    names = [image.image_id for image in first.seen]
    if names != [image.image_id for image in second.seen] or first.classes != second.classes:
        raise ValueError("two models are compared on the same images and classes in the same order, but these differ")
    what = first.metric(metric)
    tables = first.table(what), second.table(what)
    first_value, second_value = (float(what.overall(table.sum(axis=0))) for table in tables)
    per_class = [what.per_class(table.sum(axis=0)) for table in tables] if what.counter.of_class else []
    single = [what.overall(table) for table in tables]
    interval = None
    if len(names) > 1:
        weights = image_weights(len(names), np.random.default_rng(seed), resamples)
        a, b = (what.overall(np.tensordot(weights, table, axes=1)) for table in tables)
        interval = percentiles(a - b)
    images = [OneImage(n, _defined(float(a)), _defined(float(b))) for n, a, b in zip(names, *single, strict=True)]
    sign = -1 if what.shown.lower_is_better else 1
    return Difference(
        metric,
        what.shown.lower_is_better,
        first_value,
        second_value,
        interval,
        {c: (_defined(float(a)), _defined(float(b))) for c, a, b in zip(first.classes, *per_class, strict=True)}
        if per_class
        else {},
        tuple(sorted(images, key=lambda i: (-sign * i.gain, i.image_id))),
    )


def image_weights(
    images: int, rng: np.random.Generator, resamples: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(resamplings, images): how often each image is drawn."""
    return rng.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def percentiles(values: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float] | None:
    """What 95 of 100 values lie between, those undefined left out; None where all are."""
    defined = np.asarray(values)[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value
