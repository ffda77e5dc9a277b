"""Training on a card: every precision, averages, compiling, micro-batches, resuming, loaders, four bits, two cards."""

import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from segdist import adapters
from segdist.adapters import quantised
from segdist.engine import checkpoint
from segdist.engine.fit import MODEL, TRAINING, fit
from segdist.engine.precision import autocast, set_matrix_products
from segdist.engine.taken import PEAK
from segdist.engine.validation_loss import mean_loss
from segdist.engine.workers import Workers, reserved
from segdist.nets.promptable.embeddings import embeddings_folder
from tests.engine.drawn import CLASSES, Reports, weights
from tests.engine.shipped import model_folder
from tests.gpu.conftest import ON_CPU, Note
from tests.gpu.runs import ADAPTERS, STEPS, TRAIN, VAL, apart, moved_apart, outputs, run_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # a new card or driver may warn of itself: that is to be read, and no fault
]


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32", "auto"])
@pytest.mark.parametrize("family", ADAPTERS)
def test_a_family_learns_in_every_precision(
    family: str, precision: str, workers: Workers, measured: Note, tmp_path: Path
) -> None:
    reports = Reports(tmp_path)
    network = fit(run_of(family, precision=precision), CLASSES, train=TRAIN, val=VAL, report=reports, workers=workers)
    first, last = reports.metrics
    assert {p.device for p in network.parameters()} == {workers.device}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert last["train/skipped_steps"] < STEPS
    assert last["train/loss"] < first["train/loss"]
    assert 0 <= last["val/iou"] <= 1
    assert last[PEAK] > 0
    scaler = torch.load(tmp_path / "2" / TRAINING, weights_only=True)["scaler"]
    assert bool(scaler) is (precision == "float16"), "a card of today has bfloat16 for `auto`"
    seconds = len(TRAIN) / last["train/images_per_second"] / STEPS
    measured((family, precision, seconds, last[PEAK], last["val/iou"]))


@pytest.mark.parametrize(("precision", "share"), [("float32", 1e-3), ("bfloat16", 0.05), ("float16", 0.02)])
@pytest.mark.parametrize("family", ADAPTERS)
def test_the_same_weights_compute_what_they_do_on_a_cpu(
    family: str, precision: Any, share: float, device: torch.device, tmp_path: Path
) -> None:
    """To a thousandth in float32; beside bfloat16 and float16 the rest is TF32 on a card.

    Mask2Former's layers look where the mask of the layer before is over one half, which rounding decides at its edges.
    """
    share *= 4 if family == "mask2former" and precision != "float32" else 1
    folder = model_folder(tmp_path, family, adapter=ADAPTERS[family])
    expected = outputs(checkpoint.load(folder))
    network = checkpoint.load(folder, device=device)
    set_matrix_products(precision, device)
    try:
        with autocast(precision, device):
            found = outputs(network)
    finally:
        set_matrix_products("float32", device)
    assert apart(found, expected) < share


@pytest.mark.parametrize("ema", [None, 0.3])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_fit_resumed_ends_where_an_undisturbed_one_does(
    precision: str, ema: float | None, workers: Workers, tmp_path: Path
) -> None:
    """Within a twentieth of the way: a card adds up in another order each time."""
    run = run_of("unet_cbam", precision=precision, ema=ema)
    start = weights(checkpoint.build(run.model, CLASSES, adapter=run.train.adapter, seed=run.seed))
    whole, rest = Reports(tmp_path), Reports()
    expected = weights(fit(run, CLASSES, train=TRAIN, val=VAL, report=whole, workers=workers))
    torch.manual_seed(99)
    again = fit(run, CLASSES, train=TRAIN, val=VAL, report=rest, workers=workers, resume=tmp_path / "1")
    assert moved_apart(weights(again), expected, start) < 0.05
    assert rest.metrics[0]["train/loss"] == pytest.approx(whole.metrics[1]["train/loss"], rel=0.01)
    assert rest.metrics[0]["val/iou"] == pytest.approx(whole.metrics[1]["val/iou"], abs=0.02)


def test_the_average_of_the_weights_is_the_model_that_is_kept(workers: Workers, tmp_path: Path) -> None:
    run = run_of("segformer", ema=0.3)
    found = weights(fit(run, CLASSES, train=TRAIN, val=VAL, report=Reports(tmp_path), workers=workers))
    kept = weights(checkpoint.load(tmp_path / "2" / MODEL, device=workers.device))
    assert not [name for name, value in kept.items() if not np.array_equal(value, found[name])]
    moving = torch.load(tmp_path / "2" / TRAINING, weights_only=True)["averaged"]["weights"]
    assert any(not np.array_equal(value.cpu().numpy(), found[name]) for name, value in moving.items())


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(workers: Workers) -> None:
    run = run_of("unet_cbam", batch_size=4, epochs=1, lr=1e-4, precision="float32")
    found = []
    for micro_batch in (None, 2, 1):
        reports = Reports()
        of_pass = run.override({"resources.micro_batch": micro_batch})
        fit(of_pass, CLASSES, train=TRAIN[:4], val=VAL[:1], report=reports, workers=workers)
        found.append([reports.metrics[0][name] for name in ("train/loss", "train/grad_norm")])
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[2] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_compiled_fit_learns_the_same(precision: str, card: torch.device) -> None:
    """On a CPU compiling takes a minute; `tests/engine/test_compiling.py` does it there."""
    run, workers = run_of("unet_cbam", precision=precision), Workers(device=card)
    eager, compiled = Reports(), Reports()
    fit(run, CLASSES, train=TRAIN, val=VAL, report=eager, workers=workers)
    fit(run.override({"train.compile": True}), CLASSES, train=TRAIN, val=VAL, report=compiled, workers=workers)
    assert compiled.metrics[0]["train/loss"] == pytest.approx(eager.metrics[0]["train/loss"], rel=0.03)


@pytest.fixture(params=["fork", "spawn"])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("start_method")
def test_cached_embeddings_are_read_by_the_processes_that_load_images(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path))
    run = run_of("sam", options={"embeddings": "cache"}, adapter={"kind": "frozen_encoder"}, precision="float32")
    first, second = Reports(), Reports()
    fit(run, CLASSES, train=TRAIN, val=VAL, report=first, workers=workers)
    kept = {file.name: file.stat().st_mtime_ns for file in embeddings_folder().rglob("*.arrow")}
    assert len(kept) == len(TRAIN) + len(VAL)
    fit(run, CLASSES, train=TRAIN, val=VAL, report=second, workers=workers)
    assert kept.keys() == {file.name for file in embeddings_folder().rglob("*.arrow")}
    assert first.metrics[1]["train/loss"] < first.metrics[0]["train/loss"]
    for one, two in zip(first.metrics, second.metrics, strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=0.03)


@pytest.mark.parametrize(("family", "rel"), [("unet_cbam", 1e-3), ("sam", 0.02), ("mask2former", 0.2)])
def test_the_loss_of_validation_moves_lists_of_labels_too(
    family: str, rel: float, device: torch.device, tmp_path: Path
) -> None:
    """Mask2Former's loss is taken at points drawn at random, which are others on a card."""
    folder = model_folder(tmp_path, family)
    mine, cpus = (
        mean_loss(checkpoint.load(folder, device=place), VAL, family=family, batch_size=3)["loss"]
        for place in (device, torch.device("cpu"))
    )
    assert math.isfinite(mine)
    assert mine == pytest.approx(cpus, rel=rel)


def test_weights_of_four_bits_train_are_kept_and_are_found_again(
    workers: Workers,
    measured: Note,
    said: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    if ON_CPU:
        monkeypatch.setattr(quantised, "can_quantise", lambda: True)
        monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: False)  # else it packs anew to predict
    run, reports = run_of("sam", adapter={"kind": "qlora"}), Reports(tmp_path)
    network: Any = fit(run, CLASSES, train=TRAIN, val=VAL, report=reports, workers=workers)
    small = [module for module in network.modules() if quantised.is_quantised(module)]
    packed = sum(int(module.weight.nbytes) for module in small)
    plain = 4 * sum(int(module.weight.quant_state.shape.numel()) for module in small)
    said(
        f"QLoRA: {len(small)} layers of sam take {packed} bytes, {plain} in float32; "
        f"{adapters.trained_parameters(network)} parameters are trained"
    )
    assert small
    assert packed <= plain / 7.9
    first, last = reports.metrics
    assert last["train/loss"] < first["train/loss"]
    again = checkpoint.load(tmp_path / "2" / MODEL, device=workers.device)
    assert apart(outputs(again), outputs(network)) < 0.01
    rest = Reports()
    fit(run, CLASSES, train=TRAIN, val=VAL, report=rest, workers=workers, resume=tmp_path / "1")
    assert rest.metrics[0]["train/loss"] == pytest.approx(last["train/loss"], rel=0.05)
    seconds = len(TRAIN) / last["train/images_per_second"] / STEPS
    measured(("sam, qlora", "auto", seconds, last[PEAK], last["val/iou"]))


def test_who_reserved_no_card_trains_on_the_cpu() -> None:
    allocated = 0 if ON_CPU else torch.cuda.memory_allocated()
    run, reports = run_of("unet_cbam", epochs=1), Reports()
    with reserved(cpus=1, gpus=0):
        assert Workers.here().device.type == "cpu"
        network = fit(run, CLASSES, train=TRAIN, val=VAL, report=reports)
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    assert reports.metrics[0][PEAK] > 10, "of the process"
    if not ON_CPU:
        assert torch.cuda.memory_allocated() == allocated


def _work(rank: int, folder: Path, device_type: str) -> tuple[dict[str, Any], float]:
    torch.set_num_threads(1)
    backend = "gloo"
    if device_type == "cuda":
        torch.cuda.set_device(rank)
        backend = "nccl"
    distributed.init_process_group(backend, init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        reports = Reports()
        run = run_of("unet_cbam", ema=0.3)
        workers = Workers.here()
        network = fit(run, CLASSES, train=TRAIN[:7], val=VAL, report=reports, workers=workers)
        assert {p.device for p in network.parameters()} == {workers.device}
        return weights(network), reports.metrics[-1]["train/loss"]
    finally:
        distributed.destroy_process_group()


def test_two_cards_train_one_model(device: torch.device, tmp_path: Path) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("one card on this machine, and NCCL wants one for each worker")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        (one, loss), (two, other) = processes.map(_work, range(2), [tmp_path] * 2, [device.type] * 2)
    assert not [name for name, value in one.items() if not np.array_equal(value, two[name])]
    assert loss == other
