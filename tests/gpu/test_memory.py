"""The memory of a card: measured, run out of for real, and let go."""

import gc
from typing import Any

import pytest
import torch

from segdist.core.causes import is_out_of_memory
from segdist.engine import probe, runtime
from segdist.engine.fit import fit
from segdist.engine.taken import PEAK
from segdist.engine.workers import Workers
from tests.engine.drawn import CLASSES, Reports
from tests.gpu.conftest import ON_CPU
from tests.gpu.runs import TRAIN, VAL, run_of

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

LARGE: dict[str, Any] = {"image_size": 256, "width": 32, "depth": 3}
"""Activations of some hundred MB an image, beside which the weights are little."""


def peak_of(run: Any, workers: Workers) -> float:
    """Bytes that a fit needs at most."""
    gc.collect()
    torch.cuda.empty_cache()
    runtime.forget_peak()
    reports = Reports()
    fit(run, CLASSES, train=TRAIN, val=VAL[:1], report=reports, workers=workers)
    return 1e6 * reports.metrics[-1][PEAK]


def test_a_batch_that_does_not_fit_is_known_as_such_and_half_of_it_fits(card: torch.device) -> None:
    """On a CPU, memory that runs out is the end of the process."""
    workers = Workers(device=card)
    run = run_of("unet_cbam", options=LARGE, epochs=1, batch_size=8, precision="float32")
    whole, half = peak_of(run, workers), peak_of(run.with_micro_batch(4), workers)
    assert half < 0.7 * whole, "activations take the most"
    gc.collect()
    torch.cuda.empty_cache()
    limit = 1.3 * half  # with room for what lies between blocks, and for convolutions that ask for scratch space
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(card).total_memory, card)
    try:
        with pytest.raises(RuntimeError) as caught:
            fit(run, CLASSES, train=TRAIN, val=VAL[:1], report=Reports(), workers=workers)
        assert is_out_of_memory(caught.value)
        assert isinstance(caught.value, torch.OutOfMemoryError)
        del caught  # its traceback holds the tensors
        assert peak_of(run.with_micro_batch(4), workers) < limit
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, card)


def test_the_peak_is_what_torch_had_on_the_card(card: torch.device) -> None:
    workers = Workers(device=card)
    small, large = (
        peak_of(run_of("unet_cbam", options=LARGE, epochs=1, batch_size=size, precision="float32"), workers)
        for size in (1, 4)
    )
    assert large == pytest.approx(torch.cuda.max_memory_allocated(card), rel=0.01)
    assert large > 2 * small


def test_a_fit_that_ended_leaves_nothing_on_the_card(card: torch.device) -> None:
    """Trials share a process, one after the other, and a card, beside each other."""
    run, workers = run_of("unet_cbam", options=LARGE, epochs=1), Workers(device=card)
    peak_of(run, workers)
    gc.collect()
    before = torch.cuda.memory_allocated(card)
    peak = peak_of(run, workers)
    gc.collect()
    assert torch.cuda.memory_allocated(card) <= before + 0.01 * peak


def test_a_probe_says_what_a_run_takes_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ENOUGH_SECONDS", 0.0)
    told: dict[str, Any] = {}
    asked = probe.Request(run_of("unet_cbam"), {}, (), None, CLASSES, TRAIN, VAL)
    probe.probe(asked, lambda kind, content: told.update({kind: content}))
    assert told["own"]["memory"] > 0
    assert told["own"]["resident"] > 0
    if not ON_CPU:
        assert told["own"]["memory"] < min(told["cards"])
