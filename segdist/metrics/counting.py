"""What most metrics are: numbers that add up over images, and a formula over the sums.

A *counter* looks at one class of one image and returns a few numbers. A *metric* is a formula over the sums of one
counter's numbers. Because only sums matter, the same formula gives the value of one image, of a group of images, of a
resampled split and of a split that several workers looked at; and no mask outlives its image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdist.metrics.pair import Pair
from segdist.metrics.shown import Shown

Numbers = NDArray[np.float64]
Count = Callable[[Pair, str], Sequence[float] | Numbers]


@dataclass(frozen=True)
class Counter:
    """Numbers that add up.

    Attributes:
        name: of the function.
        size: how many numbers it returns.
        count: from an image and a class to the numbers.
        of_class: False for what is counted once an image, whatever the class.
    """

    name: str
    size: int
    count: Count
    of_class: bool = True


@dataclass(frozen=True)
class Metric:
    """A formula over a counter's sums.

    Attributes:
        name: of the function, and of the value.
        counter: what it is computed from.
        formula: takes the counter's sums, one array each, and returns an array of values; NaN where undefined.
        pooled: whether the overall value is that of all classes' sums together; otherwise it is the mean of the
            classes' values, those undefined left out.
        shown: its title, unit and direction, and the tables it stands in.
        meaning: the first line of the function's docstring.
    """

    name: str
    counter: Counter
    formula: Callable[..., Numbers]
    pooled: bool
    shown: Shown
    meaning: str

    def per_class(self, sums: Numbers) -> Numbers:
        """From sums (..., classes, size) to values (..., classes)."""
        return np.asarray(self.formula(*np.moveaxis(sums, -1, 0)), np.float64)

    def overall(self, sums: Numbers) -> Numbers:
        """From sums (..., classes, size) to values (...)."""
        return self.per_class(sums.sum(axis=-2, keepdims=True))[..., 0] if self.pooled else mean(self.per_class(sums))


_METRICS: dict[str, Metric] = {}


def metrics() -> Mapping[str, Metric]:
    """Every metric that is a formula over sums, by name."""
    return _METRICS


def count(counters: Sequence[Counter], pair: Pair, classes: Sequence[str]) -> list[Numbers]:
    """The numbers of each counter for one image, (classes, size); zeros for a class that is not in it."""
    tables = [np.zeros((len(classes) if c.of_class else 1, c.size)) for c in counters]
    for table, one in zip(tables, counters, strict=True):
        if not one.of_class:
            table[0] = one.count(pair, "")
    for label in pair.labels:  # class after class, so that the masks of one are in memory at a time
        for table, one in zip(tables, counters, strict=True):
            if one.of_class:
                table[classes.index(label)] = one.count(pair, label)
    return tables


def counter(size: int, *, of_class: bool = True) -> Callable[[Count], Counter]:
    """Makes a function `(pair, label) -> numbers` a counter of `size` numbers."""

    def decorate(function: Count) -> Counter:
        return Counter(function.__name__, size, function, of_class)

    return decorate


def metric(
    source: Counter, *, pooled: bool = False, shown: Shown | None = None
) -> Callable[[Callable[..., Numbers]], Callable[..., Numbers]]:
    """Makes a function of a counter's sums a metric of every evaluation, under the function's name.

    Args:
        source: the counter.
        pooled: see `Metric`.
        shown: how people read it; by default under its name, a share of 1, higher is better, in no table.
    """

    def decorate(function: Callable[..., Numbers]) -> Callable[..., Numbers]:
        name, meaning = function.__name__, (function.__doc__ or "").partition("\n")[0]
        how = shown or Shown(name.replace("_", " "))
        _METRICS[name] = Metric(name, source, function, pooled or not source.of_class, how, meaning)
        return function

    return decorate


def divide(part: Numbers, whole: Numbers) -> Numbers:
    """The ratio of two arrays of one shape; NaN where there is nothing to divide by."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole != 0)


def f_score(right: Numbers, found: Numbers, met: Numbers, true: Numbers) -> Numbers:
    """The harmonic mean of precision `right / found` and recall `met / true`.

    Zero where one side is empty and the other is not, NaN where both are.
    """
    precision, recall = np.nan_to_num(divide(right, found)), np.nan_to_num(divide(met, true))
    values = np.nan_to_num(divide(2 * precision * recall, precision + recall))
    return np.where(np.asarray(found) + np.asarray(true) > 0, values, np.nan)


def mean(values: Numbers) -> Numbers:
    """The mean over the last axis of what is defined; NaN without any."""
    return divide(np.nansum(values, axis=-1), (~np.isnan(values)).sum(axis=-1))
