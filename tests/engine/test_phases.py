"""Phases train what they say, each with a schedule of its own, and resume to the same bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdist.core.errors import SpecError
from segdist.core.spec import RunSpec
from segdist.engine import checkpoint
from segdist.engine.fit import fit
from segdist.models.unet_cbam import network as unet
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run, weights

TRAIN, VAL = roofs(8), roofs(4, seed=1)
PHASES: list[dict[str, Any]] = [
    {"epochs": 1, "freeze": "encoder", "lr": 3e-3, "schedule": "constant"},
    {"epochs": 3, "lr": 1e-3, "encoder_lr_factor": 0.1},
]


def phased(**train: Any) -> RunSpec:
    return tiny_run(phases=PHASES, **train)


def fitted(run: RunSpec, reports: Reports, *, resume: Path | None = None) -> dict[str, np.ndarray]:
    return weights(fit(run, CLASSES, train=TRAIN, val=VAL, report=reports, resume=resume))


def test_the_encoder_stays_while_a_phase_freezes_it_and_moves_in_the_next(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = weights(checkpoint.build(phased().model, CLASSES))
    reports = Reports(tmp_path)
    end = fitted(phased(), reports)
    first = checkpoint.load(tmp_path / "1" / "model")
    encoder = [n for n in end if n.startswith("encoder.")]
    assert all(np.array_equal(weights(first)[n], start[n]) for n in encoder)
    assert not np.array_equal(weights(first)["head.weight"], start["head.weight"])
    assert all(not np.array_equal(end[n], start[n]) for n in encoder if n.endswith("conv1.weight"))
    assert [m["train/phase"] for m in reports.metrics] == [1, 2, 2, 2]
    assert [m["epoch"] for m in reports.metrics] == [1, 2, 3, 4]


def test_each_phase_has_a_rate_of_its_own() -> None:
    reports = Reports()
    fitted(phased(), reports)
    rates = [m["train/lr"] for m in reports.metrics]
    assert rates[0] == 3e-3, "constant"
    assert 0 < rates[2] < rates[1] < 1e-3
    assert rates[3] == pytest.approx(0, abs=1e-9), "the second phase ends its own cosine"
    trained = [m["model/trained_parameters"] for m in reports.metrics]
    assert trained[0] < trained[1] == trained[2] == reports.metrics[0]["model/parameters"]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_fit_resumed_between_or_within_phases_ends_with_the_same_bits(after: int, tmp_path: Path) -> None:
    expected = fitted(phased(), Reports(tmp_path))
    torch.manual_seed(99)
    rest = Reports()
    found = fitted(phased(), rest, resume=tmp_path / str(after))
    assert [m["epoch"] for m in rest.metrics] == list(range(after + 1, 5))
    assert not [n for n, v in found.items() if not np.array_equal(v, expected[n])]


def test_an_adapter_weighs_the_same_in_every_phase(tmp_path: Path) -> None:
    """What a phase freezes is saved all the same: another phase has trained it, or will."""
    reports = Reports(tmp_path)
    fitted(phased(adapter={"kind": "lora", "rank": 2}), reports)
    assert len({m["model/adapter_bytes"] for m in reports.metrics}) == 1
    assert 0 < reports.metrics[0]["model/adapter_bytes"] < 4 * reports.metrics[0]["model/parameters"]


def test_a_phase_that_trains_nothing_is_refused() -> None:
    run = phased(adapter={"kind": "lora", "targets": ["encoder.stem.conv1"], "heads": False})
    with pytest.raises(SpecError, match=r"`train\.phases\.0` must train something"):
        fitted(run, Reports())


def test_without_phases_there_is_one_of_the_other_keys() -> None:
    train = tiny_run(epochs=3, lr=0.5, encoder_lr_factor=0.2, warmup=0.3, schedule="linear").train
    (phase,) = train.all_phases
    assert (phase.epochs, phase.lr, phase.encoder_lr_factor) == (3, 0.5, 0.2)
    assert (phase.warmup, phase.schedule, phase.freeze) == (0.3, "linear", "nothing")


class WithIdleLayer(unet.UnetCbam):
    """A network whose family forgot to freeze a layer that nothing reads."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pooler = torch.nn.Linear(3, 3)


def test_parameters_without_a_gradient_end_the_fit_after_the_first_step_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unet, "UnetCbam", WithIdleLayer)
    reports = Reports()
    with pytest.raises(SpecError, match=r"2 got no gradient in the first step: pooler\.bias, pooler\.weight"):
        fitted(tiny_run(), reports)
    assert not reports.metrics


BACKBONE = {"backbone": "test_resnet", "weights": "random", "image_size": 64, "width": 8}


def test_a_frozen_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    run = tiny_run(phases=[{**PHASES[0], "epochs": 1}, {**PHASES[1], "epochs": 1}])
    run = run.override({"model.unet_cbam": BACKBONE})
    end = fitted(run, Reports(tmp_path))
    first = weights(checkpoint.load(tmp_path / "1" / "model"))
    name = "encoder.body.bn1.running_mean"
    assert not first[name].any(), "as it was built"
    assert end[name].any()
