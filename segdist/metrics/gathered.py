"""Metrics that do not add up: what they keep of each image is gathered, and a formula sees all of it at once.

A median, a rank, average precision: no sum over images gives them. They cost memory in the number of images, and have
no value of one image and no interval.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from segdist.metrics.counting import mean
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Shown

Look = TypeVar("Look")
Kept = dict[str, Any]
"""What one image adds, by class; pickled between workers, so small and without masks."""


class Gathering(Protocol):
    """A metric, or a family of them, over what was kept of every image."""

    @property
    def name(self) -> str:
        """Under which it is asked for."""

    @property
    def shown(self) -> Mapping[str, Shown]:
        """Each of its values over all classes: its name, and how it is shown."""

    def of(self, pair: Pair) -> Kept:
        """What one image adds."""

    def values(self, images: Sequence[Kept], classes: Sequence[str]) -> dict[str, float]:
        """From what the images added, in their order, to `<name>` and `<name>/<class>`."""


_GATHERED: dict[str, Gathering] = {}


def gathered_metrics() -> Mapping[str, Gathering]:
    """Every metric that does not add up, by name."""
    return _GATHERED


def register(metric: Gathering) -> None:
    """Make a metric one of every evaluation."""
    _GATHERED[metric.name] = metric


def gathered(
    look: Callable[[Pair, str], Look], *, shown: Shown | None = None
) -> Callable[[Callable[[Sequence[Look]], float]], Callable[[Sequence[Look]], float]]:
    """Makes a function of all that `look` kept of a class a metric, under the function's name; NaN where undefined.

    The value over all classes is the mean of the classes' values, those undefined left out.

    Args:
        look: from an image and a class to what is kept of them; asked only where the class is true or found.
        shown: see `counting.metric`.
    """

    def decorate(function: Callable[[Sequence[Look]], float]) -> Callable[[Sequence[Look]], float]:
        name = function.__name__
        register(_Gathered(name, {name: shown or Shown(name.replace("_", " "))}, look, function))
        return function

    return decorate


@dataclass(frozen=True)
class _Gathered:
    """A formula over what was kept of each image."""

    name: str
    shown: Mapping[str, Shown]
    look: Callable[[Pair, str], Any]
    formula: Callable[[Sequence[Any]], float]

    def of(self, pair: Pair) -> Kept:
        """See `Gathering`."""
        return {label: self.look(pair, label) for label in pair.labels}

    def values(self, images: Sequence[Kept], classes: Sequence[str]) -> dict[str, float]:
        """See `Gathering`."""
        per_class = {c: float(self.formula([image[c] for image in images if c in image])) for c in classes}
        overall = float(mean(np.array([*per_class.values()])))
        return {self.name: overall} | {f"{self.name}/{c}": value for c, value in per_class.items()}
