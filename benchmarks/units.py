"""What a unit of labelling costs beside its images: the driver, and Ray Data, with as many units as millions have.

A unit is what is labelled and stored at once (`label.images_per_shard`); here its answer is a word.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import psutil

from segdist.pipeline.dataflow import answers, map_items

UNITS = (500, 4000)
ACTORS = 2


class Nobody:
    """A teacher that answers at once."""

    @answers
    def __call__(self, unit: dict[str, Any]) -> str:
        """Its number."""
        return str(unit["start"])


def main() -> None:
    """Print what units cost when there are few and many of them."""
    print(f"{'units':>6}{'s to the first':>16}{'ms each':>9}{'driver CPU-ms each':>20}{'driver MB':>11}")
    for units in UNITS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            first, each, cpu, megabytes = pool.submit(_measure, units).result()
        print(f"{units:6}{first:16.1f}{1000 * each:9.1f}{1000 * cpu:20.1f}{megabytes:11.0f}", flush=True)


def _measure(units: int) -> tuple[float, float, float, float]:
    from segdist.pipeline.cluster import connected

    rows = [{"shard": "s3://bucket/dataset/train-00000.parquet", "start": n, "stop": n + 64} for n in range(units)]
    with connected() as ray:
        pool, began = ray.data.ActorPoolStrategy(size=ACTORS), time.perf_counter()
        came = map_items(ray, Nobody, rows, compute=pool, num_cpus=0.45)
        next(came)
        first, cpu = time.perf_counter(), time.process_time()
        assert sum(1 for _ in came) == units - 1
        ended, spent = time.perf_counter(), time.process_time() - cpu
        resident = psutil.Process().memory_info().rss / 1e6
    return first - began, (ended - first) / (units - 1), spent / (units - 1), resident
