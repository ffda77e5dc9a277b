"""What trials of one node save that train different decoders over the same frozen encoder (`embeddings: cache`).

Four trials differ in their learning rate. Every image is augmented at random, in each epoch anew; trials of one seed
see the same images all the same, so what one of them encodes the others read.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from segdist.core.spec import RunSpec
from segdist.engine.fit import Metrics, fit
from segdist.formats.synthetic import Format, Options

RATES = (1e-3, 5e-4, 2e-4, 1e-4)
EPOCHS, BATCH, TRAIN, VAL, SIZE = 2, 4, 8, 4, 128


def main() -> None:
    """Print the makespan of the four trials, one after the other and two at a time."""
    print(f"{'4 decoders of SAM vit_b, 128 pixels':38}{'seconds':>9}{'CPU-s':>8}")
    before: dict[int, float] = {}
    for at_once in (1, 2):
        for embeddings in ("compute", "cache"):
            seconds, cpu_seconds = _sweep(embeddings, at_once)
            before.setdefault(at_once, cpu_seconds)
            said = "" if embeddings == "compute" else f"   x{cpu_seconds / before[at_once]:.2f} of the CPU time"
            print(f"{f'{embeddings}, {at_once} at a time':38}{seconds:9.1f}{cpu_seconds:8.1f}{said}", flush=True)


def _sweep(embeddings: str, at_once: int) -> tuple[float, float]:
    with TemporaryDirectory(prefix="segdist-") as folder:
        started = time.perf_counter()
        with ProcessPoolExecutor(at_once, get_context("spawn"), _set, (folder,), max_tasks_per_child=4) as pool:
            taken: Sequence[float] = list(pool.map(_trial, RATES, [embeddings] * len(RATES)))
        return time.perf_counter() - started, sum(taken)


def _set(folder: str) -> None:
    os.environ["SEGDIST_CACHE"] = folder


def _trial(rate: float, embeddings: str) -> float:
    """CPU seconds of a trial."""
    torch.set_num_threads(1)
    started = time.process_time()
    sam: dict[str, Any] = {"size": "vit_b", "weights": "random", "image_size": SIZE, "embeddings": embeddings}
    run = RunSpec.model_validate(
        {
            "model": {"family": "sam", "sam": sam},
            "train": {
                "epochs": EPOCHS,
                "batch_size": BATCH,
                "lr": rate,
                "adapter": {"kind": "frozen_encoder"},
                "augment": ["flip", "brightness"],
                "precision": "float32",
                "checkpoint_every": EPOCHS,
            },
            "evaluate": {"pictures": 0, "prompts": "box"},
        }
    )
    drawn = Format(Options(scene="roofs", count=TRAIN + VAL, size=SIZE, seed=3))
    rows = [(sample, drawn.image_bytes(sample)) for sample in drawn.read(lambda _: None)]
    fit(run, ("roof",), train=rows[:TRAIN], val=rows[TRAIN:], report=_silent)
    return time.process_time() - started


def _silent(metrics: Metrics, folder: Path | None) -> None:
    """Nobody reads it."""
