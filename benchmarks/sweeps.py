"""What a search costs beside its trials: at full concurrency, and with thousands of them.

The searches are real ones, `pipeline.sweep.search`, each in a process of its own; their trials do nothing but report,
or compute for a minute with what surrounds that in a true trial: importing torch, keeping checkpoints, reporting.
"""

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psutil

from segdist.core.spec import SweepSpec
from segdist.datasets.shards import Manifest
from segdist.pipeline.checkpoints import CHECKPOINT
from segdist.pipeline.trial import Job
from segdist.searching import Ledger, Search, Trial
from segdist.searching.budget import Meter

TRIALS, TOLD = 2000, 300
"""Trials of one step: without MLflow, and with it."""
LONG, EPOCHS, EPOCH_SECONDS = 6, 6, 10.0
"""Trials of a minute, at as many at once as there are cores."""
CHECKPOINT_BYTES = 5_000_000
EACH, RESTART, OVERHEAD, GROWTH = 0.1, 10.0, 0.10, 1.10
"""The targets: seconds a trial of one step; seconds until a search of all of them goes on; share of the cores' time
that is neither training nor evaluating; memory of the driver after all trials against after the first hundred."""


@dataclass
class Course:
    """How a search went."""

    began: float
    """When Ray was asked for, in seconds since 1970."""
    ended: list[float] = field(default_factory=list)
    """When each trial had ended."""
    megabytes: list[float] = field(default_factory=list)
    """Of the driver, then."""
    over: float = 0.0
    """When the search was over: MLflow knew all."""
    driver_cpu: float = 0.0
    """Seconds, of the driver alone."""
    first_steps: list[float] = field(default_factory=list)
    """When the first epoch of each trial began, in that order."""
    trained: list[float] = field(default_factory=list)
    """Seconds of training and evaluating of each, in the same order."""
    restart: float = 0.0
    """Seconds until a search that goes on from the ledger has its next trial."""

    @property
    def each(self) -> float:
        """Seconds from end to end of two trials, the mean."""
        return (self.ended[-1] - self.ended[0]) / (len(self.ended) - 1)


def main() -> None:
    """Print what many small trials cost, then what surrounds long ones."""
    print(f"{'trials of one step':34}{'trials':>7}{'s each':>8}{'driver CPU-s each':>19}{'MB':>12}{'restart s':>11}")
    for name, sampler, trials, is_told in (
        ("random", "random", TRIALS, False),
        ("tpe", "tpe", TRIALS, False),
        ("random, with MLflow", "random", TOLD, True),
    ):
        found = alone(report_once, sampler=sampler, trials=trials, epochs=1, is_told=is_told)
        _print_many(name, found)
    found = alone(compute_a_minute, sampler="random", trials=LONG, epochs=EPOCHS, is_told=True)
    cores = os.cpu_count() or 1
    turns = zip(found.trained, found.first_steps, found.first_steps[cores:], strict=False)
    share = statistics.median(1 - trained / (following - began) for trained, began, following in turns)
    whole = found.over - found.began
    print(
        f"{LONG} trials of {EPOCHS * EPOCH_SECONDS:.0f} s on {cores} cores: {share:.1%} of the cores' time is neither "
        f"training nor evaluating, at full concurrency ({_verdict(f'< {OVERHEAD:.0%}', met=share < OVERHEAD)}); first "
        f"steps {', '.join(f'{at - found.began:.1f}' for at in found.first_steps[:cores])} s after `ray.init`, "
        f"{1 - sum(found.trained) / (cores * whole):.1%} of all until the end; the driver took "
        f"{found.driver_cpu:.1f} CPU-seconds"
    )


def report_once(config: dict[str, Any], job: Job) -> None:  # noqa: ARG001 - as `train_trial` is called
    """A trial of one step, which is nothing."""
    from ray import tune

    tune.report({"epoch": 1, "seconds": 0.0, "val/iou": config["values"]["train.loss.dice"] / 2})


def compute_a_minute(config: dict[str, Any], job: Job) -> None:
    """A trial that keeps a core busy for as long as it says."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    checkpoints, square = job.checkpoints(config["number"]), torch.rand(256, 256)
    for epoch in range(1, EPOCHS + 1):
        began = time.perf_counter()
        while time.perf_counter() - began < EPOCH_SECONDS:
            square = torch.softmax(square @ square, 0)
        seconds = time.perf_counter() - began
        metrics = {"epoch": epoch, "seconds": seconds, "val/iou": config["values"]["train.loss.dice"] / 2}
        checkpoints.note(metrics)
        with TemporaryDirectory() as folder:
            Path(folder, "model").write_bytes(os.urandom(CHECKPOINT_BYTES))
            saved = checkpoints.save(Path(folder), epoch=epoch, score=metrics["val/iou"])
        tune.report({**metrics, CHECKPOINT: saved})


def measure(
    trainable: Callable[..., None],
    folder: str,
    *,
    sampler: str,
    trials: int,
    epochs: int,
    is_told: bool,
    concurrency: int | str = "auto",
) -> Course:
    """Run a search in this process.

    Args:
        trainable: a trial, as `train_trial` is.
        folder: for everything.
        sampler: of the search.
        trials: how many.
        epochs: of each.
        is_told: whether MLflow is.
        concurrency: trials at once.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # beside other work, trials get as much as the driver
    from segdist.pipeline import sweep
    from segdist.pipeline.cluster import connected
    from segdist.tracking import Tracker

    spec = _spec(folder, sampler=sampler, trials=trials, epochs=epochs, concurrency=concurrency)
    tracker: Any = Tracker.for_sweep(spec) if is_told else _Nobody()
    parent = tracker.start_sweep(
        "many", "0" * 16, spec_text="{}", spec_file="many", tags={}, params={}, dataset=_NO_DATA
    )
    course, end = Course(time.time()), Search.end

    def noted(search: Search, number: int) -> Trial:
        course.ended.append(time.time())
        course.megabytes.append(psutil.Process().memory_info().rss / 1e6)
        return end(search, number)

    place, cpu = f"{folder}/sweep", time.process_time()
    with (
        connected() as ray,
        redirect_stdout(StringIO()),
        patch.object(sweep, "train_trial", trainable),
        patch.object(Search, "end", noted),
    ):
        sweep.search(spec, Job(spec.run, "", "", (), place, "val/iou"), ray, tracker, parent, {}, Meter(place))
        course.over = time.time()
    course.driver_cpu = time.process_time() - cpu
    begun = sorted((trial.epochs[0].at - trial.epochs[0].seconds, trial.seconds) for trial in Ledger(place).trials)
    course.first_steps, course.trained = [at for at, _ in begun], [seconds for _, seconds in begun]
    began = time.perf_counter()
    assert Search(_spec(folder, sampler=sampler, trials=trials + 1, epochs=epochs), Ledger(place)).next()
    course.restart = time.perf_counter() - began
    return course


class _Nobody:
    """A tracker that keeps nothing."""

    uri = "nowhere"

    def trials(self, *_: object) -> list[object]:
        return []

    def history(self, *_: object) -> list[object]:
        return []

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *_, **__: name


_NO_DATA = Manifest(kind="dataset", content_hash="0" * 16, classes=("roof",), splits={}, findings={}, shards=())


def alone(trainable: Callable[..., None], **options: Any) -> Course:
    """Run a search in a process of its own; see `measure`."""
    with (
        TemporaryDirectory(prefix="segdist-bench-") as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(measure, trainable, folder, **options).result()


def _spec(folder: str, *, sampler: str, trials: int, epochs: int, concurrency: int | str = "auto") -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "many",
            "storage": folder,
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam"},
            "train": {"epochs": epochs},
            "space": {
                "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
                "train.weight_decay": {"low": 0.0, "high": 0.1},
                "train.loss.dice": {"low": 0.5, "high": 2.0},
            },
            "search": {"trials": trials, "sampler": sampler, "asha": None, "concurrency": concurrency},
        }
    )


def _print_many(name: str, found: Course) -> None:
    early, late = found.megabytes[min(100, len(found.megabytes) - 1)], found.megabytes[-1]
    print(
        f"{name:34}{len(found.ended):7}{found.each:8.3f}{found.driver_cpu / len(found.ended):19.3f}"
        f"{early:6.0f}{late:6.0f}{found.restart:11.2f}"
        f"  {_verdict(f'< {EACH} s', met=found.each < EACH)}, {_verdict(f'<= x{GROWTH}', met=late <= GROWTH * early)}, "
        f"{_verdict(f'< {RESTART:.0f} s', met=found.restart < RESTART)}; "
        f"MLflow knew all {found.over - found.ended[-1]:.1f} s after the last",
        flush=True,
    )


def _verdict(target: str, *, met: bool) -> str:
    return f"{target}: {'met' if met else 'MISSED'}"
