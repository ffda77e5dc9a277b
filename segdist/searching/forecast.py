"""What a search will do, played with its own rules: trials are suggested, told, and stopped as they would be.

What cannot be known before is how good a trial is. Here each is as good as chance has it, and better from epoch to
epoch: then early stopping stops as many as it does of trials among which there is nothing to choose.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import numpy as np

from segdist.core.spec import SweepSpec
from segdist.metrics import is_minimised
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
        longest: seconds of a trial that runs to its end: the longest of them.
        trials: how many there are.
    """

    seconds: float
    trial_seconds: float
    reached: tuple[float, ...]
    longest: float
    trials: int


def forecast(spec: SweepSpec, *, at_once: int, pace: Callable[[Mapping[str, object]], Pace]) -> Forecast:
    """Play a search.

    Args:
        spec: the sweep.
        at_once: trials that run at the same time.
        pace: of a trial with these searched values.
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
    plays = [_play(spec.model_copy(update={"search": search}), at_once, pace, seed) for seed in range(_PLAYS)]
    share = total / search.trials if plays[0].trials == search.trials else 1.0

    def mean(values: list[float]) -> float:
        return share * sum(values) / len(values)

    epochs = max(len(play.reached) for play in plays)
    return Forecast(
        seconds=mean([play.seconds for play in plays]),
        trial_seconds=mean([play.trial_seconds for play in plays]),
        reached=tuple(mean([dict(enumerate(play.reached)).get(e, 0.0) for play in plays]) for e in range(epochs)),
        longest=max(play.longest for play in plays),
        trials=round(plays[0].trials * share),
    )


class _Unwritten(Ledger):
    """A ledger that is forgotten."""

    def write(self, trial: Trial) -> None:
        """Keep it in memory."""
        self._trials[trial.number] = trial


def _play(spec: SweepSpec, at_once: int, pace: Callable[[Mapping[str, object]], Pace], seed: int) -> Forecast:
    sign = -1 if is_minimised(spec.search.metric) else 1
    quality = np.random.default_rng(seed).random(_MOST_PLAYED)
    reached: Counter[int] = Counter()
    now = busy = longest = 0.0
    running: list[tuple[float, int, int]] = []
    with TemporaryDirectory(prefix="segdist-") as folder:
        search = Search(spec, _Unwritten(folder))
        while True:
            while len(running) < at_once and (trial := search.next()):
                search.start(trial.number)
                took = pace(trial.values)
                first = trial.from_latest().last_epoch + 1
                heapq.heappush(running, (now + took.setup + took.epoch, trial.number, first))
                busy += took.setup + took.epoch
                longest = max(longest, took.setup + took.epoch * _epochs(spec, trial))
            if not running:
                break
            now, number, epoch = heapq.heappop(running)
            reached[epoch] += 1
            score = sign * (quality[number] + epoch * 1e-6)
            stop = search.report(number, {"epoch": epoch, spec.search.metric: score}, checkpoint="played")
            if stop or epoch >= _epochs(spec, search.ledger[number]):
                search.end(number)
                continue
            each = pace(search.ledger[number].values).epoch
            busy += each
            heapq.heappush(running, (now + each, number, epoch + 1))
        trials = len(search.ledger.trials)
    return Forecast(now, busy, tuple(reached[e] for e in range(1, max(reached) + 1)), longest, trials)


def _epochs(spec: SweepSpec, trial: Trial) -> int:
    """Of a trial that runs to its end."""
    return spec.run.override(run_values(trial.values)).train.total_epochs
