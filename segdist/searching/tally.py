"""What all trials of a sweep come to, kept up with each write: asking takes as long after thousands as after two."""

from dataclasses import dataclass

from segdist.metrics import is_minimised
from segdist.searching.ledger import Trial


@dataclass(frozen=True)
class _Part:
    """What one trial adds."""

    has_ended: bool = False
    epochs: int = 0
    best: float | None = None
    gpu_seconds: float = 0.0
    whole_seconds: float | None = None
    """That it took from start to end; None where it has not ended, or was cut off."""


class Tally:
    """Of the trials that `note` was told, each as it was told last.

    Args:
        metric: the search metric.

    Attributes:
        searched: trials of the search.
        done: trials of the search that ended, in whatever way.
        repeated: repeats that ended.
        epochs: of all trials.
        open_epochs: of those that did not end.
        gpu_seconds: that all trials have held.
        leader: the search's trial with the best score of all that break no constraint, as far as is known; None before
            there is one.
    """

    def __init__(self, metric: str) -> None:
        self.metric, self._better = metric, min if is_minimised(metric) else max
        self.searched = self.done = self.repeated = self.epochs = self.open_epochs = 0
        self._whole, self._whole_seconds, self.gpu_seconds = 0, 0.0, 0.0
        self.leader: int | None = None
        self._parts: dict[int, _Part] = {}

    @property
    def best(self) -> float | None:
        """The leader's score."""
        return None if self.leader is None else self._parts[self.leader].best

    @property
    def usual_seconds(self) -> float:
        """That a trial took on average, early stopping counted; 0 before one has ended."""
        return self._whole_seconds / self._whole if self._whole else 0.0

    def better(self, *scores: float) -> float:
        """The best of some scores."""
        return self._better(scores)

    def note(self, trial: Trial) -> None:
        """A trial as it is now."""
        is_repeat = bool(trial.repeats)
        before = self._parts.get(trial.number)
        if before is None:
            before = _Part()
            self.searched += not is_repeat
        scores = () if trial.broken or is_repeat else trial.scores(self.metric)
        is_whole = trial.has_ended and trial.epochs and not trial.is_cut_off
        now = _Part(
            trial.has_ended,
            len(trial.epochs),
            self._better(scores) if scores else None,
            trial.spent.gpu_seconds,
            trial.seconds if is_whole else None,
        )
        self._parts[trial.number] = now
        self.gpu_seconds += now.gpu_seconds - before.gpu_seconds
        self._whole += (now.whole_seconds is not None) - (before.whole_seconds is not None)
        self._whole_seconds += (now.whole_seconds or 0.0) - (before.whole_seconds or 0.0)
        ended = now.has_ended - before.has_ended
        self.done += ended * (not is_repeat)
        self.repeated += ended * is_repeat
        self.epochs += now.epochs - before.epochs
        self.open_epochs += now.epochs * (not now.has_ended) - before.epochs * (not before.has_ended)
        if now.best != before.best:
            known = {number: part.best for number, part in self._parts.items() if part.best is not None}
            self.leader = self._better(known, key=known.__getitem__) if known else None
