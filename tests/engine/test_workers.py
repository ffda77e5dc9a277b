"""Two processes train one model: same weights, same number of steps, one score."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch.optim.optimizer import register_optimizer_step_post_hook

from segdist.adapters import quantised
from segdist.core.errors import BackendError
from segdist.core.spec import RunSpec
from segdist.engine import checkpoint, runtime
from segdist.engine.fit import MODEL, TRAINING, fit
from segdist.engine.predict import score
from segdist.engine.workers import Workers, reserved
from segdist.models.unet_cbam import network as unet
from tests.engine.drawn import CLASSES, Reports, WithBatchNorm, roofs, tiny_run, weights

TRAIN, VAL = roofs(7), roofs(5, seed=1)
"""Counts that two workers cannot divide."""
RUN = tiny_run(epochs=2, batch_size=2, ema=0.3)
"""With batch norms, whose statistics each worker gathers from its own images, and averages of both."""
ALIKE = tiny_run(epochs=2, batch_size=3, lr=1e-3, warmup=0.0).override({"resources.micro_batch": 1})
"""Without batch norms: the same whoever computes it."""


@dataclass
class Outcome:
    """How the fit of one worker ended."""

    weights: dict[str, np.ndarray]
    metrics: list[dict[str, float]]
    saved: list[bool]
    steps: int
    noise: float
    """The next number of this worker's random generator."""
    alone: dict[str, float]
    """The score of its weights by one process on all images."""


def _work(rank: int, folder: Path) -> tuple[Outcome, Outcome]:
    """Both runs, one after the other, for it takes seconds until a process has imported torch."""
    torch.set_num_threads(1)
    (folder / "alike").mkdir(exist_ok=True)  # both may be first
    alike = _fitted(rank, folder / "alike", ALIKE)
    unet.UnetCbam = WithBatchNorm  # type: ignore[assignment,misc]
    return _fitted(rank, folder, RUN), alike


def _fitted(rank: int, folder: Path, run: RunSpec) -> Outcome:
    steps: list[int] = []
    register_optimizer_step_post_hook(lambda *_: steps.append(1))
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        workers = Workers.here()
        assert (workers.rank, workers.world_size, workers.is_chief) == (rank, 2, rank == 0)
        reports = Reports(folder)
        network: Any = fit(run, CLASSES, train=TRAIN, val=VAL, report=reports, workers=workers)
        noise = float(torch.rand(()))
        alone, _ = score(network, VAL, run.evaluate, workers=Workers())
        return Outcome(weights(network), reports.metrics, reports.saved, len(steps), noise, alone)
    finally:
        distributed.destroy_process_group()


Group = tuple[Path, list[Outcome]]
Together = tuple[Path, list[tuple[Outcome, Outcome]]]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """The folder of the checkpoints, and what two workers came to with `RUN` and with `ALIKE`."""
    folder = tmp_path_factory.mktemp("workers")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        return folder, list(processes.map(_work, range(2), [folder] * 2))


@pytest.fixture(scope="module")
def group(together: Together) -> Group:
    folder, outcomes = together
    return folder, [outcome for outcome, _ in outcomes]


def test_both_workers_end_with_the_same_weights(group: Group) -> None:
    _, (first, second) = group
    assert not [name for name, value in first.weights.items() if not np.array_equal(value, second.weights[name])]


def test_both_workers_take_the_same_number_of_steps_though_the_images_do_not_divide(group: Group) -> None:
    """Seven images by twos are four steps an epoch; of the last one's only image the second worker has none."""
    _, outcomes = group
    assert [o.steps for o in outcomes] == [8, 8]


def test_one_process_alone_learns_the_same_as_two_workers_together(
    together: Together,
) -> None:
    _, ((_, first), _) = together
    before = weights(checkpoint.build(ALIKE.model, CLASSES, seed=ALIKE.seed))
    for micro_batch in (None, 1):
        alone = Reports()
        run = ALIKE.override({"resources.micro_batch": micro_batch})
        whole: Any = fit(run, CLASSES, train=TRAIN, val=VAL, report=alone)
        # Adam turns rounding in a gradient near zero into a whole step of that one value: the move as a whole counts.
        expected = weights(whole)
        apart = sum(float(((expected[n] - first.weights[n]) ** 2).sum()) for n in expected)
        assert apart < 1e-3 * sum(float(((expected[n] - before[n]) ** 2).sum()) for n in expected)
        for one, two in zip(alone.metrics, first.metrics, strict=True):
            for name in ("train/loss", "train/loss/dice", "train/grad_norm", "train/lr"):
                assert two[name] == pytest.approx(one[name], rel=1e-3), name


def test_the_gathered_score_is_that_of_one_process_on_all_images(group: Group) -> None:
    _, outcomes = group
    for outcome in outcomes:
        assert [m["epoch"] for m in outcome.metrics] == [1, 2]
        for name in ("iou", "dice", "iou/roof", "dice/roof"):
            assert outcome.metrics[-1][f"val/{name}"] == outcome.alone[name]


def test_the_workers_report_one_mean_loss_and_the_same_gradient(group: Group) -> None:
    _, (first, second) = group
    for one, two in zip(first.metrics, second.metrics, strict=True):
        for name in ("train/loss", "train/loss/dice", "train/grad_norm", "train/lr", "diverged"):
            assert one[name] == two[name]


def test_the_chief_alone_saves(group: Group) -> None:
    folder, (first, second) = group
    assert (first.saved, second.saved) == ([True, True], [False, False])
    assert {p.name for p in (folder / "2").iterdir()} >= {MODEL, TRAINING}


def test_what_is_drawn_at_random_differs_between_the_workers(group: Group) -> None:
    _, (first, second) = group
    assert first.noise != second.noise


def test_work_that_reserved_no_card_computes_on_the_cpu_of_a_machine_with_cards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    threads = torch.get_num_threads()
    for gpus, device, can in ((0.0, "cpu", False), (0.5, "cuda:0", True), (1.0, "cuda:0", True)):
        with reserved(cpus=threads, gpus=gpus):
            assert Workers.here().device == torch.device(device)
            assert quantised.can_quantise() is can
            assert (runtime.peak_bytes() == 7) is can, "else of the process"
    assert Workers.here().device == torch.device("cuda:0"), "who reserved nothing and is no trial"
    assert torch.get_num_threads() == threads
    assert shares == [0.475, 1.0], "who has half a card takes no more, and nobody else is bounded"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the cards of this machine")
def test_a_worker_whose_card_torch_cannot_use_says_why() -> None:
    with pytest.raises(BackendError, match=r"Ray reserved a card .* but torch \d.* cannot use one \(.+\)\. Install"):
        reserved(cpus=1, gpus=0.5).__enter__()


def test_a_single_worker_gathers_its_own() -> None:
    alone = Workers()
    assert alone.is_chief
    assert alone.gather([1, 2]) == [1, 2]
    assert alone.mean(3.0) == 3.0
