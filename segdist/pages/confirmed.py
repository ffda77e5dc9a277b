"""How sure the winner is: what trials are worth that were trained again with other seeds, and what was compared."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

from segdist.tracking import TrialRecord


@dataclass(frozen=True)
class Confirmed:
    """A trial of the search with its repeats.

    Its own score counts among its seeds, although it is why the trial was chosen and so a little too good: of all that
    are compared it is so, and with few seeds each one counts. One that was stopped early is left out: it had not the
    epochs that its repeats had.

    Attributes:
        trial: of the search.
        models: the finished trainings, the trial's own among them, best first.
        lost: repeats that failed or break a constraint: what is left would be a choice of its own.
        scores: of the models in the search metric, in the same order.
    """

    trial: TrialRecord
    models: tuple[TrialRecord, ...]
    lost: tuple[TrialRecord, ...]
    scores: tuple[float, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every seed counts; only then can the trial win."""
        return not self.lost and bool(self.models)

    @property
    def model(self) -> TrialRecord:
        """What is kept of the trial where it wins: the model of its best seed.

        People deploy a model, not a mean, and the images that chose among configurations may choose among their seeds.
        But its own score is the luckiest of several, so it is the mean that is quoted; the test split, which it alone
        is shown, has chosen nothing.
        """
        return self.models[0]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, divided by their number less one; None for a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def text(self) -> str:
        """Mean and spread for people."""
        return f"{self.mean:.3f}" + ("" if self.spread is None else f" ± {self.spread:.3f}")


@dataclass(frozen=True)
class Standing:
    """How clearly the best trial is the best, on the validation images.

    Attributes:
        best: its number.
        compared: numbers of the others.
        close: those of them from which it is not distinguishable.
        chance: share of resamplings in which it is the best.
        images: how many there are.
        chances: of confirmed trials, the same share of each by its number; empty where seeds were not compared.
        gaps: what the best of them is better by than each other one in 95 of 100 resamplings; None where undefined.
    """

    best: int
    compared: tuple[int, ...]
    close: tuple[int, ...]
    chance: float
    images: int
    chances: Mapping[int, float] = field(default_factory=dict)
    gaps: Mapping[int, tuple[float, float] | None] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """JSON, as it is recorded."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Self | None:
        """What was recorded; None for nothing."""
        found = json.loads(text or "{}")
        if not found:
            return None
        known = {
            "compared": tuple(found["compared"]),
            "close": tuple(found["close"]),
            "chances": {int(number): chance for number, chance in found.get("chances", {}).items()},
            "gaps": {int(number): gap and tuple(gap) for number, gap in found.get("gaps", {}).items()},
        }
        return cls(**{**found, **known})
