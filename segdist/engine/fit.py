"""Fitting one model: epochs of steps, a score after each, a checkpoint, a report. Plain torch, no Ray."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from segdist.core.errors import DivergedError, PreemptedError
from segdist.core.plugins import declaration
from segdist.core.records import LabelledImages
from segdist.core.spec import RunSpec
from segdist.engine import checkpoint, pictures, runtime
from segdist.engine.averaging import moving
from segdist.engine.compiling import compile_in_place
from segdist.engine.data import loader
from segdist.engine.epoch import LossNotFiniteError, Metrics, train_epoch
from segdist.engine.objective import objective_of
from segdist.engine.pace import Pace, Work
from segdist.engine.packs import PackMember
from segdist.engine.parts import MODEL, PICTURES, TRAINING
from segdist.engine.pointwise import hastened
from segdist.engine.precision import autocast, set_matrix_products
from segdist.engine.predict import score
from segdist.engine.state import Fit
from segdist.engine.taken import PEAK
from segdist.engine.under_way import LeftError, UnderWay
from segdist.engine.workers import Workers
from segdist.metrics import lower_is_better
from segdist.nets.segmenter import Segmenter

__all__ = ["MODEL", "PICTURES", "TRAINING", "Metrics", "ReportEpoch", "fit"]

ReportEpoch = Callable[[Metrics, Path | None], None]
"""Takes the metrics of an epoch and, where one was saved, the checkpoint folder (gone after the call)."""


@dataclass(frozen=True)
class Leaving:
    """How a fit is left in the middle of an epoch.

    Attributes:
        is_asked: asked by every worker after every step, and every image that is scored; whether it has to leave.
        save: called by the chief with a checkpoint folder (gone after the call), the epochs that are done, and the
            steps of the next one.
    """

    is_asked: Callable[[], bool]
    save: Callable[[Path, int, int], object]


def fit(
    run: RunSpec,
    classes: tuple[str, ...],
    *,
    train: LabelledImages,
    val: LabelledImages,
    report: ReportEpoch,
    workers: Workers | None = None,
    resume: Path | None = None,
    kept: str = "",
    halvings: int = 0,
    on_work: Callable[[Work], object] | None = None,
    member: PackMember | None = None,
    leaving: Leaving | None = None,
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
        kept: folder or prefix for the models of `train.keep_every`; "" keeps none.
        halvings: times that the learning rate is halved, where the checkpoint's is not halved as often already.
        on_work: called about once a second while this worker trains, with what it did since.
        member: this training's place among those of a pack, with which it computes; only without other workers.
        leaving: how it is left early; None where it never is.

    A step whose gradient is not finite is skipped and counted; an epoch of nothing but such steps ends the fit with
    `diverged` 1 and the worst values, as `val/iou` 0, so that a search learns to keep away.

    Returns:
        The network as it was last scored and saved: with `train.ema` the average of its weights.

    Raises:
        SpecError: a phase trains nothing, a parameter that is to be trained is not used, or there is no compiler.
        DivergedError: the loss of a step is infinite or no number, on any worker; no worker has taken the step.
        PreemptedError: a worker has to leave, and all is saved; every worker raises it.
    """
    workers = workers or Workers.here()
    set_matrix_products(run.train.precision, workers.device)
    family = declaration(run.model.family)
    is_sharded = run.resources.strategy == "fsdp" and workers.world_size > 1
    network = _network(run, classes, workers, resume=resume, is_sharded=is_sharded)
    objective = objective_of(run, family, train, classes)
    network.objective = objective
    batches, sampler = loader(
        network, train, run, rank=workers.rank, world_size=workers.world_size, pin_memory=workers.device.type == "cuda"
    )
    state = Fit(
        run,
        network,
        family,
        workers,
        objective.weights,
        steps_per_epoch=len(sampler.steps),
        kept=kept,
        halvings=halvings,
        is_sharded=is_sharded,
        pace=Pace(on_work, workers.device),
        leave=leaving.is_asked if leaving else None,
    )
    if resume:
        state.resume(resume)
    if member:
        member.train(network)
    for number, epochs in state.remaining():
        state.enter(number)
        network.prepare_collating()
        # anew, because it knows only what is trained when it is made
        parallel = network if is_sharded else workers.parallel(network, finds_unused=bool(family.sometimes_unused))
        for epoch in epochs:
            under_way = state.under_way
            sampler.epoch, sampler.first_step = epoch, under_way.steps
            try:
                with hastened(network, workers.device):
                    metrics = train_epoch(state, parallel, batches, steps=sampler.steps, images=len(train))
            except LossNotFiniteError as error:
                images = tuple(train[index][0].image_id for index in sampler.images_of(error.step))
                raise _diverged(state, error, images) from error
            except LeftError:
                raise _left(state, epoch, under_way, leaving) from None
            if metrics["diverged"]:
                report(metrics | {f"val/{name}": _worst(name) for name in run.evaluate.each_epoch}, None)
                return state.finished()
            try:
                _score_and_report(state, metrics, val, report)
            except LeftError:
                raise _left(state, epoch, under_way, leaving) from None
    return state.finished()


def _network(
    run: RunSpec, classes: tuple[str, ...], workers: Workers, *, resume: Path | None, is_sharded: bool
) -> Segmenter:
    """The model with the weights that training goes on from, where it is to be trained."""
    network = checkpoint.build(run.model, classes, adapter=run.train.adapter, seed=run.seed)
    if not is_sharded:  # else no device need hold it whole
        network = network.to(workers.device)
    if resume:
        checkpoint.restore(network, resume / MODEL, frozen_digest=checkpoint.describe(resume / MODEL).frozen_digest)
    elif run.train.init_from:
        checkpoint.init_from(network, run.train.init_from, run.model, classes)
    if is_sharded:
        from segdist.engine import sharding  # half a CPU-second and 50 MB that most trials have no use for

        sharding.shard(network, declaration(run.model.family), workers)
    if run.train.compile:
        compile_in_place(network, workers.device)
    return network


def _left(state: Fit, epoch: int, under_way: UnderWay, leaving: Leaving | None) -> PreemptedError:
    """Save what is done of an epoch: where it was being scored, all of its steps."""
    assert leaving, "else nobody asked for it"
    state.epoch, state.under_way = epoch, under_way
    kept = under_way.state(state.workers)
    with TemporaryDirectory(prefix="segdist-") as folder:
        state.save(Path(folder), under_way=kept)
        if state.workers.is_chief:
            leaving.save(Path(folder), epoch, under_way.steps)
    state.workers.gather([0])  # the first that ends, ends the others too
    return PreemptedError(f"it is saved after step {under_way.steps} of epoch {epoch + 1}")


def _diverged(state: Fit, error: LossNotFiniteError, images: tuple[str, ...]) -> DivergedError:
    named = ", ".join(images[:5]) + (f" and {len(images) - 5} more" if len(images) > 5 else "")
    return DivergedError(
        f"The loss must be finite, but of step {error.step + 1} of epoch {state.epoch + 1} it is not "
        f"({', '.join(error.terms)}), in the batch of {named}. Lower `train.lr`, lengthen `train.warmup`, or look at "
        "these images and their masks.",
        images=images,
        halvings=state.halvings,
    )


def _worst(name: str) -> float:
    """What no model can score worse than."""
    return math.inf if lower_is_better(name) else 0.0


def _score_and_report(state: Fit, metrics: Metrics, val: LabelledImages, report: ReportEpoch) -> None:
    run, workers = state.run, state.workers
    start = time.perf_counter()
    with state.pace.part("score"), state.model():
        workers.share(moving(state.network, ()).values())  # batch norms of each have seen other images
        with state.gathered(), autocast(run.train.precision, workers.device):
            values, found = score(state.network, val, run.evaluate, workers=workers, leave=state.leave)
    metrics |= {f"val/{name}": value for name, value in values.items()}
    metrics["seconds"] += time.perf_counter() - start
    metrics[PEAK] = runtime.peak_bytes() / 1e6
    with state.pace.part("report"), TemporaryDirectory(prefix="segdist-") as folder:
        saves = _saves(run, state.epoch)
        saved = saves and workers.is_chief
        if saves:
            state.save(Path(folder))
        if saved:
            pictures.save(Path(folder) / PICTURES, val, found, run.evaluate, classes=state.network.classes)
        report(metrics, Path(folder) if saved else None)
    state.pace.tell()


def _saves(run: RunSpec, epoch: int) -> bool:
    return epoch % run.train.checkpoint_every == 0 or epoch == run.train.total_epochs
