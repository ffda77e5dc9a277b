"""What the driver of a sweep tells Prometheus; `measures` says what each number means."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from segdist.core.spec import SweepSpec
from segdist.core.storage import kind_of
from segdist.pipeline.meters import Gauges, begin, count, gauges
from segdist.pipeline.recording import Recording
from segdist.searching import Ledger, Search
from segdist.searching.budget import Meter
from segdist.searching.ledger import State
from segdist.sweepfile.loading import candidates


class SweepMeters:
    """What is told until the sweep's trials are done.

    Args:
        spec: the sweep.
        ledger: its trials.
        recording: tells MLflow of them.
        meter: the time of the sweep.

    Attributes:
        search: that goes on now; None before there is one.
    """

    def __init__(self, spec: SweepSpec, ledger: Ledger, recording: Recording, meter: Meter) -> None:
        self._spec, self._ledger, self._recording, self._meter = spec, ledger, recording, meter
        self._first_step_at = float("inf")
        self.search: Search | None = None

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell them until the block ends."""
        for family in candidates(self._spec):
            begin("driver", sweep=self._spec.name, family=family, place=kind_of(self._spec.storage))
        with gauges(self._spec.name, self._look):
            yield

    def epoch(self, number: int, first_step_at: float) -> None:
        """A trial reported an epoch.

        Args:
            number: of the trial.
            first_step_at: when its process had taken its first step, in seconds since 1970; infinite where none was.
        """
        self._first_step_at = min(self._first_step_at, first_step_at)
        family = self._ledger[number].values.get("model.family", self._spec.model.family)
        count("segdist_epochs", sweep=self._spec.name, family=family)

    def _look(self, shown: Gauges) -> None:
        sweep = self._spec.name
        states = Counter(trial.state for trial in self._ledger.trials)
        for state in get_args(State):
            shown.show("segdist_trials", states[state], sweep=sweep, state=state)
        spent, wasted = self._ledger.cost
        for outcome, held in (("useful", spent - wasted), ("wasted", wasted)):
            for kind, seconds in (("cpu", held.cpu_seconds), ("gpu", held.gpu_seconds)):
                shown.show("segdist_compute_seconds", seconds, sweep=sweep, resource=kind, outcome=outcome)
        if self._first_step_at < float("inf"):
            wait = self._first_step_at - self._meter.started_at
            shown.show("segdist_first_trial_seconds", wait, sweep=sweep)
        if self.search:
            shown.show("segdist_planned_trials", self.search.total, sweep=sweep)
            if self.search.best is not None:
                shown.show("segdist_best_score", self.search.best, sweep=sweep, metric=self.search.metric)
        shown.show("segdist_tracking_spool_trials", self._recording.spool, sweep=sweep)
        shown.show("segdist_tracking_told_timestamp_seconds", self._recording.told_at, sweep=sweep)
        shown.show("segdist_node_seconds", self._meter.node_seconds, sweep=sweep)
        if price := self._spec.resources.price_per_hour:
            shown.show("segdist_spent_money", self._meter.node_seconds / 3600 * price, sweep=sweep)
