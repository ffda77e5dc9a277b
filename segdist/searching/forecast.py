"""What a search will do, played with its own rules: trials are suggested, told, and stopped as they would be.

What cannot be known before is how good a trial is. Here each is as good as chance has it, and better from epoch to
epoch: then early stopping stops as many as it does of trials among which there is nothing to choose.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from segdist.core.spec import SweepSpec
from segdist.metrics import is_minimised
from segdist.searching.budget import Budget, Still
from segdist.searching.ledger import Ledger, Trial
from segdist.searching.search import Search
from segdist.sweepfile.label_policies import run_values
from segdist.sweepfile.loading import trials_of

_PLAYS = 5
"""Times that a search is played; the mean is told."""
_MOST_PLAYED = 200
"""Trials of a play: what more of them take is told from these."""


@dataclass(frozen=True)
class Pace:
    """How long a trial takes."""

    setup: float
    """Seconds until its first epoch begins."""
    epoch: float
    """Seconds of an epoch, with what follows it."""


@dataclass(frozen=True)
class Forecast:
    """What the trials of a search take.

    Attributes:
        seconds: from the first trial's start to the last one's end.
        trial_seconds: of all trials together.
        reached: for each epoch, how many trials come to its end.
        trials: how many there are.
    """

    seconds: float
    trial_seconds: float
    reached: tuple[float, ...]
    trials: int


def forecast(
    spec: SweepSpec,
    *,
    at_once: int,
    pace: Callable[[Mapping[str, object]], Pace],
    begun: float = 0.0,
    nodes: int = 1,
) -> Forecast:
    """Play a search.

    Args:
        spec: the sweep.
        at_once: trials that run at the same time.
        pace: of a trial with these searched values.
        begun: seconds of its budget that are spent before the first trial begins.
        nodes: machines that are there.
    """
    total = trials_of(spec)
    sampler = spec.search.sampler
    search = spec.search.model_copy(
        update={
            "trials": min(total, _MOST_PLAYED),
            "sampler": sampler if sampler in ("grid", "quasi_random") else "random",  # the others learn from scores
            "constraints": {},
        }
    )
    spec = spec.model_copy(update={"search": search})
    plays = [_play(spec, at_once, pace, seed, Still(nodes, begun, begun * nodes)) for seed in range(_PLAYS)]
    searched = plays[0].searched.trials
    share = total / search.trials if searched == search.trials else 1.0

    def mean(value: Callable[[Forecast], float]) -> float:
        """Of the search, as large as it is, and of the repeats, which are not more in a larger one."""
        return sum(share * value(play.searched) + value(play.repeated) for play in plays) / len(plays)

    epochs = max(len(part.reached) for play in plays for part in play)
    return Forecast(
        seconds=mean(lambda part: part.seconds),
        trial_seconds=mean(lambda part: part.trial_seconds),
        reached=tuple(mean(lambda part, e=e: dict(enumerate(part.reached)).get(e, 0.0)) for e in range(epochs)),  # type: ignore[misc]
        trials=round(mean(lambda part: part.trials)),
    )


class _Play(NamedTuple):
    """What a play took: first the search, then the training of its best trials again."""

    searched: Forecast
    repeated: Forecast


class _Unwritten(Ledger):
    """A ledger that is forgotten."""

    def _save(self, trial: Trial) -> None:
        """Nowhere."""


def _play(spec: SweepSpec, at_once: int, pace: Callable[[Mapping[str, object]], Pace], seed: int, time: Still) -> _Play:
    sign = -1 if is_minimised(spec.search.metric) else 1
    seeds = spec.search.confirm.seeds if spec.search.confirm else 0
    quality = np.random.default_rng(seed).random(_MOST_PLAYED * (1 + seeds))
    reached: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    until, busy = [0.0, 0.0], [0.0, 0.0]
    now = 0.0
    running: list[tuple[float, int, int]] = []
    with TemporaryDirectory(prefix="segdist-") as folder:
        budget = Budget(spec, time) if spec.search.budget else None
        search = Search(spec, _Unwritten(folder), clock=lambda: time.seconds, budget=budget)
        while True:
            while len(running) < at_once and (trial := search.next()):
                search.start(trial.number)
                part, took = bool(trial.repeats), pace(trial.values)
                first = trial.from_latest().last_epoch + 1
                heapq.heappush(running, (now + took.setup + took.epoch, trial.number, first))
                busy[part] += took.setup + took.epoch
            if not running:
                break
            before, (now, number, epoch) = now, heapq.heappop(running)
            time.pass_by(now - before)
            each = pace(search.ledger[number].values).epoch
            part = bool(search.ledger[number].repeats)
            until[part] = now
            reached[part][epoch] += 1
            score = sign * (quality[number] + epoch * 1e-6)
            stop = search.report(number, {"epoch": epoch, "seconds": each, spec.search.metric: score}, "played")
            if stop or epoch >= _epochs(spec, search.ledger[number]):
                search.end(number)
                continue
            busy[part] += each
            heapq.heappush(running, (now + each, number, epoch + 1))
        trials = len(search.ledger.searched), len(search.ledger.repeats)
    seconds = until[0], max(until[1] - until[0], 0.0)
    return _Play(
        *(
            Forecast(
                seconds=seconds[part],
                trial_seconds=busy[part],
                reached=tuple(reached[part][e] for e in range(1, max(reached[part], default=0) + 1)),
                trials=trials[part],
            )
            for part in (0, 1)
        )
    )


def _epochs(spec: SweepSpec, trial: Trial) -> int:
    """Of a trial that runs to its end."""
    return spec.run.override(run_values(trial.values)).train.total_epochs
