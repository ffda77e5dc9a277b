"""The search asks for the keys that count, starting from the file's own values."""

from typing import Any

import optuna
import pytest
from pydantic import ValidationError

from segdist.core.spec import SweepSpec
from segdist.searching.space import Space, baseline, can_tell, first_trials


def spec(**changes: Any) -> SweepSpec:
    content: dict[str, Any] = {
        "name": "s",
        "data": {"sources": [{"format": "synthetic"}]},
        "model": {"family": "unet_cbam", "unet_cbam": {"width": 12}},
        "train": {"lr": 0.5},
        "space": {
            "train.adapter.rank": {"choices": [4, 8], "when": {"train.adapter.kind": "lora"}},
            "train.adapter.kind": {"choices": ["full", "lora"], "when": {"model.family": "sam"}},
            "model.unet_cbam.width": {"choices": [8, 12], "when": {"model.family": "unet_cbam"}},
            "model.unet_cbam.depth": {"low": 2, "high": 6, "step": 2},
            "model.family": ["unet_cbam", "sam"],
            "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "train.loss.dice": {"low": 0.5, "high": 2.0},
        },
        **changes,
    }
    return SweepSpec.model_validate(content)


def test_the_first_trial_is_the_files_own_values_moved_into_the_ranges() -> None:
    assert baseline(spec()) == {
        "model.family": "unet_cbam",
        "model.unet_cbam.width": 12,
        "model.unet_cbam.depth": 4,
        "train.lr": 1e-2,
        "train.loss.dice": 1.0,
    }


def test_each_value_of_a_key_can_be_tried_once_before_the_sampler_chooses() -> None:
    tried = first_trials(spec(search={"try_each": "model.family", "trials": 4}))
    assert tried[0] == baseline(spec())
    assert [t["model.family"] for t in tried] == ["unet_cbam", "sam"]
    assert tried[1] == {
        "model.family": "sam",
        "model.unet_cbam.depth": 4,
        "train.adapter.kind": "full",
        "train.lr": 1e-2,
        "train.loss.dice": 1.0,
    }


@pytest.mark.parametrize(
    ("search", "rule"),
    [
        ({"try_each": "train.lr"}, "must name a key of `space` that has choices"),
        (
            {"try_each": "model.family", "trials": 1},
            "at least 2, for `search.try_each` tries each value of model.family",
        ),
    ],
)
def test_what_cannot_be_tried_is_refused(search: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        spec(search=search)


def test_a_key_is_asked_for_only_where_its_condition_holds() -> None:
    space = Space(dict(spec().space))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        space(trial)
        seen.add(frozenset(trial.params))
        assert ("model.unet_cbam.width" in trial.params) == (trial.params["model.family"] == "unet_cbam")
        assert ("train.adapter.kind" in trial.params) == (trial.params["model.family"] == "sam")
        assert ("train.adapter.rank" in trial.params) == (trial.params.get("train.adapter.kind") == "lora")
        study.tell(trial, 0.0)
    assert len(seen) == 3


def test_values_say_something_about_a_space_of_the_same_keys_also_from_outside_a_range() -> None:
    own = baseline(spec())
    assert can_tell(spec().space, own)
    assert can_tell(spec().space, {**own, "train.lr": 0.5}), "outside its range"
    assert not can_tell(spec().space, {**own, "train.lr": -1.0}), "it has no logarithm"
    assert not can_tell(spec().space, {**own, "model.unet_cbam.width": 16}), "no choice of today"
    assert not can_tell(spec().space, {**own, "train.adapter.kind": "lora"}), "a key whose condition does not hold"
    assert not can_tell(spec().space, {k: v for k, v in own.items() if k != "train.lr"}), "a key is missing"
