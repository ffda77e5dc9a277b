"""What the trials of a sweep have shown about memory: how many images at once fit, and which values never do."""

from collections.abc import Iterable, Mapping
from math import hypot, inf, log

from segdist.core.spec import Range
from segdist.searching.ledger import Trial

SIZES = ("model.", "train.batch_size", "train.adapter.", "train.precision")
"""How keys begin that may change the memory of a step."""
_BATCH = "train.batch_size"
_USUAL = 2
"""Trials that any search loses before it knows how much memory there is."""


def of_size(values: Mapping[str, object]) -> dict[str, object]:
    """Those of the searched values that may change the memory of a step."""
    return {key: value for key, value in values.items() if key.startswith(SIZES)}


def micro_batch_like(trial: Trial, others: Iterable[Trial]) -> int | None:
    """The images at once to which a trial of the same size had to go down; None where none had to."""
    size = of_size(trial.values)
    found = [one.micro_batch for one in others if one.micro_batch and of_size(one.values) == size]
    return min(found, default=None)


class Sizes:
    """Which values are too large: those that lie nearer to a trial that ran out of memory than to any that did not.

    A trial ends for memory with one image at a time, so its batch says nothing.

    Args:
        ranges: of the searched keys.
    """

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self._ranges = {key: range_ for key, range_ in ranges.items() if key.startswith(SIZES) and key != _BATCH}
        self._known: dict[int, tuple[Mapping[str, object], bool]] = {}

    def note(self, trial: Trial) -> None:
        """A trial that ended."""
        if self._ranges and (trial.too_large or trial.epochs):
            self._known[trial.number] = trial.values, trial.too_large

    def is_too_large(self, values: Mapping[str, object]) -> bool:
        """Whether a trial with these values is likely to run out of memory.

        The more trials did, the further from them a value must lie: each is a night lost, and says little new.
        """
        apart = [(self._distance(values, other), is_large) for other, is_large in self._known.values()]
        large = [distance for distance, is_large in apart if is_large]
        fitting = [distance for distance, is_large in apart if not is_large]
        caution = max(1.0, len(large) / _USUAL)
        return bool(large) and min(large) < caution * min(fitting, default=inf)

    def _distance(self, some: Mapping[str, object], others: Mapping[str, object]) -> float:
        return hypot(*(self._apart(key, some.get(key), others.get(key)) for key in self._ranges))

    def _apart(self, key: str, one: object, other: object) -> float:
        """From 0 to 1, of the range."""
        range_ = self._ranges[key]
        low, high = range_.low, range_.high
        if isinstance(one, int | float) and isinstance(other, int | float):
            if range_.choices:
                numbers = [value for value in range_.choices if isinstance(value, int | float)]
                low, high = min(numbers), max(numbers)
            if low is not None and high is not None and high > low:
                if range_.log:
                    return abs(log(one / other)) / log(high / low)
                return abs(one - other) / (high - low)
        return float(one != other)
