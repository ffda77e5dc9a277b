"""What Ray costs a trial: throughput of training, time to the first step, idle time between trials.

The trials are those of real searches, `pipeline.sweep.search` with MLflow beside it; the baseline is `engine.fit` on
the same rows in a process that knows nothing of Ray.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks._clock import Clock, Timeline, clocked
from segdist.core.spec import SweepSpec
from segdist.datasets.shards import Dataset, write_manifest, write_shard
from segdist.formats.synthetic import Format, Options
from segdist.pipeline.trial import Job, train_trial
from segdist.searching.budget import Meter

IMAGES = {"train": 192, "val": 16}
SIZE = 64
EPOCHS = 4
STEADY = 1.05
"""The baseline is taken before and after; where its two runs, or a ratio, lie further apart, the machine was busy."""
THROUGHPUT, FIRST, REUSED = 0.95, 4.0, 1.0
"""The targets: share of the bare process's throughput; seconds to the first step of a first and of a reused trial."""
MOST_SECONDS = 300
"""Gone after one worker: with more, two workers, which start eight processes, are left out."""
_ONE_WORKER = (("one worker, first trial", FIRST), ("one worker, reused process", REUSED))
_TWO_WORKERS = (("two workers, first trial", None), ("two workers, next trial", None))
"""A first trial and the one after it, with the seconds within which they are to have done a step."""


def main() -> None:
    """Print throughput, then times to the first step; of two workers only where there is time for it."""
    began, settings = time.monotonic(), {"RAY_worker_niceness": "0"}  # beside other work, trials get a part of it
    with (
        TemporaryDirectory(prefix="segdist-bench-") as folder,
        patch.dict("os.environ", settings, SEGDIST_CACHE=f"{folder}/c"),
    ):
        dataset = drawn(f"{folder}/data", IMAGES, SIZE)
        before = _bare(job_of(_spec(folder, "bare"), dataset))
        inline, grouped = _of_one_worker(folder, dataset)
        bare = [before, _bare(job_of(_spec(folder, "bare"), dataset))]
        _print_throughput(bare, inline, grouped)
        _print_starts(bare, inline, _ONE_WORKER)
        gone = time.monotonic() - began
        if gone > MOST_SECONDS:
            print(f"two workers: NOT MEASURED, the machine was busy: {gone:.0f} s were gone")
            return
        _print_starts(bare, _of_two_workers(folder, dataset), _TWO_WORKERS)


def in_group(config: dict[str, Any], job: Job) -> None:
    """Trains in a Ray Train group also where one worker would train inside Tune's process."""
    from segdist.pipeline.trial import _train_in_group

    _train_in_group(job.run_of(config["values"]), job, config["number"], config["known"])


def fit_bare(job: Job, started: float) -> Timeline:
    """What a trial does, without Ray.

    Args:
        job: as a search's trials get it.
        started: when this process was asked for.
    """
    import torch

    from segdist.core.storage import cache_dir
    from segdist.engine.fit import fit

    torch.set_num_threads(1)
    line = Timeline(started)
    dataset = Dataset.open(job.dataset_uri)
    train, val = (dataset.reader(split, cache_dir()) for split in ("train", "val"))
    fit(job.run, dataset.manifest.classes, train=train, val=val, report=lambda metrics, _: line.add(metrics))
    return line


def _bare(job: Job) -> Timeline:
    started = time.time()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(fit_bare, job, started).result()


def _of_one_worker(folder: str, dataset: Dataset) -> tuple[Clock, Clock]:
    """Trials inside Tune's process, and one in a group."""
    from segdist.pipeline.cluster import connected

    with connected() as ray:
        return (
            search(ray, _spec(folder, "inline", trials=2), dataset),
            search(ray, _spec(folder, "grouped", trials=1), dataset, trainable=in_group),
        )


def _of_two_workers(folder: str, dataset: Dataset) -> Clock:
    from segdist.pipeline.cluster import connected

    with connected() as ray:
        return search(ray, _spec(folder, "pairs", trials=2, workers=2, cpus=0.9, epochs=2), dataset)


def search(ray: Any, spec: SweepSpec, dataset: Dataset, *, trainable: Callable[..., None] = train_trial) -> Clock:
    """Run a search, beside MLflow as ever.

    Args:
        ray: the connected `ray` module.
        spec: of the sweep.
        dataset: what its trials learn.
        trainable: a trial, as `train_trial` is.
    """
    from segdist.pipeline import sweep
    from segdist.tracking import Tracker

    tracker, clock = Tracker.for_sweep(spec), Clock()
    parent = tracker.start_sweep(
        spec.name, spec.name, spec_text="{}", spec_file=spec.name, tags={}, params={}, dataset=dataset.manifest
    )
    with (
        patch.multiple("segdist.pipeline.tune_trials", **clocked(clock)),
        redirect_stdout(StringIO()),  # the searches' own progress
        patch.object(sweep, "train_trial", trainable),
    ):
        job = job_of(spec, dataset)
        sweep.search(spec, job, ray, tracker, parent, {}, Meter(job.storage_path))
    return clock


def drawn(root: str, images: Mapping[str, int], size: int) -> Dataset:
    """Roofs with their true masks, as `ingest` would store them.

    Args:
        root: the folder of the data set.
        images: how many, by split.
        size: of each side, in pixels.
    """
    source = Format(Options(scene="roofs", count=sum(images.values()), size=size))
    samples = iter(list(source.read(lambda _: None)))
    shards = []
    for split, count in images.items():
        rows = [(replace(s, split=split), source.image_bytes(s)) for s, _ in zip(samples, range(count), strict=False)]
        shards.append(write_shard(f"{root}/{split}.parquet", rows))
    return write_manifest(root, "dataset", ("roof",), shards)


def _spec(
    folder: str, name: str, *, trials: int = 1, workers: int = 1, cpus: float = 1.0, epochs: int = EPOCHS
) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": name,
            "storage": f"{folder}/{name}",
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam", "unet_cbam": {"image_size": SIZE, "width": 8}},
            "train": {"epochs": epochs},
            "resources": {"workers": workers, "cpus_per_worker": cpus},
            "space": {"train.lr": {"low": 9e-4, "high": 1.1e-3}},
            "search": {"trials": trials, "concurrency": 1, "asha": {"grace_epochs": epochs}},
        }
    )


def job_of(spec: SweepSpec, dataset: Dataset) -> Job:
    """What the trials of a sweep have in common."""
    return Job(spec.run, dataset.uri, "", (), f"{spec.storage}/trials", spec.search.metric)


def _print_throughput(bare: list[Timeline], inline: Clock, grouped: Clock) -> None:
    images = sum(line.throughput for line in bare) / len(bare)
    seconds = sum(line.epoch_seconds for line in bare) / len(bare)
    spread = max(line.throughput for line in bare) / min(line.throughput for line in bare)
    print(f"{'training, one worker':34}{'images/s':>9}{'ratio':>7}{'epoch/s':>9}{'ratio':>7}")
    print(f"{'bare process (baseline)':34}{images:9.1f}{1:7.2f}{1 / seconds:9.2f}{1:7.2f}  its two runs: x{spread:.2f}")
    for name, line in (("inside the Tune process", inline.first()), ("Ray Train group", grouped.first())):
        ratio, epochs = line.throughput / images, seconds / line.epoch_seconds
        verdict = _verdict(f">= {THROUGHPUT}", met=ratio >= THROUGHPUT)
        if spread > STEADY or ratio > STEADY:  # Ray does not make training faster: something else slowed the baseline
            verdict = f">= {THROUGHPUT}: NOT DECIDED, the machine was busy"
        print(
            f"{name:34}{line.throughput:9.1f}{ratio:7.2f}{1 / line.epoch_seconds:9.2f}{epochs:7.2f}  {verdict}",
            flush=True,
        )


def _print_starts(bare: list[Timeline], clock: Clock, rows: tuple[tuple[str, float | None], ...]) -> None:
    baseline = sum(line.to_first_step for line in bare) / len(bare)
    print(f"{'seconds':34}{'start to first step':>20}{'ratio':>7}{'with its process':>18}{'idle before':>13}")
    print(f"{'bare process (baseline)':34}{baseline:20.2f}{1:7.2f}{baseline:18.2f}")
    for (name, target), line in zip(rows, (clock.first(), clock.next()), strict=True):
        is_first = line is clock.first()
        waited = f"{line.first_step - clock.asked:18.2f}" if is_first else f"{'':18}{clock.idle():13.2f}"
        verdict = f"  {_verdict(f'< {target:g} s', met=line.to_first_step < target)}" if target else ""
        print(f"{name:34}{line.to_first_step:20.2f}{line.to_first_step / baseline:7.2f}{waited}{verdict}", flush=True)


def _verdict(target: str, *, met: bool) -> str:
    return f"{target}: {'met' if met else 'MISSED'}"
