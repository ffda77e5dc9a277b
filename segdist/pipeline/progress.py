"""What people see while a sweep runs: one live table in a terminal, plain lines in a log."""

import re
import time
from collections.abc import Sequence
from shutil import get_terminal_size

from rich.live import Live
from rich.text import Text

from segdist.core.terminal import Table, live, say
from segdist.core.text import counted, minutes
from segdist.searching import Search, Trial

LINE = re.compile(
    r"trial (?P<trial>\d+) +(?P<text>\S.*?) +(?P<summary>best \S+  done \d.*?)"
    r"(?:  (?P<values>\S*=.*|repeats trial .*))?"
)
"""What is said of a trial where there is no terminal, as `Progress` says it."""
_AROUND = 8
"""Lines of the terminal that hold no trial: the table's head and foot, and what was said last."""


class Progress:
    """Trials, epochs, the metric, the best so far, and the time left.

    Args:
        search: what is known of the trials, also of those that earlier starts did.
        metric: the search metric.
        epochs: of a full trial.
        searched: the searched keys.
    """

    def __init__(self, search: Search, *, metric: str, epochs: int, searched: Sequence[str]) -> None:
        self._search, self._metric, self._epochs = search, metric, epochs
        self._searched = tuple(searched)
        self._done_before = search.epochs(epochs)[0]
        self._started = time.monotonic()
        self._live: Live | None = None

    def start(self) -> None:
        """Draw the table, where there is a terminal to draw it in."""
        self._started = time.monotonic()
        self._live = live(self._table)
        if self._live:
            self._live.start()

    def stop(self) -> None:
        """Leave the last table standing."""
        if self._live:
            self._live.stop()
            self._live = None

    def epoch(self, number: int) -> None:
        """Show an epoch."""
        trial = self._search.ledger[number]
        score = trial.epochs[-1].metrics.get(self._metric, float("nan"))
        self._line(trial, f"epoch {trial.epochs[-1].epoch:>3}/{self._epochs}  {self._metric} {score:.3f}")

    def taken_up(self, number: int) -> None:
        """Say why a trial begins anew, from its latest checkpoint."""
        trial = self._search.ledger[number]
        place = f"goes on after epoch {trial.last_epoch}" if trial.last_epoch else "begins again"
        say(f"trial {number:<3} {place}: {trial.reason}")

    def ended(self, number: int) -> None:
        """Show an end; of a failure with the line that says why."""
        trial = self._search.ledger[number]
        texts = {"stopped": "stopped early", "failed": f"FAILED: {trial.reason}", "waiting": "waits for the others"}
        self._line(trial, "stopped: the budget is spent" if trial.is_cut_off else texts.get(trial.state, trial.state))

    def _line(self, trial: Trial, text: str) -> None:
        if self._live is None:
            say(f"trial {trial.number:<3} {text:<34} {self._summary()}  {self._values(trial)}")

    def _summary(self) -> str:
        best = self._search.best
        said = "best ?" if best is None else f"best {best:.3f}"
        repeats = "repeats {}/{}  ".format(*self._search.repeats) if self._search.repeats[1] else ""
        spent = f"  spent {self._search.budget_said}" if self._search.budget_said else ""
        return f"{said}  done {self._search.done}/{self._search.total}  {repeats}{self._time_left()}{spent}"

    def _time_left(self) -> str:
        """From the epochs that this start has done so far."""
        done, in_all = self._search.epochs(self._epochs)
        elapsed = time.monotonic() - self._started
        if done <= self._done_before:
            return "time left ?"
        left = elapsed / (done - self._done_before) * max(in_all - done, 0)
        return f"left {minutes(left)}"

    def _values(self, trial: Trial) -> str:
        if trial.repeats:
            return f"repeats trial {int(trial.repeats.partition('-')[0])}, seed {trial.seed}"
        shown = {key: trial.values[key] for key in self._searched if key in trial.values}
        return " ".join(
            f"{k.rpartition('.')[2]}={v:.3g}" if isinstance(v, float) else f"{k.rpartition('.')[2]}={v}"
            for k, v in shown.items()
        )

    def _table(self) -> Table:
        table = Table(title=self._summary(), title_justify="left", expand=False)
        for column in ("trial", "status", "epoch", self._metric, "best", "values"):
            table.add_column(column, justify="right" if column in ("trial", "epoch", self._metric, "best") else "left")
        shown = self._rows()
        if more := len(self._search.ledger) - len(shown):
            table.caption, table.caption_justify = f"and {counted(more, 'trial')} more", "left"
        for trial in shown:
            scores = trial.scores(self._metric)
            best = self._search.better(*scores) if scores else None
            table.add_row(
                str(trial.number),
                trial.state,
                f"{trial.last_epoch}/{self._epochs}",
                f"{scores[-1]:.3f}" if scores else "",
                "" if best is None else f"{best:.3f}",
                Text(self._values(trial)),
                style="bold green" if trial.number == self._search.leader else None,
            )
        return table

    def _rows(self) -> list[Trial]:
        """As many trials as the terminal holds: the leader, those that did not end, and the latest."""
        leader = self._search.leader
        ranked = sorted(self._search.ledger.trials, key=lambda t: (t.number != leader, t.has_ended, -t.number))
        room = max(get_terminal_size().lines - _AROUND, 4)
        return sorted(ranked[:room], key=lambda t: t.number)
