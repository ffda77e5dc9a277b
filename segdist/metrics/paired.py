"""Is one model better than another on the same images? The difference of a metric, with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segdist.metrics.consistency import RESAMPLES
from segdist.metrics.evaluator import Evaluator


@dataclass(frozen=True)
class Difference:
    """A metric of two models over the same images.

    Attributes:
        metric: its name.
        images: how many.
        new, old: the values.
        interval: in which `new - old` lies for 95 of 100 resamplings of the images (paired percentile bootstrap).
        lower_is_better: for errors and distances.
    """

    metric: str
    images: int
    new: float
    old: float
    interval: tuple[float, float]
    lower_is_better: bool = False

    @property
    def is_better(self) -> bool:
        """Whether the whole interval lies on the side of the new model."""
        low, high = self.interval
        return high < 0 if self.lower_is_better else low > 0


def difference(
    new: Evaluator, old: Evaluator, *, metric: str = "iou", seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Compare two models; both are measured on the same resampled images (Efron and Tibshirani 1993, chapter 16).

    What is hard for both models cancels out, so the interval is narrower than those of the two values.

    Args:
        new: that saw the images with the predictions of one model.
        old: that saw the same images, in the same order, with those of the other.
        metric: a metric that is a formula over sums.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: the evaluators saw other images or classes.
    """
    _check_same([s.image_id for s in new.seen], [s.image_id for s in old.seen], "images")
    _check_same(new.classes, old.classes, "classes")
    what = new.metric(metric)
    tables = new.table(what), old.table(old.metric(metric))
    value, other = (float(what.overall(table.sum(axis=0))) for table in tables)
    count = len(new.seen)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    a, b = (what.overall(np.tensordot(weights.astype(np.float64), table, axes=1)) for table in tables)
    defined = (a - b)[~np.isnan(a - b)]
    low, high = np.percentile(defined, (2.5, 97.5)) if defined.size else (float("nan"), float("nan"))
    return Difference(metric, count, value, other, (float(low), float(high)), what.lower_is_better)


def _check_same(a: Sequence[str], b: Sequence[str], what: str) -> None:
    if list(a) != list(b) or not a:
        raise ValueError(f"both models must have seen the same {what}, but they differ or there are none")
