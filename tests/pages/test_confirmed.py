"""The leaderboard of a sweep whose best trials were trained again with other seeds."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segdist.pages import Leaderboard, Standing, as_json, print_leaderboard
from segdist.pages.report import _render
from segdist.tracking import Tracker, TrialRecord, names


def repeated(trial: TrialRecord, number: int, score: float, **changes: Any) -> TrialRecord:
    return replace(
        trial,
        run_id=f"run-{number}",
        trial_key=f"key-{number}",
        number=number,
        metrics={"val/iou": score},
        is_baseline=False,
        repeats=trial.trial_key,
        **changes,
    )


@pytest.fixture
def pair(board: Leaderboard) -> Leaderboard:
    """The search preferred trial 1 by its only seed; with three, trial 2 is better. The untuned one has 0.4."""
    records = [
        replace(
            trial,
            number=n,
            metrics={"val/iou": score},
            is_baseline=not n,
            status="FINISHED",
            epochs=8,
            broken={},
            reason="",
        )
        for n, (trial, score) in enumerate(zip(board.trials[:4], (0.4, 0.9, 0.8, 0.7), strict=True))
    ]
    untuned, lucky, steady, third = records
    repeats = [
        repeated(lucky, 10, 0.5),
        repeated(lucky, 11, 0.4),
        repeated(steady, 12, 0.85),
        repeated(steady, 13, 0.75),
    ]
    return with_tags(
        Leaderboard(board.sweep, (lucky, steady, third, untuned), tuple(repeats)), {names.CONFIRMED: [1, 2]}
    )


def with_tags(board: Leaderboard, tags: dict[str, object]) -> Leaderboard:
    texts = {name: json.dumps(value) for name, value in tags.items()}
    return replace(board, sweep=replace(board.sweep, tags={**board.sweep.tags, **texts}))


def compared(board: Leaderboard, *, close: list[int]) -> Leaderboard:
    found = {"best": 2, "compared": [1], "close": close, "chance": 0.58, "images": 24}
    more = {"chances": {"2": 0.58, "1": 0.42}, "gaps": {"1": [-0.05, 0.35]}}
    return with_tags(board, {names.STANDING: {**found, **more}})


def printed(board: Leaderboard) -> str:
    out = io.StringIO()
    print_leaderboard(board, Console(file=out, width=300))
    return out.getvalue()


def test_the_best_mean_wins_and_the_model_is_that_of_its_best_seed(pair: Leaderboard) -> None:
    assert [one.trial.number for one in pair.confirmed] == [2, 1]
    assert pair.confirmed[0].mean == pytest.approx(0.8)
    assert pair.confirmed[0].spread == pytest.approx(0.05), "of the sample"
    assert pair.best is not None
    assert (pair.best.number, pair.best.run_id) == (12, "run-12")
    assert pair.leader is pair.trials[1]
    assert pair.gain(pair.best) == pytest.approx(0.4), "of the mean, not of the lucky seed"
    assert pair.gain(pair.trials[0]) == pytest.approx(0.2)
    assert pair.gain(pair.trials[2]) == pytest.approx(0.3), "of a trial of one seed by its score"


@pytest.mark.parametrize(
    ("close", "said"),
    [([1], "trial 2 is not distinguishable from trial 1;"), ([], "trial 2 is better than the others, beyond chance;")],
)
def test_the_text_says_mean_spread_seeds_chance_and_which_is_not_distinguishable(
    pair: Leaderboard, close: list[int], said: str
) -> None:
    text = printed(compared(pair, close=close))
    assert "best   trial 2: val/iou 0.800 ± 0.050 over 3 seeds, +0.400 against the untuned trial" in text
    assert "model  trial 12, its best seed: val/iou 0.850" in text
    assert f"note   On 24 validation images and 6 trainings {said}" in text
    assert "of 2 trials with fresh seeds it is the best in 58 % of resamplings over images and seeds." in text
    rows = [line.split() for line in text.splitlines()]
    numbers = [row[0] for row in rows[2:6]]
    assert sorted(numbers) == ["0", "1", "2", "3"], "repeats fill no rows"
    (row,) = (row for row in rows if row[0] == "1")
    assert row[2:9] == ["0.900", "0.600", "±", "0.265", "(3)", "42", "%"]


def test_as_json_it_says_the_same(pair: Leaderboard) -> None:
    content = json.loads(json.dumps(as_json(compared(pair, close=[1])), allow_nan=False))
    assert content["best"] == "run-12"
    assert len(content["trials"]) == 4
    first, second = content["confirmed"]
    assert (first["trial"], first["chance"], first["behind_by"]) == (2, 0.58, None)
    assert (second["trial"], second["chance"], second["behind_by"]) == (1, 0.42, [-0.05, 0.35])
    assert [seed["trial"] for seed in first["seeds"]] == [12, 2, 13]
    assert [seed["score"] for seed in first["seeds"]] == [0.85, 0.8, 0.75]
    assert as_json(replace(pair, sweep=replace(pair.sweep, tags={})))["confirmed"] == []


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({"status": "FAILED", "reason": "no memory."}, "with another seed, as trial 12, it failed: no memory."),
        (
            {"broken": {"model/bytes": 5.0}},
            "with another seed, as trial 12, it breaks a constraint (model/bytes is 5 above 0).",
        ),
    ],
)
def test_a_trial_that_does_not_do_well_with_every_seed_does_not_win(
    pair: Leaderboard, lost: dict[str, Any], said: str
) -> None:
    repeats = tuple(replace(r, **lost) if r.number == 12 else r for r in pair.repeats)
    one = replace(pair, repeats=repeats)
    assert [c.trial.number for c in one.confirmed] == [1]
    assert one.best is one.trials[0], "the best seed of the one that is confirmed"
    assert f"note   Trial 2 is not confirmed: {said}" in printed(one)
    both = replace(one, repeats=tuple(replace(r, **lost) if r.number in (10, 12) else r for r in pair.repeats))
    assert both.confirmed == ()
    assert both.best is both.trials[0], "as if none had been trained again"
    assert "over 3 seeds" not in printed(both)
    assert printed(both).count("is not confirmed") == 2


def test_until_the_search_says_that_they_are_done_repeats_decide_nothing(pair: Leaderboard) -> None:
    running = replace(pair, sweep=replace(pair.sweep, tags={}))
    assert running.confirmed == ()
    assert running.best is running.trials[0]


def test_a_repeat_that_was_given_up_is_no_seed_and_spoils_nothing(pair: Leaderboard) -> None:
    """Fewer seeds were asked for before it came to its end."""
    repeats = tuple(replace(r, status="KILLED") if r.number == 12 else r for r in pair.repeats)
    one = replace(pair, repeats=repeats)
    assert [(c.trial.number, len(c.models)) for c in one.confirmed] == [(2, 2), (1, 3)]


def test_a_trial_that_was_stopped_early_is_no_seed_of_its_values(pair: Leaderboard) -> None:
    trials = tuple(replace(t, epochs=1) if t.number == 1 else t for t in pair.trials)
    one = replace(pair, trials=trials)
    assert [(c.trial.number, len(c.models), round(c.mean, 3)) for c in one.confirmed] == [(2, 3, 0.8), (1, 2, 0.45)]


def test_what_was_compared_before_other_repeats_is_not_said(pair: Leaderboard) -> None:
    old = compared(pair, close=[1])
    assert old.standing
    assert with_tags(old, {names.CONFIRMED: [1, 2, 3]}).standing == ""
    assert with_tags(old, {names.CONFIRMED: []}).standing == ""
    assert old.chance(old.trials[3]) is None


def test_of_an_error_the_lowest_mean_wins(pair: Leaderboard) -> None:
    def measured(trials: tuple[TrialRecord, ...]) -> tuple[TrialRecord, ...]:
        return tuple(replace(t, metrics={"val/hausdorff_95": 10 * t.metrics["val/iou"]}) for t in trials)

    sweep = replace(pair.sweep, metric="val/hausdorff_95")
    one = Leaderboard(sweep, measured(pair.trials), measured(pair.repeats))
    assert [c.trial.number for c in one.confirmed] == [1, 2]
    assert one.best is not None
    assert one.best.number == 11
    assert one.gain(one.best) == pytest.approx(-2.0)


def test_the_page_shows_them_beside_the_trials_of_the_search(
    pair: Leaderboard, filled: Tracker, tmp_path: Path
) -> None:
    board = compared(pair, close=[1])
    real = pair.trials[0].run_id  # its files stand for those of all
    board = replace(board, repeats=tuple(replace(r, run_id=real) for r in board.repeats))
    page = _render(filled, board)
    assert 'id="confirmed"' in page
    assert "0.800 ± 0.050<small>trial 2 over 3 seeds; its model is the best of them, trial 12 with 0.850" in page
    assert "not distinguishable from trial 1" in page
    assert page.count('<tr data-trial="') == 4
    assert "\u22120.050 to +0.350" in page
    not_yet = _render(filled, replace(board, sweep=replace(board.sweep, tags={})))
    assert 'id="confirmed"' not in not_yet
    assert "mean over seeds" not in not_yet


def test_what_was_compared_is_read_as_it_was_written() -> None:
    whole = Standing(2, (1, 3), (3,), 0.5, 24, {2: 0.5, 1: 0.25, 3: 0.25}, {1: (0.1, 0.2), 3: None})
    assert Standing.of(whole.text) == whole
    assert Standing.of("") is Standing.of("{}") is None
    before = '{"best": 2, "compared": [1], "close": [], "chance": 0.9, "images": 24}'  # without seeds
    assert Standing.of(before) == Standing(2, (1,), (), 0.9, 24)
