"""What trials did when: noted by the search's own callback, or by a bare process."""

import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from segdist.engine.fit import Metrics


@dataclass
class Timeline:
    """What one trial did when, in seconds since 1970."""

    started: float
    """When it was begun: the process was asked for (bare), or Tune had it and said so (`on_trial_start`)."""
    first_step: float = 0.0
    images_per_second: list[float] = field(default_factory=list)
    """Of training alone, for each epoch."""
    reported: list[float] = field(default_factory=list)
    """When each epoch was over: scored, saved and reported."""

    def add(self, metrics: Metrics) -> None:
        """Note an epoch."""
        self.first_step = self.first_step or metrics["first_step_at"]
        self.images_per_second.append(metrics["train/images_per_second"])
        self.reported.append(time.time())

    @property
    def throughput(self) -> float:
        """Images a second in training, the median of the epochs after the first."""
        return statistics.median(self.images_per_second[1:])

    @property
    def epoch_seconds(self) -> float:
        """From report to report, the median."""
        return statistics.median(b - a for a, b in pairwise(self.reported))

    @property
    def to_first_step(self) -> float:
        """Seconds from the start to the end of the first step."""
        return self.first_step - self.started


@dataclass
class Clock:
    """What the trials of a search did when."""

    asked: float = 0.0
    """When Tune began to ask for the first trial's process."""
    trials: dict[str, Timeline] = field(default_factory=dict)

    def first(self) -> Timeline:
        """The trial that had to wait for its process."""
        return next(iter(self.trials.values()))

    def next(self) -> Timeline:
        """The trial after the first."""
        return list(self.trials.values())[1]

    def idle(self) -> float:
        """Seconds from the last report of a trial to the first step of the next, the median."""
        trials = list(self.trials.values())
        return statistics.median(b.first_step - a.reported[-1] for a, b in pairwise(trials))


def clocked(clock: Clock) -> dict[str, Any]:
    """What hears of starts and epochs in Tune's loop, as classes that fill the clock too, by their names."""
    from segdist.pipeline.tune_trials import Ends, Verdicts

    class ClockedEnds(Ends):
        def setup(self, **info: Any) -> None:
            clock.asked = time.time()
            super().setup(**info)

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            clock.trials.setdefault(trial.trial_id, Timeline(time.time()))
            super().on_trial_start(iteration, trials, trial, **info)

    class ClockedVerdicts(Verdicts):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            clock.trials[trial.trial_id].add(result)
            return super().on_trial_result(tune_controller, trial, result)

    return {"Ends": ClockedEnds, "Verdicts": ClockedVerdicts}
