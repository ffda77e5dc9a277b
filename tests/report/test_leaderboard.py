import io
import json
from dataclasses import replace

from rich.console import Console

from segdist.report import Leaderboard, as_json, print_leaderboard
from segdist.report.leaderboard import number


def printed(board: Leaderboard) -> str:
    out = io.StringIO()
    print_leaderboard(board, Console(file=out))
    return out.getvalue()


def test_json_has_the_promised_shape_best_first_and_no_nan(board: Leaderboard) -> None:
    content = json.loads(json.dumps(as_json(board), allow_nan=False))
    assert list(content) == ["sweep", "parent_run_id", "trials", "best"]
    assert all(list(t) == ["run_id", "status", "params", "metrics", "seconds"] for t in content["trials"])
    scores = [t["metrics"]["val/iou"] for t in content["trials"] if "val/iou" in t["metrics"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 9
    assert content["best"] == content["trials"][0]["run_id"]
    assert content["parent_run_id"] == board.sweep.run_id
    assert content["trials"][0]["params"]["train.lr"] == board.trials[0].params["train.lr"]


def test_the_table_shows_searched_values_the_untuned_trial_and_what_was_won(board: Leaderboard) -> None:
    text = printed(board)
    assert "rank" in text
    assert "train.batch_size" not in text
    assert "0 untuned" in text
    assert "stopped early" in text
    assert board.best is not None
    gain = board.gain(board.best)
    assert gain is not None
    assert f"{gain:+.3f} against the untuned trial" in text
    assert "test   iou 0.710" in text


def test_user_text_is_no_markup_in_the_terminal(board: Leaderboard) -> None:
    assert "<script>alert('roofs')</script>" in printed(board)


def test_the_winner_is_the_best_trial_that_ended_well(board: Leaderboard) -> None:
    first, second = board.trials[:2]
    killed = Leaderboard(board.sweep, (replace(first, status="KILLED"), *board.trials[1:]))
    assert killed.best is second
    assert Leaderboard(board.sweep, ()).best is None
    assert "No trial has a score yet" in printed(Leaderboard(board.sweep, ()))


def test_numbers_are_short() -> None:
    values = (0.000123456, 8, True, None, "sam", [0.25, "a"])
    assert [number(v) for v in values] == ["0.000123", "8", "true", "", "sam", "0.25, a"]
