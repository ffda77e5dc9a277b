"""A search whose trials are played from a record: several at once, in simulated time, stopped when it has arrived."""

import heapq
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Protocol

import optuna

from benchmarks._tables import Curve
from segdist.core.spec import SweepSpec
from segdist.searching import Trial
from segdist.searching.space import Space, baseline

SLOTS = 4
"""Trials at once."""
METRIC = "val/iou"


class Strategy(Protocol):
    """What runs trials sees of a search."""

    def next(self) -> Trial | None:
        """The next trial to run; None for none now."""

    def start(self, number: int) -> Trial:
        """It begins, or goes on."""

    def report(self, number: int, metrics: Mapping[str, float], checkpoint: str = "") -> bool:
        """An epoch; whether to stop."""

    def end(self, number: int) -> object:
        """It ended, or waits."""


def cost(
    strategy: Strategy, curve_of: Callable[[Mapping[str, Any]], Curve], *, goal: float = inf
) -> tuple[float, bool]:
    """What all trials cost together until one reached the goal, those that still run included.

    Args:
        strategy: a search that just begins.
        curve_of: what a trial with some values scores, and what its epochs cost.
        goal: a score; without one, all trials are run.

    Returns:
        The cost, and whether the goal was reached.
    """
    spent, now = 0.0, 0.0
    running: list[tuple[float, int, int]] = []
    """When an epoch is over, of which trial, and which one it is."""
    curves: dict[int, Curve] = {}

    def begin() -> None:
        while len(running) < SLOTS and (trial := strategy.next()):
            trial = strategy.start(trial.number)
            curve = curves[trial.number] = curve_of(trial.values)
            heapq.heappush(running, (now + curve.costs[trial.last_epoch], trial.number, trial.last_epoch + 1))

    begin()
    while running:
        then, number, epoch = heapq.heappop(running)
        spent += (then - now) * (len(running) + 1)
        now = then
        curve = curves[number]
        score = curve.scores[epoch - 1]
        if score >= goal:
            return spent, True
        metrics = {"epoch": epoch, "seconds": curve.costs[epoch - 1], METRIC: score}
        if strategy.report(number, metrics, f"{number}/{epoch}") or epoch == len(curve.scores):
            strategy.end(number)
        else:
            heapq.heappush(running, (now + curve.costs[epoch], number, epoch + 1))
        begin()
    return spent, False


class Alone:
    """An Optuna sampler without early stopping and without our ledger, as a script of a few lines would use it."""

    def __init__(self, spec: SweepSpec, sampler: optuna.samplers.BaseSampler) -> None:
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._study.enqueue_trial(baseline(spec))
        self._space, self._trials = Space(spec.space), spec.search.trials
        self._running: dict[int, optuna.Trial] = {}
        self._best: dict[int, float] = {}

    def next(self) -> Trial | None:
        """The next suggestion, until there were as many as the sweep has."""
        if len(self._study.trials) == self._trials:
            return None
        trial = self._study.ask()
        self._space(trial)
        self._running[trial.number] = trial
        return Trial(number=trial.number, values=trial.params)

    def start(self, number: int) -> Trial:
        """It begins."""
        return Trial(number=number, values=self._running[number].params)

    def report(self, number: int, metrics: Mapping[str, float], checkpoint: str = "") -> bool:  # noqa: ARG002
        """Keep the best score; never stop."""
        self._best[number] = max(self._best.get(number, -inf), metrics[METRIC])
        return False

    def end(self, number: int) -> None:
        """Tell the best score."""
        self._study.tell(self._running.pop(number), self._best[number])
