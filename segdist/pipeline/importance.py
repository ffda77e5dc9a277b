"""Which searched keys decided the score: PED-ANOVA (Watanabe et al. 2023) over the trials of a sweep."""

import warnings
from typing import Any

from segdist.core.spec import Range
from segdist.pages import Leaderboard
from segdist.sweepfile import label_policies

LEAST_TRIALS = 6
"""Trials with a score below which a share says nothing."""


def importance(board: Leaderboard) -> dict[str, float]:
    """The share of each searched key in what separates the better half of the trials from all; they sum up to 1.

    Keys that not all trials have (a `when` that did not hold) are left out; nothing comes back for few trials, or where
    all scored the same.
    """
    import optuna

    scored = [t for t in board.trials if board.score(t) is not None]
    everywhere = [key for key in board.space if all(key in board.values(t) for t in scored)]
    if len(scored) < LEAST_TRIALS or not everywhere or len({board.score(t) for t in scored}) < 2:
        return {}
    study = optuna.create_study(direction="minimize" if board.is_lower_better else "maximize")
    spaces = {key: _distribution(board.space[key]) for key in everywhere}
    for trial in scored:
        chosen = {key: _value(board.space[key], board.values(trial)[key]) for key in everywhere}
        study.add_trial(optuna.trial.create_trial(params=chosen, distributions=spaces, value=board.score(trial)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is "experimental", and says so each time
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}


def _distribution(range_: Range) -> Any:
    from optuna import distributions

    if range_.choices:
        return distributions.CategoricalDistribution([label_policies.encoded(c) for c in range_.choices])
    kind: Any = distributions.IntDistribution if range_.is_integer else distributions.FloatDistribution
    return kind(range_.low, range_.high, log=range_.log)


def _value(range_: Range, value: Any) -> object:
    """The value in the range: the first trial's own may lie outside."""
    if range_.choices:
        return label_policies.encoded(value if value in range_.choices else range_.choices[0])
    assert range_.low is not None
    assert range_.high is not None
    return min(max(value, range_.low), range_.high)
