"""Counts of values in bins, by split: they add up over pieces of a data set."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from segdist.core.json_values import JsonObject


@dataclass(frozen=True)
class Scale:
    """Bins: `edges` from low to high; what lies below the first or above the last belongs to the outer bins.

    Attributes:
        title: what is counted.
        unit: of the values.
        edges: n + 1 of them for n bins; a bin holds its lower edge.
        labels: what stands below each bin.
    """

    title: str
    unit: str
    edges: tuple[float, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.edges) - 1 or list(self.edges) != sorted(self.edges):
            raise ValueError(f"n bins need n + 1 rising edges and n labels, but got {self.edges} and {self.labels}")

    def bin_of(self, value: float) -> int:
        """The number of the bin that holds a value."""
        return min(max(bisect_right(self.edges, value) - 1, 0), len(self.labels) - 1)


@dataclass
class Histogram:
    """How many values lie in each bin, by split."""

    scale: Scale
    counts: dict[str, Counter[int]] = field(default_factory=dict)

    def add(self, split: str, value: float) -> None:
        """Count one value."""
        self.counts.setdefault(split, Counter())[self.scale.bin_of(value)] += 1

    def add_all(self, other: "Histogram") -> None:
        """Count what another one has counted."""
        for split, counts in other.counts.items():
            self.counts.setdefault(split, Counter()).update(counts)

    def column(self, split: str) -> list[int]:
        """The count of each bin in one split."""
        counts = self.counts.get(split, Counter())
        return [counts.get(number, 0) for number in range(len(self.scale.labels))]

    def totals(self) -> list[int]:
        """The count of each bin over all splits."""
        return [sum(column) for column in zip(*map(self.column, self.counts), strict=True)] if self.counts else []

    def as_json(self, splits: Sequence[str]) -> JsonObject:
        """Edges in order, and the counts of each split."""
        scale = self.scale
        return {"unit": scale.unit, "edges": list(scale.edges), "counts": {name: self.column(name) for name in splits}}
