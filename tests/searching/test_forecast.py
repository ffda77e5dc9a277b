"""A search that is played in advance keeps the rules of the search."""

from collections.abc import Mapping
from typing import Any

import pytest

from segdist.searching.forecast import Pace, forecast
from tests.searching.sweeps import sweep


def even(values: Mapping[str, Any]) -> Pace:
    return Pace(setup=2.0, epoch=1.0)


def test_without_early_stopping_every_trial_comes_to_its_end() -> None:
    played = forecast(sweep(trials=6, asha=None), at_once=2, pace=even)
    assert played.trials == 6
    assert played.reached == (6.0,) * 9
    assert played.trial_seconds == 66.0
    assert played.seconds == 33.0


def test_of_many_trials_about_one_in_three_survives_each_rung() -> None:
    rule = {"grace_epochs": 2, "reduction_factor": 3, "pause": False}
    played = forecast(sweep(trials=90, asha=rule), at_once=1, pace=even)
    assert played.reached[:2] == (90.0, 90.0)
    assert played.reached[2] == played.reached[5]
    assert 24 < played.reached[2] < 42
    assert 8 < played.reached[8] < 20
    assert played.seconds == pytest.approx(90 * 2 + sum(played.reached))


def test_of_trials_that_wait_about_a_third_passes_each_rung_and_some_are_begun_again() -> None:
    spec = sweep(trials=90, asha={"grace_epochs": 1, "reduction_factor": 3, "pause": True})
    played = forecast(spec, at_once=1, pace=even)
    assert played.reached[0] == 90
    assert played.reached[1] == played.reached[2]
    assert played.reached[3] == played.reached[8]
    assert 30 <= played.reached[1] < 40, "a third, and those that were among the best when there were fewer"
    assert 11 <= played.reached[8] < 18, "a ninth, those, and the untuned one"
    assert 2 * 90 < played.seconds - sum(played.reached) < 2 * sum(played.reached[0:9:3])


def test_the_best_after_one_epoch_go_on_alone() -> None:
    played = forecast(sweep(trials=8, stop={"top_after": 1, "keep": 3}), at_once=2, pace=even)
    assert played.reached == (8.0, *(3.0,) * 8)


def test_an_error_is_better_when_lower() -> None:
    high, low = (
        forecast(sweep(trials=30, metric=name), at_once=1, pace=even) for name in ("val/iou", "val/hausdorff_95")
    )
    assert high.reached == low.reached


def test_a_grid_comes_to_its_end_and_trials_may_differ_in_length_and_pace() -> None:
    space = {"train.lr": [1e-3, 2e-3], "train.loss.dice": [0.5], "train.epochs": [2, 4]}
    grid = sweep(space=space, sampler="grid", trials=50, asha=None)
    played = forecast(grid, at_once=1, pace=lambda values: Pace(0.0, 1.0 if values["train.lr"] == 1e-3 else 2.0))
    assert played.trials == 4
    assert played.reached == (4.0, 4.0, 2.0, 2.0)
    assert played.trial_seconds == (2 + 4) * (1 + 2)


def test_of_very_many_trials_some_are_played_and_the_others_are_told_from_them() -> None:
    played = forecast(sweep(trials=4000, asha=None), at_once=4, pace=even)
    assert played.trials == 4000
    assert played.reached == (4000.0,) * 9
    assert played.seconds == pytest.approx(4000 * 11 / 4)


@pytest.mark.parametrize("trials", [6, 40])
def test_the_best_are_trained_again_to_their_end_and_are_not_more_in_a_larger_search(
    monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    monkeypatch.setattr("segdist.searching.forecast._MOST_PLAYED", 10)
    confirm = {"trials": 2, "seeds": 2}
    stop = {"top_after": 1, "keep": 3}
    alone, played = (
        forecast(sweep(trials=trials, stop=stop, confirm=given), at_once=2, pace=even) for given in (None, confirm)
    )
    assert played.trials == trials + 4
    assert [more - one for more, one in zip(played.reached, alone.reached, strict=True)] == [4.0] * 9
    assert played.trial_seconds - alone.trial_seconds == pytest.approx(4 * 11)
    assert played.seconds - alone.seconds == pytest.approx(2 * 11)
