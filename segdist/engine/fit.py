"""Fitting one model: epochs of steps, a score after each, a checkpoint, a report. Plain torch, no Ray."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from segdist.engine import checkpoint, pictures
from segdist.engine.data import Rows, loader
from segdist.engine.predict import score
from segdist.engine.schedule import adamw, warmup_cosine
from segdist.engine.workers import Workers
from segdist.plugins import Batch
from segdist.spec import RunSpec

Metrics = dict[str, float]
Report = Callable[[Metrics, Path | None], None]
"""Takes the metrics of an epoch and, where one was saved, the checkpoint folder (gone after the call)."""
MODEL, PICTURES, TRAINING = "model", "pictures", "training.pt"
"""What a checkpoint folder holds: the model, its validation panels, and what training needs to go on."""


@dataclass
class Fit:
    """The state of one fit: the model, what moves it, and how far it came."""

    run: RunSpec
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    workers: Workers
    loss_weights: Mapping[str, float]
    epoch: int = 0
    first_step_at: float = 0.0

    def save(self, folder: Path) -> None:
        """Write the model, and what training needs to go on."""
        checkpoint.save(self.network, folder / MODEL, self.run, self.network.classes)  # type: ignore[arg-type]
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
        }
        torch.save(state, folder / TRAINING)

    def resume(self, folder: Path) -> None:
        """Go on where a checkpoint was written."""
        model = folder / MODEL
        checkpoint.restore(self.network, model, frozen_digest=checkpoint.describe(model).frozen_digest)
        state = torch.load(folder / TRAINING, weights_only=True, map_location="cpu")
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch = state["epoch"]

    def draw_anew(self) -> None:
        """Seed dropout and jitter for the epoch: other draws on each worker, the same ones after a resumption."""
        seeds = np.random.SeedSequence((self.run.seed, self.epoch, self.workers.rank))
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))


def fit(
    run: RunSpec,
    classes: tuple[str, ...],
    *,
    train: Rows,
    val: Rows,
    report: Report,
    workers: Workers | None = None,
    resume: Path | None = None,
) -> nn.Module:
    """Train a model on `train`, score it on `val` after every epoch, and report.

    Args:
        run: what to train and how.
        classes: class names in order.
        train: samples with masks and encoded images; read by index.
        val: the same, held out.
        report: called by every worker after every epoch; metrics are named as in MLflow (`train/loss`, `val/iou`).
            `first_step_at` says when this process had done its first step, in seconds since 1970.
        workers: this process's place among the data-parallel workers.
        resume: a checkpoint folder to go on from.

    A step whose gradient is not finite is skipped and counted; an epoch of nothing but such steps ends the fit with
    `diverged` 1 and `val/iou` 0, so that a search learns to keep away.
    """
    workers = workers or Workers.here()
    network = checkpoint.build(run.model, classes, adapter=run.train.adapter, seed=run.seed).to(workers.device)
    batches, sampler = loader(
        network, train, run, rank=workers.rank, world_size=workers.world_size, pin_memory=workers.device.type == "cuda"
    )
    state = _start(run, network, steps=len(sampler), workers=workers)
    if resume:
        state.resume(resume)
    parallel = workers.parallel(network)
    for epoch in range(state.epoch, run.train.epochs):
        sampler.epoch = epoch
        state.draw_anew()
        start = time.perf_counter()
        metrics = _train_epoch(state, parallel, batches)
        metrics["train/images_per_second"] = len(train) / (time.perf_counter() - start)
        state.epoch = epoch + 1
        if metrics["diverged"]:
            report({**metrics, "val/iou": 0.0, "val/dice": 0.0, "epoch": state.epoch}, None)
            break
        values, pairs = score(network, val, run.evaluate, workers=workers)
        metrics |= {f"val/{name}": value for name, value in values.items()}
        metrics |= {"epoch": state.epoch, "seconds": time.perf_counter() - start}
        with TemporaryDirectory(prefix="segdist-") as folder:
            saved = _saves(run, state.epoch) and workers.is_chief
            if saved:
                state.save(Path(folder))
                pictures.save(Path(folder) / PICTURES, val, pairs, run.evaluate, classes=classes)
            report(metrics, Path(folder) if saved else None)
    return network


def _start(run: RunSpec, network: nn.Module, *, steps: int, workers: Workers) -> Fit:
    declared = checkpoint.declaration(run.model.family)
    optimizer = adamw(network, run.train, encoder=declared.encoder)
    total = math.ceil(steps / run.train.accumulate) * run.train.epochs
    schedule = warmup_cosine(optimizer, steps=total, warmup=run.train.warmup)
    weights = {term: run.train.loss.get(term, default) for term, default in declared.losses.items()}
    return Fit(run, network, optimizer, schedule, workers, weights)


def _saves(run: RunSpec, epoch: int) -> bool:
    return epoch % run.train.checkpoint_every == 0 or epoch == run.train.epochs


def _train_epoch(state: Fit, parallel: nn.Module, batches: Any) -> Metrics:
    """One pass over the training split; means of the loss terms, the gradient norm and the last learning rate."""
    parallel.train()
    values: dict[str, list[float]] = {}
    norms: list[float] = []
    accumulate = state.run.train.accumulate
    for batch, share, moves in _in_groups(batches, accumulate):
        with nullcontext() if moves else state.workers.unsynchronised(parallel):
            terms = _losses(state, parallel, batch)
            torch.autograd.backward(terms["loss"] * share)
        for name, value in terms.items():
            values.setdefault(name, []).append(float(value.detach()))
        if moves:
            norms.append(_step(state))
            state.first_step_at = state.first_step_at or time.time()
    metrics: Metrics = {
        f"train/{'loss' if name == 'loss' else f'loss/{name}'}": state.workers.mean(_finite_mean(steps))
        for name, steps in values.items()
    }
    finite = [n for n in norms if math.isfinite(n)]
    metrics["train/grad_norm"] = _finite_mean(norms)
    metrics["train/skipped_steps"] = float(len(norms) - len(finite))
    metrics["train/lr"] = max(float(rate) for rate in state.schedule.get_last_lr())
    metrics["diverged"] = float(not finite)
    metrics["first_step_at"] = state.first_step_at
    return metrics | _counts(state)


def _counts(state: Fit) -> Metrics:
    """What the family counted in this epoch, over all workers; see `Segmenter`."""
    mine: dict[str, float] = getattr(state.network, "take_counts", dict)()
    return {f"train/{name}": sum(state.workers.gather([count])) for name, count in mine.items()}


def _finite_mean(values: list[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _in_groups(batches: Any, accumulate: int) -> Iterator[tuple[Batch, float, bool]]:
    """Batches, each with its share of its group's step, and whether the optimiser moves after it."""
    last = len(batches)
    in_last_group = last % accumulate or accumulate
    for number, batch in enumerate(batches, start=1):
        size = in_last_group if number > last - in_last_group else accumulate
        yield batch, 1 / size, number % accumulate == 0 or number == last


def _losses(state: Fit, parallel: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    with _autocast(state):
        terms: dict[str, torch.Tensor] = parallel(_to(batch, state.workers.device))
    weighted = [state.loss_weights[name] * value for name, value in terms.items()]
    return {**terms, "loss": torch.stack([w.float() for w in weighted]).sum()}


def _step(state: Fit) -> float:
    """Move the parameters once; the norm of the gradient before clipping."""
    parameters = [p for p in state.network.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(parameters, state.run.train.grad_clip)
    if not torch.isfinite(norm):
        state.optimizer.zero_grad(set_to_none=True)  # without gradients the step moves nothing
    state.optimizer.step()
    state.schedule.step()
    state.optimizer.zero_grad(set_to_none=True)
    return float(norm)


def _autocast(state: Fit) -> AbstractContextManager[Any]:
    precision = state.run.train.precision
    on_gpu = state.workers.device.type == "cuda"
    if precision == "bfloat16" or (precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()):
        return torch.autocast(state.workers.device.type, torch.bfloat16)
    return nullcontext()


def _to(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors, and lists of tensors, on the device."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        return [move(v) for v in value] if isinstance(value, list) else value

    return {name: move(value) for name, value in batch.items()}
