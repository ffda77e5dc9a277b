"""A search begins from the best of an earlier one, and believes the others only where those hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdist.core.errors import StorageError
from segdist.core.spec import SweepSpec, digest
from segdist.searching import Ledger, warm_start
from segdist.searching.space import baseline
from segdist.searching.warm_start import Earlier, Prior, WarmStart, merged, values_among
from segdist.sweepfile import grid
from tests.searching.sweeps import begun, run, sweep

FAMILIES: dict[str, Any] = {
    "model.family": ["unet_cbam", "sam"],
    "model.unet_cbam.width": {"low": 8, "high": 16, "when": {"model.family": "unet_cbam"}},
    "train.adapter.kind": {"choices": ["full", "lora"], "when": {"model.family": "sam"}},
}


def earlier(*values: dict[str, Any]) -> tuple[Earlier, ...]:
    return tuple(Earlier(sweep="e", number=k, values=one) for k, one in enumerate(values))


def dices(*values: float) -> tuple[Earlier, ...]:
    return earlier(*({"train.lr": 5e-3, "train.loss.dice": value} for value in values))


def warm(folder: Path, known: tuple[Earlier, ...], **search: Any) -> SweepSpec:
    warm_start.write(str(folder), WarmStart(asked=("e",), trials=known))
    return sweep(warm_start="e", **search)


def test_the_best_of_the_earlier_sweep_come_after_the_files_own_values_and_listed_points(tmp_path: Path) -> None:
    spec = warm(tmp_path, dices(1.9, 1.9, 1.7, 0.6), points=[{"train.loss.dice": 0.7}], trials=5)
    run(begun(spec, tmp_path), most=2)
    run(begun(spec, tmp_path))  # killed in between
    values = [t.values for t in Ledger(str(tmp_path)).trials]
    assert values[0] == baseline(spec)
    assert values[1]["train.loss.dice"] == 0.7
    assert values[2:4] == [{"train.lr": 5e-3, "train.loss.dice": dice} for dice in (1.9, 1.7)], "distinct ones"
    assert len({digest(one) for one in values}) == 5


@pytest.mark.parametrize(
    "sampler", ["tpe", "random", "quasi_random", "cmaes", pytest.param("gp", marks=pytest.mark.slow)]
)
def test_starts_in_between_change_no_value_also_with_what_is_believed(tmp_path: Path, sampler: str) -> None:
    trials = dices(1.9, 1.8, 1.6, 1.2, 0.9, 0.8, 0.6, 0.5)
    for name, starts in (("whole", (100,)), ("parts", (2, 1, 4, 100))):
        spec = warm(tmp_path / name, trials, trials=10, sampler=sampler, asha=None)
        for most in starts:
            run(begun(spec, tmp_path / name), most=most)
    whole, parts = ([t.values for t in Ledger(str(tmp_path / name)).trials] for name in ("whole", "parts"))
    assert whole == parts
    assert len(whole) == 10


def test_what_holds_is_believed_and_draws_the_sampler_to_it(tmp_path: Path) -> None:
    """The earlier sweep knew that much dice is good: the score of today is the same, or turned around."""
    known = dices(*(2.0 - 0.1 * k for k in range(14)))
    drawn: dict[str, list[float]] = {}
    for name, sign in (("same", 1), ("turned", -1)):
        spec = warm(tmp_path / name, known, trials=12, asha=None, seed=1)
        search = begun(spec, tmp_path / name)
        while trial := search.next():
            search.start(trial.number)
            search.report(trial.number, {"epoch": 1, "val/iou": 0.5 + sign * trial.values["train.loss.dice"] / 5})
            search.end(trial.number)
        drawn[name] = [t.values["train.loss.dice"] for t in search.ledger.trials[3:]]
    assert np.mean(drawn["same"]) > 1.5
    assert np.mean(drawn["turned"]) < 1.25


OWN = {"train.lr": 1e-3, "train.loss.dice": 1.0}


@pytest.mark.parametrize(
    ("metric", "scores", "believed"),
    [
        ("val/iou", {1.9: 0.7, 1.8: 0.6}, [(1.5, 0.7), (1.2, 0.6), (0.6, 0.5)]),
        ("val/iou", {1.9: 0.6, 1.8: 0.7}, [(1.5, 0.7), (1.2, 0.6), (0.6, 0.5)]),
        ("val/iou", {1.9: 0.7, 1.8: 0.5}, []),
        ("val/iou", {1.9: 0.4, 1.8: 0.3}, []),
        ("val/iou", {1.9: 0.7}, []),  # the second has no score: it failed, or runs
        ("val/hausdorff_95", {1.9: 0.2, 1.8: 0.4}, [(1.5, 0.2), (1.2, 0.35), (0.6, 0.5)]),
        ("val/hausdorff_95", {1.9: 0.7, 1.8: 0.6}, []),
    ],
)
def test_others_are_believed_by_rank_between_the_best_tried_and_the_untuned_where_both_tried_beat_that(
    metric: str, scores: dict[float, float], believed: list[tuple[float, float]]
) -> None:
    prior = Prior(sweep(metric=metric), dices(1.9, 1.8, 1.5, 1.2, 0.6))
    known = {digest({"train.lr": 5e-3, "train.loss.dice": dice}): score for dice, score in scores.items()}
    told = list(prior.believed({**known, digest(OWN): 0.5}, digest(OWN)))
    assert [values["train.loss.dice"] for values, _ in told] == [dice for dice, _ in believed]
    assert [score for _, score in told] == pytest.approx([score for _, score in believed])


@pytest.mark.parametrize(("second", "is_believed"), [(0.4, True), (0.6, False)])
def test_where_the_untuned_trial_was_the_best_before_the_others_must_be_worse_here_too(
    second: float, *, is_believed: bool
) -> None:
    trials = earlier(OWN, {"train.lr": 5e-3, "train.loss.dice": 1.9}, {"train.lr": 5e-3, "train.loss.dice": 0.6})
    prior = Prior(sweep(), trials)
    scores = {digest(OWN): 0.5, digest(trials[1].values): second}
    told = list(prior.believed(scores, digest(OWN)))
    assert told == ([(trials[2].values, 0.5)] if is_believed else [])


def test_an_earlier_sweep_of_the_untuned_trial_alone_says_nothing() -> None:
    prior = Prior(sweep(), earlier(OWN))
    assert list(prior.believed({digest(OWN): 0.5}, digest(OWN))) == []


def test_numbers_outside_a_range_are_moved_into_it_and_choices_that_are_gone_are_left_out(tmp_path: Path) -> None:
    trials = earlier(
        {"model.family": "mask2former", "train.lr": 1e-3, "train.loss.dice": 1.0},
        {"model.family": "sam", "train.adapter.kind": "lora", "train.lr": 5e-2, "train.loss.dice": 9.0},
        {"model.family": "unet_cbam", "model.unet_cbam.width": 99, "train.lr": 1e-3},
    )
    warm_start.write(str(tmp_path), WarmStart(asked=("e",), trials=trials))
    spec = sweep(space=FAMILIES, warm_start=["e"], trials=4)
    run(begun(spec, tmp_path))
    assert [t.values for t in Ledger(str(tmp_path)).trials[1:3]] == [
        {"model.family": "sam", "train.adapter.kind": "lora", "train.lr": 1e-2, "train.loss.dice": 2.0},
        {"model.family": "unet_cbam", "model.unet_cbam.width": 16, "train.lr": 1e-3, "train.loss.dice": 1.0},
    ]


def test_a_grid_begins_with_its_points_nearest_to_the_best_and_has_no_others(tmp_path: Path) -> None:
    space = {"train.lr": {"low": 1e-3, "high": 3e-3, "step": 1e-3}, "train.loss.dice": [0.5, 1.0]}
    warm_start.write(
        str(tmp_path),
        WarmStart(asked=("e",), trials=earlier({"train.lr": 2.4e-3, "train.loss.dice": 0.5}, {"train.lr": 9.0})),
    )
    spec = sweep(space=space, sampler="grid", asha=None, trials=50, warm_start="e")
    run(begun(spec, tmp_path))
    values = [t.values for t in Ledger(str(tmp_path)).trials]
    assert values[1] == {"train.lr": 2e-3, "train.loss.dice": 0.5}
    assert values[2] == {"train.lr": 3e-3, "train.loss.dice": 1.0}
    assert len(values) == grid.count(spec.space) == 6


def test_of_all_parameters_of_a_trial_those_are_taken_that_apply_in_the_space_of_today() -> None:
    space = sweep(space={**FAMILIES, "train.augment": ["none", ["flip", "rotate"]]}).space
    params = {
        "model.family": "sam",
        "model.unet_cbam.width": 12,
        "train.adapter.kind": "lora",
        "train.lr": 1e-3,
        "train.augment": ["flip", "rotate"],
        "train.loss.dice": "much",
        "train.epochs": 9,
    }
    assert values_among(space, params) == {
        "model.family": "sam",
        "train.adapter.kind": "lora",
        "train.lr": 1e-3,
        "train.augment": '["flip", "rotate"]',
    }


def test_several_sweeps_are_merged_by_rank_and_very_many_trials_are_thinned_over_all_ranks() -> None:
    one, other = dices(*range(4)), dices(10, 11)
    assert [t.values["train.loss.dice"] for t in merged([one, other])] == [0, 10, 1, 2, 11, 3]
    many = merged([dices(*range(3000))])
    assert len(many) == warm_start.MOST
    assert [many[0].number, many[-1].number] == [0, 2990]


def test_a_damaged_file_is_named_and_one_that_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    (tmp_path / warm_start.FILE).write_text('{"asked": []}')
    assert begun(sweep(), tmp_path).next()
    with pytest.raises(StorageError, match=r"warm_start\.json .* is damaged; delete it"):
        begun(sweep(warm_start="e"), tmp_path)
