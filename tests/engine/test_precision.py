"""Half precision trains and scores as float32 does, and steps that do not fit into float16 move nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdist.core.spec import Precision
from segdist.engine.epoch import LossNotFiniteError
from segdist.engine.fit import TRAINING, fit
from segdist.engine.precision import dtype_of, set_matrix_products
from segdist.engine.predict import score
from segdist.engine.workers import Workers
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run, weights
from tests.engine.test_epoch import TwoTerms, epoch_of, state_of, weights_of

TRAIN, VAL = roofs(8), roofs(2, seed=1)


@pytest.mark.parametrize(
    ("precision", "device", "knows", "emulates", "expected"),
    [
        ("auto", "cuda", True, True, torch.bfloat16),
        ("auto", "cuda", False, True, torch.float16),  # Turing and older
        ("auto", "cuda", False, False, torch.float16),
        ("auto", "cpu", True, True, torch.float32),
        ("float16", "cpu", True, True, torch.float16),
        ("float32", "cuda", True, True, torch.float32),
    ],
)
def test_a_card_that_emulates_bfloat16_computes_in_float16(
    precision: Precision,
    device: str,
    knows: bool,
    emulates: bool,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return knows or (emulates and including_emulation)

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert dtype_of(precision, torch.device(device)) == expected


def test_a_gpu_multiplies_in_tf32_unless_float32_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    convolutions: list[bool] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for precision in ("auto", "bfloat16", "float16", "float32"):
        set_matrix_products(precision, torch.device("cuda"))
        set_matrix_products(precision, torch.device("cpu"))
        convolutions.append(torch.backends.cudnn.allow_tf32)
    assert asked == ["high", "high", "high", "highest"]
    assert convolutions == [True, True, True, False]


def test_the_scale_of_float16_is_seen_neither_in_the_gradient_nor_in_the_weights() -> None:
    half, single = state_of(TwoTerms(), precision="float16"), state_of(TwoTerms(), precision="float32")
    found, expected = epoch_of(half), epoch_of(single)
    assert half.scaler.get_scale() == 2**16
    assert weights_of(half.network) == pytest.approx(weights_of(single.network), rel=1e-6)
    assert {k: found[k] for k in found if k.startswith("train/lo")} == {
        k: pytest.approx(v) for k, v in expected.items() if k.startswith("train/lo")
    }
    assert found["train/grad_norm"] == pytest.approx(expected["train/grad_norm"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_does_not_fit_halves_the_scale_and_moves_nothing(accumulate: int) -> None:
    network = TwoTerms()
    state = state_of(network, precision="float16", ema=0.1)
    epoch_of(state)
    before, averaged = weights_of(network), state.averages
    assert averaged is not None
    steps = averaged.steps
    lost = [{"left": torch.tensor(math.inf), "right": torch.tensor(1.0)}] * accumulate
    found = epoch_of(state, lost, passes=accumulate)
    assert weights_of(network) == before
    assert state.scaler.get_scale() == 2**15
    assert averaged.steps == steps
    assert (found["train/skipped_steps"], found["diverged"]) == (1, 0), "a smaller scale may mend it"


def test_a_loss_that_no_scale_mends_is_one_that_diverged() -> None:
    state = state_of(TwoTerms(), precision="float16")
    lost = [{"left": torch.tensor(math.nan), "right": torch.tensor(1.0)}]
    assert [epoch_of(state, lost)["diverged"] for _ in range(17)] == [0] * 16 + [1]
    with pytest.raises(LossNotFiniteError):
        epoch_of(state, lost)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_fit_in_half_precision_scores_as_in_float32_and_resumes_to_the_same_bits(
    precision: str, tmp_path: Path
) -> None:
    run = tiny_run(epochs=4, batch_size=2, precision=precision, checkpoint_every=2)
    whole, rest = Reports(tmp_path), Reports()
    network = fit(run, CLASSES, train=TRAIN, val=VAL, report=whole)
    again = fit(run, CLASSES, train=TRAIN, val=VAL, report=rest, resume=tmp_path / "2")
    expected = weights(network)
    assert not [name for name, value in weights(again).items() if not np.array_equal(value, expected[name])]
    assert {value.dtype for value in expected.values()} == {np.dtype(np.float32)}
    single: Any = network
    alone, _ = score(single, VAL, run.evaluate, workers=Workers())
    assert whole.metrics[-1]["val/iou"] == pytest.approx(alone["iou"], abs=0.01)
    saved = torch.load(tmp_path / "2" / TRAINING, weights_only=True)["scaler"]
    assert saved.get("_growth_tracker") == (8 if precision == "float16" else None)
