"""The points of a search space that can be counted: every combination of values, as far as each `when` lets it."""

from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import islice

from segdist.core.spec import Range
from segdist.sweepfile import label_policies

MOST_COUNTED = 100_000
"""Points that are counted one by one; more is said to be more."""


def conditions_first(ranges: Mapping[str, Range]) -> list[str]:
    """The searched keys, each after those that its `when` names; the order does not depend on the file's."""
    return list(TopologicalSorter({key: sorted(ranges[key].when) for key in sorted(ranges)}).static_order())


def points(ranges: Mapping[str, Range]) -> Iterator[dict[str, object]]:
    """Every point once, in an order that depends on the ranges alone; each range `is_countable`."""
    yield from _points(ranges, conditions_first(ranges), {})


def count(ranges: Mapping[str, Range]) -> int:
    """How many points there are; `MOST_COUNTED` stands for as many or more."""
    return sum(1 for _ in islice(points(ranges), MOST_COUNTED))


def is_countable(range_: Range) -> bool:
    """Whether a range is of choices, whole numbers or steps."""
    return bool(range_.choices) or range_.is_integer or range_.step is not None


def _points(ranges: Mapping[str, Range], keys: Sequence[str], chosen: dict[str, object]) -> Iterator[dict[str, object]]:
    if not keys:
        yield chosen
    elif ranges[keys[0]].applies(chosen):
        for value in _values(ranges[keys[0]]):
            yield from _points(ranges, keys[1:], {**chosen, keys[0]: value})
    else:
        yield from _points(ranges, keys[1:], chosen)


def _values(range_: Range) -> Iterator[object]:
    if range_.choices:
        yield from map(label_policies.encoded, range_.choices)
        return
    assert range_.low is not None
    assert range_.high is not None
    step = range_.step or 1
    for k in range(int((range_.high - range_.low) / step + 1e-9) + 1):
        yield range_.low + k * step if range_.is_integer else float(range_.low + k * step)
