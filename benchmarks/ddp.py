"""Steps a second of one worker and of two that divide its batch, each with a core and a thread of its own.

Trials of real searches: two workers are a Ray Train group, whose gradients gloo adds up over loopback. The driver, Ray
and MLflow share the cores, as they do on one machine.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks.labelling import STEADY
from benchmarks.trials import drawn, search
from segdist.core.spec import SweepSpec

EPOCHS = 4
"""The first is not counted."""
NETWORKS: dict[str, dict[str, Any]] = {
    "computing is the work": {"size": 128, "batch": 8, "train": 64, "width": 32, "depth": 4},
    "talking is the work": {"size": 32, "batch": 2, "train": 800, "width": 4, "depth": 2},
}
"""U-Nets by what their step spends its time with: pixels of a side, images of a batch and of an epoch, and size."""


def main() -> None:
    """Print steps a second, one worker before and after two: where those differ, the machine was busy."""
    with TemporaryDirectory(prefix="segdist-bench-") as folder:
        found = [_alone(f"{folder}/{turn}", workers) for turn, workers in enumerate((1, 2, 1))]
    print(f"{'steps a second':34}{'1 worker':>10}{'2 workers':>11}{'1 again':>9}{'ratio':>7}")
    for name in NETWORKS:
        one, two, again = (of_all[name] for of_all in found)
        ratio, wobble = 2 * two / (one + again), max(one, again) / min(one, again)
        busy = "" if wobble <= STEADY else f"  NOT DECIDED, the machine was busy: one worker x{wobble:.2f}"
        print(f"{name:34}{one:10.2f}{two:11.2f}{again:9.2f}{f'x{ratio:.2f}':>7}{busy}", flush=True)


def steps_a_second(folder: str, workers: int) -> dict[str, float]:
    """Train each network in this process's own cluster, on as many cores as there are workers.

    Args:
        folder: for everything.
        workers: that divide each batch.
    """
    from segdist.pipeline.cluster import connected

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    with patch.dict("os.environ", RAY_worker_niceness="0", SEGDIST_CACHE=f"{folder}/cache"), connected() as ray:
        return {
            name: _steps_a_second(ray, f"{folder}/{number}", workers, **of)
            for number, (name, of) in enumerate(NETWORKS.items())
        }


def _steps_a_second(
    ray: Any, folder: str, workers: int, *, size: int, batch: int, train: int, width: int, depth: int
) -> float:
    dataset = drawn(f"{folder}/data", {"train": train, "val": 4}, size)
    spec = SweepSpec.model_validate(
        {
            "name": "ddp",
            "storage": folder,
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam", "unet_cbam": {"image_size": size, "width": width, "depth": depth}},
            "train": {"epochs": EPOCHS, "batch_size": batch},
            "resources": {"workers": workers, "cpus_per_worker": 0.9},
            "space": {"train.lr": {"low": 9e-4, "high": 1.1e-3}},
            "search": {"trials": 1, "concurrency": 1, "asha": None},
        }
    )
    return search(ray, spec, dataset).first().throughput / batch


def _alone(folder: str, workers: int) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(steps_a_second, folder, workers).result()
