"""`segdist compare`: the leaderboard of a sweep; in Python a table of pandas."""

from typing import TYPE_CHECKING

from segdist.core.storage import default_folder
from segdist.pages.leaderboard import Leaderboard, leaderboard
from segdist.tracking import Tracker

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


def compare(name: str, *, storage: str = "", tracking: str = "embedded") -> "pd.DataFrame":
    """The leaderboard of a sweep as a table of pandas, a row a trial, best trial first.

    Columns: `trial` (its number, as in `load_model("NAME#NUMBER")`), `status`, the metric of the search, `gain` over
    the untuned trial, what else the leaderboard compares by (`val/dice`, `runtime/latency_p50_ms`, ...), `epochs`,
    `seconds`, a column for each key that was searched, and `run_id`. What a trial has not is missing (NaN, None).

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
            "gain": board.gain(trial),
            **{measure: trial.metrics.get(measure) for measure in board.columns},
            "epochs": trial.epochs,
            "seconds": trial.seconds,
            **{key: board.values(trial).get(key) for key in board.space},
            "run_id": trial.run_id,
        }
        for trial in board.trials
    ]
    columns = ["trial", "status", board.metric, "gain", *board.columns, "epochs", "seconds", *board.space, "run_id"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys([board.metric, "gain", *board.columns], float))
