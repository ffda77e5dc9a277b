"""What decided the score is found, and nothing is said of too few trials."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segdist.core.spec import SweepSpec
from segdist.pages import Leaderboard, leaderboard
from segdist.pipeline.importance import LEAST_TRIALS, importance
from segdist.tracking import Tracker
from tests.tracking.conftest import make_spec, start_sweep, start_trial, storage, tracker

__all__ = ["storage", "tracker"]


@pytest.fixture
def board(tracker: Tracker, storage: Path) -> Leaderboard:
    """Thirty trials whose score follows the learning rate alone."""

    space = {
        "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "train.weight_decay": {"low": 0.0, "high": 0.1},
        "train.batch_size": [2, 4, 8],
        "train.epochs": {"low": 1, "high": 9},
    }
    spec = SweepSpec.model_validate({**make_spec(storage).model_dump(), "space": space})
    parent = start_sweep(tracker, spec)
    start_trial(tracker, parent)
    found = leaderboard(tracker, "cracks", parent_run_id=parent)
    rng = np.random.default_rng(0)
    trials = []
    for number in range(30):
        rate = float(10 ** rng.uniform(-4, -2))
        params = {
            "train.lr": rate if number else 0.5,  # the first trial's own value lies outside the range
            "train.weight_decay": float(rng.uniform(0, 0.1)),
            "train.batch_size": int(rng.choice([2, 4, 8])),
            "train.epochs": int(rng.integers(1, 10)),
        }
        score = 1 - abs(np.log10(rate) + 3) if number else 0.1
        trials.append(replace(found.trials[0], number=number, params=params, metrics={"val/iou": float(score)}))
    return Leaderboard(found.sweep, tuple(trials))


def test_the_key_that_decides_the_score_has_the_largest_share_and_shares_sum_up_to_one(board: Leaderboard) -> None:
    shares = importance(board)
    assert set(shares) == {"train.lr", "train.weight_decay", "train.batch_size", "train.epochs"}
    assert max(shares, key=lambda key: shares[key]) == "train.lr"
    assert shares["train.lr"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)


def test_few_trials_or_equal_scores_say_nothing(board: Leaderboard) -> None:
    assert importance(Leaderboard(board.sweep, board.trials[: LEAST_TRIALS - 1])) == {}
    same = tuple(replace(t, metrics={"val/iou": 0.5}) for t in board.trials)
    assert importance(Leaderboard(board.sweep, same)) == {}
