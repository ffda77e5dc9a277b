"""What people see while a sweep runs: one live table in a terminal, plain lines in a log."""

import time
from collections.abc import Sequence
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.live import Live
from rich.text import Text

from segdist.core.terminal import Table, live, say
from segdist.pipeline.callbacks import error_text, last_line


class Progress(Callback):
    """Trials, epochs, the metric, the best so far, and the time left.

    Args:
        metric: what the search maximises.
        trials: how many trials there will be.
        epochs: of a full trial.
        searched: the searched keys.
    """

    def __init__(self, *, metric: str, trials: int, epochs: int, searched: Sequence[str]) -> None:
        self._metric, self._total, self._epochs = metric, trials, epochs
        self._searched = tuple(searched)
        self._seen: list[Trial] = []
        self._best: dict[str, float] = {}
        self._epoch: dict[str, int] = {}
        self._done: set[str] = set()
        self._started = time.monotonic()
        self._live: Live | None = None

    def setup(
        self, stop: Any = None, num_samples: int | None = None, total_num_samples: int | None = None, **info: Any
    ) -> None:
        """Start the table, where there is a terminal to draw it in."""
        self._started = time.monotonic()
        self._live = live(self._table)
        if self._live:
            self._live.start()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Know all trials."""
        self._seen = list(trials)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Show an epoch."""
        value = float(result.get(self._metric, 0.0))
        self._best[trial.trial_id] = max(value, self._best.get(trial.trial_id, 0.0))
        self._epoch[trial.trial_id] = int(result.get("epoch", 0))
        self._line(trial, trials, f"epoch {result.get('epoch', 0):>3}/{self._epochs}  {self._metric} {value:.3f}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show an end."""
        self._done.add(trial.trial_id)
        early = self._epoch.get(trial.trial_id, 0) < self._epochs
        self._line(trial, trials, "stopped early" if early else "finished")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show a failure with the line that says why."""
        self._done.add(trial.trial_id)
        self._line(trial, trials, f"FAILED: {last_line(error_text(trial))}")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Leave the last table standing."""
        self._seen = list(trials)
        if self._live:
            self._live.stop()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_live": None, "_seen": []}

    def _line(self, trial: Trial, trials: list[Trial], text: str) -> None:
        if self._live is None:
            number = trials.index(trial)  # as MLflow and every table count
            say(f"trial {number:<3} {text:<34} {self._summary()}  {self._values(trial)}")

    def _summary(self) -> str:
        best = max(self._best.values(), default=0.0)
        return f"best {best:.3f}  done {len(self._done)}/{self._total}  {self._time_left()}"

    def _time_left(self) -> str:
        """From the epochs done so far, counting a trial that ended early as whole."""
        epochs = sum(self._epochs if trial in self._done else epoch for trial, epoch in self._epoch.items())
        elapsed = time.monotonic() - self._started
        if not epochs:
            return "time left ?"
        left = elapsed / epochs * (self._total * self._epochs - epochs)
        return f"left {int(left) // 60}:{int(left) % 60:02d}"

    def _values(self, trial: Trial) -> str:
        shown = {key: trial.config[key] for key in self._searched if key in trial.config}
        return " ".join(
            f"{k.rpartition('.')[2]}={v:.3g}" if isinstance(v, float) else f"{k.rpartition('.')[2]}={v}"
            for k, v in shown.items()
        )

    def _table(self) -> Table:
        table = Table(title=self._summary(), title_justify="left", expand=False)
        for column in ("trial", "status", "epoch", self._metric, "best", "values"):
            table.add_column(column, justify="right" if column in ("trial", "epoch", self._metric, "best") else "left")
        top = max(self._best.values(), default=0.0)
        for number, trial in enumerate(self._seen):
            result = trial.last_result or {}
            best = self._best.get(trial.trial_id)
            table.add_row(
                str(number),
                trial.status.lower(),
                f"{result.get('epoch', 0)}/{self._epochs}",
                f"{result[self._metric]:.3f}" if self._metric in result else "",
                f"{best:.3f}" if best is not None else "",
                Text(self._values(trial)),
                style="bold green" if best is not None and best == top else None,
            )
        return table
