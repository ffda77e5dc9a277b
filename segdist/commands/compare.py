"""`segdist compare`: the leaderboard of a sweep; in Python a table of pandas."""

import socket
import webbrowser
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from segdist.core.errors import BackendError
from segdist.core.storage import default_folder
from segdist.pages.leaderboard import Leaderboard, leaderboard
from segdist.tracking import Tracker, TrialRecord

if TYPE_CHECKING:
    import pandas as pd


def board_of(name: str, *, storage: str = "", tracking: str = "embedded") -> Leaderboard:
    """The leaderboard of a sweep, best trial first; sweeps whose driver was killed are closed before.

    Args:
        name: of the sweep; the one started last counts.
        storage: its folder; "" for `SEGDIST_STORAGE`, else `~/segdist`.
        tracking: its MLflow URI, or "embedded".

    Raises:
        BackendError: there is no such sweep, or MLflow does not answer.
    """
    tracker = Tracker.at(storage or default_folder(), tracking)
    tracker.close_abandoned()
    return leaderboard(tracker, name)


@dataclass(frozen=True)
class Shown:
    """Where MLflow's own pages show a sweep."""

    links: dict[str, str]
    """Addresses, by what they show."""
    command: str
    """That has to run for it; "" where a server does."""

    def __str__(self) -> str:
        """Lines for people."""
        lines = [f"mlflow    start `{self.command}`, then open:"] if self.command else []
        return "\n".join(lines + [f"{name:<9} {link}" for name, link in self.links.items()])

    def open(self) -> None:
        """Open MLflow's charts in a browser.

        Raises:
            BackendError: no server shows them yet, or there is no browser.
        """
        charts = self.links["charts"]
        place = urlsplit(charts)
        if self.command:  # the links of a server were made by asking it
            try:
                socket.create_connection((str(place.hostname), int(place.port or 80)), timeout=5).close()
            except OSError as error:
                raise BackendError(
                    f"Nothing answers at {place.scheme}://{place.netloc} yet. Start `{self.command}` in another "
                    "terminal, and run this again."
                ) from error
        if not webbrowser.open(charts):
            raise BackendError(f"There is no browser on this machine. Open {charts} in one that reaches it.")


def tracker_of(board: Leaderboard, *, storage: str = "", tracking: str = "embedded") -> Tracker:
    """Where the sweep of a leaderboard is recorded; storage and tracking are those that it was read from."""
    return Tracker.at(storage or default_folder(), tracking, metric=board.metric)


def pages_of(board: Leaderboard, *, storage: str = "", tracking: str = "embedded") -> Shown:
    """Where MLflow's own pages show the sweep of a leaderboard.

    Args:
        board: of the sweep.
        storage: its folder; "" for `SEGDIST_STORAGE`, else `~/segdist`.
        tracking: its MLflow URI, or "embedded".
    """
    tracker = tracker_of(board, storage=storage, tracking=tracking)
    return shown_by(tracker, board.sweep.run_id, board.best.run_id if board.best else "")


def shown_by(tracker: Tracker, parent_run_id: str, winner: str = "") -> Shown:
    """The same of a sweep's run, and the run of its winner."""
    return Shown(tracker.links(parent_run_id, winner), tracker.page_command)


def compare(name: str, *, storage: str = "", tracking: str = "embedded") -> "pd.DataFrame":
    """The leaderboard of a sweep as a table of pandas, a row a trial, best trial first.

    Columns: `trial` (its number, as in `load_model("NAME#NUMBER")`), `status`, the metric of the search, `gain` over
    the untuned trial, what else the leaderboard compares by (`val/dice`, `runtime/latency_p50_ms`, ...), `epochs`,
    `seconds`, a column for each key that was searched, and `run_id`. Where the best trials were trained again with
    other seeds (`search.confirm`), also `mean`, `std` and `seeds`, and the `chance` to be the best of them. What a
    trial has not is missing (NaN, None).

    Args:
        name: of the sweep; the one started last counts.
        storage: its folder; "" for `SEGDIST_STORAGE`, else `~/segdist`.
        tracking: its MLflow URI, or "embedded".

    Raises:
        BackendError: there is no such sweep, or MLflow does not answer.
    """
    import pandas as pd

    board = board_of(name, storage=storage, tracking=tracking)
    rows = [
        {
            "trial": trial.number,
            "status": board.ended(trial),
            board.metric: board.score(trial),
            **_confirmed(board, trial),
            "gain": board.gain(trial),
            **{measure: trial.metrics.get(measure) for measure in board.columns},
            "epochs": trial.epochs,
            "seconds": trial.seconds,
            **{key: board.values(trial).get(key) for key in board.space},
            "run_id": trial.run_id,
        }
        for trial in board.trials
    ]
    seeds = list(_CONFIRMED) if board.confirmed else []
    measured = [board.metric, *seeds, "gain", *board.columns]
    columns = ["trial", "status", *measured, "epochs", "seconds", *board.space, "run_id"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(measured, float))


_CONFIRMED = ("mean", "std", "seeds", "chance")


def _confirmed(board: Leaderboard, trial: TrialRecord) -> dict[str, float | None]:
    found = board.confirmed_by(trial)
    values = (found.mean, found.spread, len(found.models), board.chance(trial)) if found else (None,) * 4
    return dict(zip(_CONFIRMED, values, strict=True))
