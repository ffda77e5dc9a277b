"""The average of the weights is what its formula says, is the model, and survives a resumption to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from segdist import adapters
from segdist.core.plugins import declaration
from segdist.core.spec import AdapterSpec, TrainSpec
from segdist.engine import checkpoint
from segdist.engine.averaging import AveragedWeights
from segdist.engine.fit import MODEL, TRAINING, fit
from segdist.engine.predict import score
from segdist.engine.state import Fit
from segdist.engine.workers import Workers
from segdist.models.unet_cbam import network as unet
from tests.engine.drawn import CLASSES, Reports, WithBatchNorm, roofs, tiny_run, weights

TRAIN, VAL = roofs(8), roofs(2, seed=1)


class OneWeight(nn.Module):
    mean: torch.Tensor
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))


def moved(network: OneWeight, averages: AveragedWeights, to: float) -> None:
    with torch.no_grad():
        network.weight.fill_(to)
        network.mean.fill_(-to)
        network.count.add_(1)
    averages.update()


@pytest.mark.parametrize("steps", [10, 1000])
@pytest.mark.parametrize("half_life", [0.1, 0.3, 0.5])
def test_half_of_the_average_comes_from_the_last_share_of_the_steps(half_life: float, steps: int) -> None:
    """Zeros before, ones from there on: the product of (1 - 1/t)^p from k to n is (k/n)^p, which is a half."""
    network = OneWeight()
    averages = AveragedWeights(network, {"weight"}, half_life=half_life)
    for step in range(1, steps + 1):
        moved(network, averages, to=float(step > round(steps * (1 - half_life))))
    with averages.in_place():
        assert network.weight.tolist() == pytest.approx([0.5, 0.5], rel=1e-4)
        assert network.mean.tolist() == pytest.approx([-0.5, -0.5], rel=1e-4)
        assert network.count == steps, "a counter is no average"
    assert network.weight.tolist() == [1, 1]


def test_the_first_step_leaves_nothing_of_what_was_before() -> None:
    network = OneWeight()
    averages = AveragedWeights(network, {"weight"}, half_life=0.1)
    moved(network, averages, to=7.0)
    with averages.in_place():
        assert network.weight.tolist() == [7, 7]


def test_the_weights_come_back_when_scoring_fails() -> None:
    network = OneWeight()
    averages = AveragedWeights(network, {"weight"}, half_life=0.5)
    moved(network, averages, to=1.0)
    moved(network, averages, to=5.0)

    def fails() -> None:
        with averages.in_place():
            assert network.weight.tolist() == [3, 3]
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fails()
    assert network.weight.tolist() == [5, 5]


def test_what_an_adapter_freezes_is_neither_copied_nor_averaged() -> None:
    run = tiny_run(adapter={"kind": "lora", "rank": 2})
    network = checkpoint.build(run.model, CLASSES)
    adapters.apply(network, declaration("unet_cbam"), AdapterSpec.model_validate({"kind": "lora", "rank": 2}))
    state = Fit(run.override({"train.ema": 0.1}), network, declaration("unet_cbam"), Workers(), {}, steps_per_epoch=1)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    before = weights(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    with state.model():
        assert {name for name, value in weights(network).items() if np.array_equal(value, before[name])} == trained
    assert any("lora" in name for name in trained)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """The weights after each step that moved them."""
    seen: list[dict[str, np.ndarray]] = []
    update = AveragedWeights.update

    def noted(self: AveragedWeights) -> None:
        update(self)
        seen.append({name: value.detach().numpy().copy() for name, value in self._moving.items()})

    monkeypatch.setattr(AveragedWeights, "update", noted)
    return seen


def test_the_model_is_the_average_and_training_goes_on_as_without_it(
    steps: list[dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet, "UnetCbam", WithBatchNorm)
    run = tiny_run(epochs=2, batch_size=2)
    plain, averaged = Reports(), Reports(tmp_path)
    last = weights(fit(run.override({"train.ema": None}), CLASSES, train=TRAIN, val=VAL, report=plain))
    network = fit(run.override({"train.ema": 0.5}), CLASSES, train=TRAIN, val=VAL, report=averaged)
    for one, two in zip(plain.metrics, averaged.metrics, strict=True):
        assert one["train/loss"] == two["train/loss"]
        assert one["train/grad_norm"] == two["train/grad_norm"]

    assert len(steps) == 8
    assert "norm.running_mean" in steps[0]
    assert not [name for name, value in steps[-1].items() if not np.array_equal(value, last[name])]
    found = weights(network)
    for name in steps[0]:  # p is 1 for a half-life of one half: the plain mean of all steps
        mean = np.mean([step[name].astype(np.float64) for step in steps], axis=0)
        assert found[name] == pytest.approx(mean, rel=1e-4, abs=1e-6), name
    assert not np.allclose(found["head.weight"], last["head.weight"])

    kept = checkpoint.load(tmp_path / "2" / MODEL)
    assert not [name for name, value in weights(kept).items() if not np.array_equal(value, found[name])]
    scored, _ = score(kept, VAL, run.evaluate, workers=Workers())
    assert averaged.metrics[-1]["val/iou"] == scored["iou"]


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 2, "dropout": 0.5}], ids=str)
def test_a_fit_with_averages_resumed_ends_with_the_same_bits(
    adapter: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet, "UnetCbam", WithBatchNorm)
    run = tiny_run(epochs=2, ema=0.3, adapter=adapter)
    whole, rest = Reports(tmp_path), Reports(tmp_path / "rest")
    (tmp_path / "rest").mkdir()
    expected = weights(fit(run, CLASSES, train=TRAIN, val=VAL, report=whole))
    torch.manual_seed(99)
    found = weights(fit(run, CLASSES, train=TRAIN, val=VAL, report=rest, resume=tmp_path / "1"))
    assert not [name for name, value in expected.items() if not np.array_equal(value, found[name])]
    for name in ("train/loss", "train/grad_norm", "val/iou"):
        assert [m[name] for m in rest.metrics] == [m[name] for m in whole.metrics[1:]]
    one, other = (torch.load(folder / "2" / TRAINING, weights_only=True) for folder in (tmp_path, tmp_path / "rest"))
    assert one["averaged"]["steps"] == other["averaged"]["steps"] == 4
    assert all(
        torch.equal(value, other["averaged"]["weights"][name]) for name, value in one["averaged"]["weights"].items()
    )


def test_what_a_phase_freezes_is_in_the_model_as_the_phase_sees_it(tmp_path: Path) -> None:
    """So that what is kept of a frozen encoder, as its embeddings, is of the encoder that is scored."""
    phases = [{"epochs": 1, "lr": 3e-3}, {"epochs": 1, "lr": 3e-3, "freeze": "encoder"}]
    run = tiny_run(ema=0.5, phases=phases)
    found = weights(fit(run, CLASSES, train=TRAIN, val=VAL, report=Reports(tmp_path)))
    frozen = torch.load(tmp_path / "1" / TRAINING, weights_only=True)["averaged"]["weights"]
    encoder = [name for name in found if name.startswith("encoder.")]
    assert encoder
    assert not [name for name in encoder if not np.array_equal(found[name], frozen[name].numpy())]
    first = weights(checkpoint.load(tmp_path / "1" / MODEL))
    assert any(not np.array_equal(found[name], first[name]) for name in encoder), "then it was an average"
    rest = fit(run, CLASSES, train=TRAIN, val=VAL, report=Reports(), resume=tmp_path / "1")
    assert not [name for name, value in weights(rest).items() if not np.array_equal(value, found[name])]


def test_a_checkpoint_from_before_there_were_averages_is_gone_on_with(tmp_path: Path) -> None:
    run = tiny_run(epochs=2, ema=None)
    fit(run, CLASSES, train=TRAIN, val=VAL, report=Reports(tmp_path))
    rest = Reports(tmp_path / "rest")
    (tmp_path / "rest").mkdir()
    fit(run.override({"train.ema": 0.1}), CLASSES, train=TRAIN, val=VAL, report=rest, resume=tmp_path / "1")
    state = torch.load(tmp_path / "rest" / "2" / TRAINING, weights_only=True)
    assert state["averaged"]["steps"] == 4


def test_a_step_that_moves_nothing_is_not_counted_in(
    steps: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = unet.UnetCbam.forward, list[int]()

    def sometimes(self: unet.UnetCbam, batch: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = forward(self, batch)
        if len(calls) == 2:
            terms["dice"].register_hook(lambda gradient: gradient * float("inf"))  # type: ignore[no-untyped-call]
        return terms

    monkeypatch.setattr(unet.UnetCbam, "forward", sometimes)
    fit(tiny_run(batch_size=2, ema=0.1), CLASSES, train=TRAIN, val=VAL, report=Reports())
    assert (len(calls), len(steps)) == (4, 3)


def test_a_decay_of_a_step_is_no_share_of_the_run() -> None:
    with pytest.raises(ValidationError, match=r"a share of the steps, at most 0\.5, .* but got 0\.999"):
        TrainSpec.model_validate({"ema": 0.999})
    with pytest.raises(ValidationError, match="greater than 0"):
        TrainSpec.model_validate({"ema": 0})
    assert TrainSpec.model_validate({"ema": None}).ema is None
