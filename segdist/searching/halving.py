"""Successive halving that waits (Li et al. 2018, "ASHA"): trials stop at rungs, and the best of each rung go on.

All of it follows from the epochs of the trials, so a start in between changes nothing.
"""

from bisect import insort
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import ceil, inf

from segdist.core.spec import SweepSpec
from segdist.metrics import is_minimised
from segdist.searching.ledger import Trial
from segdist.sweepfile.loading import epochs_of


class Halving:
    """Which trials wait, and which of them go on.

    Args:
        spec: a sweep with `search.asha`.
    """

    def __init__(self, spec: SweepSpec) -> None:
        assert spec.search.asha is not None
        self._spec, self._asha = spec, spec.search.asha
        self._sign = 1 if is_minimised(spec.search.metric) else -1
        self._ranked: dict[int, list[tuple[bool, float, int]]] = {rung: [] for rung in self._rungs()}
        """For each rung, the trials that came there, the best first."""
        self._free_until: dict[int, float] = {}
        """The last rung at which a trial is not judged."""

    def note(self, trial: Trial, *, is_broken: bool) -> None:
        """A trial has had so many epochs; one without a score, as where a distance is infinite, comes last.

        Args:
            trial: with them.
            is_broken: whether it breaks a constraint: then all others come before it.
        """
        if trial.repeats:
            return
        for rung, ranked in self._ranked.items():
            scores = trial.scores(self._spec.search.metric, until=rung)
            if rung <= trial.last_epoch and all(number != trial.number for *_, number in ranked):
                insort(ranked, (is_broken, min((self._sign * score for score in scores), default=inf), trial.number))

    def is_judged(self, trial: Trial) -> bool:
        """Whether a trial is at a rung from which only the best go on; repeats of others never are."""
        rung = trial.last_epoch
        return (
            not trial.repeats
            and rung in self._ranked
            and self._free_until.get(trial.number, 0) < rung < self._epochs(trial)
        )

    def waits(self, trial: Trial) -> bool:
        """Whether it is, and not among the best there."""
        return self.is_judged(trial) and trial.number not in self._best(trial.last_epoch)

    def let_go(self, trial: Trial, *, until: float) -> None:
        """A trial may go on until some epoch whatever the others score."""
        self._free_until[trial.number] = until

    def is_let_go(self, trial: Trial) -> bool:
        """Whether it goes on to its end whatever the others score."""
        return self._free_until.get(trial.number) == inf

    def is_ahead(self, trial: Trial, *, of: Trial) -> bool:
        """Whether a trial scored better than one that waits, where that one waits."""
        ranked = [number for *_, number in self._ranked[of.last_epoch]]
        return trial.number in ranked and ranked.index(trial.number) < ranked.index(of.number)

    def next(self, waiting: Iterable[Trial]) -> Trial | None:
        """The one to go on, of those that wait: the best of the highest rung whose best it is among."""
        at = {trial.number: trial for trial in waiting}
        for rung in reversed(self._ranked):
            for number in self._best(rung):
                if number in at and at[number].last_epoch == rung:
                    return at[number]
        return None

    def last(self, waiting: Iterable[Trial]) -> Trial | None:
        """The one to go on where none is among the best: that which came furthest, and scored best there."""
        at = {trial.number: trial for trial in waiting}
        for ranked in reversed(self._ranked.values()):
            for *_, number in ranked:
                if number in at:
                    return at[number]
        return None

    def epochs(self, trials: int) -> int:
        """About so many are run of these trials: at each rung a share goes on; one, and the untuned one, to the end."""
        rungs = [*self._ranked, epochs_of(self._spec)]
        total, going = trials * rungs[0] + rungs[-1] - rungs[0], trials
        for rung, following in pairwise(rungs):
            going = max(going // self._asha.reduction_factor, 1)
            total += going * (following - rung)
        return min(total, trials * rungs[-1])

    def _best(self, rung: int) -> list[int]:
        ranked = self._ranked[rung]
        return [number for *_, number in ranked[: len(ranked) // self._asha.reduction_factor]]

    def _rungs(self) -> Iterator[int]:
        """Epochs after which there is a checkpoint to go on from, rising."""
        every, epoch, last = self._spec.train.checkpoint_every, self._asha.grace_epochs, 0
        while (rung := ceil(epoch / every) * every) < epochs_of(self._spec):
            if rung > last:
                yield rung
            last, epoch = rung, epoch * self._asha.reduction_factor

    def _epochs(self, trial: Trial) -> int:
        return int(trial.values.get("train.epochs", self._spec.train.total_epochs))
