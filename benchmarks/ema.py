"""Whether the average of the weights (`train.ema`) scores better than the last of them, on held out images.

Both are weights of one and the same training, which the average does not touch. Small networks, small images, a few
epochs: what it shows is when an average helps, not by how much it helps a large run.
"""

import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segdist import adapters
from segdist.core import registry
from segdist.core.records import LabelledImage
from segdist.core.spec import RunSpec
from segdist.engine import checkpoint
from segdist.engine.averaging import moving, put
from segdist.engine.fit import MODEL, TRAINING, Metrics, fit
from segdist.engine.predict import score
from segdist.engine.workers import Workers

SEEDS, EPOCHS, HALF_LIFE = 5, 10, 0.05
TRAIN, VAL = 64, 32
"""Images."""
MASONRY = Path("../shared/data/masonry")
DATA: dict[str, tuple[str, dict[str, Any]]] = {
    "masonry": (
        "png_masks",
        {
            "path": str(MASONRY),
            "images": "crack_detection_224_images",
            "masks": "crack_detection_224_masks",
            "kind": "binary",
            "classes": {1: "crack"},
        },
    ),
    "drawn rooms": ("synthetic", {"scene": "rooms", "count": TRAIN + VAL, "size": 48, "seed": 3}),
}


def main() -> None:
    """Print, for each data set and schedule, mean val/iou over the seeds."""
    header = (
        f"{'val/iou, mean of 5 seeds':28}{'best epoch':>11}{'last epoch':>11}{'average':>9}{'- best':>9}{'- last':>9}"
    )
    print(header + "   jumps", flush=True)
    for data in DATA:
        if data == "masonry" and not MASONRY.exists():
            print(f"masonry: not measured, because there is no {MASONRY}")
            continue
        rows = _rows(data)
        for schedule in ("cosine", "constant"):
            start = time.process_time()
            curves = [_curves(rows, schedule, seed) for seed in range(SEEDS)]
            best = statistics.mean(max(plain) for plain, _ in curves)
            last = statistics.mean(plain[-1] for plain, _ in curves)
            average = statistics.mean(averaged[-1] for _, averaged in curves)
            jumps = [statistics.mean(map(_jump, side)) for side in zip(*curves, strict=True)]
            print(
                f"{f'{data}, {schedule}':28}{best:11.4f}{last:11.4f}{average:9.4f}{average - best:+9.4f}"
                f"{average - last:+9.4f}   {jumps[0]:.4f} -> {jumps[1]:.4f}, {time.process_time() - start:.0f} CPU-s",
                flush=True,
            )


def _rows(data: str) -> list[LabelledImage]:
    name, options = DATA[data]
    module = registry.load("formats", name)
    source = module.Format(module.Options(**options))
    rows = [(sample, source.image_bytes(sample)) for sample in source.read(lambda *_: None)]
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[int(i)] for i in order[: TRAIN + VAL]]


def _curves(rows: list[LabelledImage], schedule: str, seed: int) -> tuple[list[float], list[float]]:
    """The scores of each epoch: of the weights after its last step, and of their average."""
    classes = tuple(sorted({i.label for sample, _ in rows for i in sample.instances}))
    run = RunSpec.model_validate(
        {
            "model": {"family": "unet_cbam", "unet_cbam": {"image_size": 48, "width": 8, "depth": 3}},
            "train": {"epochs": EPOCHS, "batch_size": 8, "lr": 3e-3, "schedule": schedule, "ema": HALF_LIFE},
            "evaluate": {"pictures": 0},
            "seed": seed,
        }
    )
    plain: list[float] = []
    averaged: list[float] = []

    def report(metrics: Metrics, folder: Path | None) -> None:
        assert folder is not None
        averaged.append(metrics["val/iou"])
        network = checkpoint.load(folder / MODEL, trusted=True)
        weights = torch.load(folder / TRAINING, weights_only=True)["averaged"]["weights"]
        put(weights, moving(network, adapters.trained_names(network)))
        plain.append(score(network, rows[TRAIN:], run.evaluate, workers=Workers())[0]["iou"])

    fit(run, classes, train=rows[:TRAIN], val=rows[TRAIN:], report=report)
    return plain, averaged


def _jump(scores: list[float]) -> float:
    """The mean distance from one epoch to the next, over the second half."""
    return statistics.mean(abs(after - before) for before, after in pairwise(scores[len(scores) // 2 :]))
