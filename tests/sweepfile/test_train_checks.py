"""What is refused about `train` before anything starts."""

from dataclasses import replace
from typing import Any

import pytest

from segdist.core.plugins import USUAL_ADAPTERS, declaration
from segdist.core.spec import SweepSpec
from segdist.sweepfile.train_checks import KeyProblem, problems

WITH_BLOCKS = declaration("unet_cbam")
WITHOUT = replace(WITH_BLOCKS, encoder_blocks=(), adapters=USUAL_ADAPTERS)


def found(families: tuple[str, ...] = ("plain",), **keys: Any) -> list[KeyProblem]:
    data = {"sources": [{"format": "synthetic", "count": 4}]}
    spec = SweepSpec.model_validate({"name": "a", "model": {"family": families[0]}, "data": data, **keys})
    known = {"plain": WITHOUT, "unet_cbam": WITH_BLOCKS}
    return list(problems(spec, {name: known[name] for name in families}))


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"train": {"layer_decay": 0.8}}, ("train", "layer_decay")),
        ({"space": {"train.layer_decay": {"low": 0.5, "high": 1.0}}}, ("space", "train.layer_decay")),
    ],
)
def test_rates_that_fall_from_block_to_block_need_blocks(keys: dict[str, Any], place: tuple[str, ...]) -> None:
    said = "`plain` names no blocks of its encoder. Use `train.encoder_lr_factor`."
    assert found(**keys) == [(place, said)]
    assert found(("unet_cbam", "plain"), **keys) == [(place, said)]
    assert found(("unet_cbam",), **keys) == []


def test_rates_may_fall_where_only_a_family_with_blocks_searches_them() -> None:
    searched = {"low": 0.5, "high": 1.0, "when": {"model.family": "unet_cbam"}}
    space = {"model.family": ["unet_cbam", "plain"], "train.layer_decay": searched}
    assert found(("unet_cbam", "plain"), space=space) == []
