"""The evaluator against torchmetrics' mean average precision with a boundary IoU as the paper's code computes it.

CPU-seconds are compared, so that a busy machine does not decide; imports are not counted. Each runs in a process of its
own, over images that were drawn before. `SEGDIST_BENCH_IMAGES` makes it shorter.
"""

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segdist.core import masks
from segdist.core.records import Instance, Prediction, Sample
from segdist.metrics import Evaluator

IMAGES = int(os.environ.get("SEGDIST_BENCH_IMAGES", "1000"))
SIDE, INSTANCES, LONGEST = 1024, 20, 130
CLASSES = ("wall", "floor", "window", "door", "lamp")
Pairs = Sequence[tuple[Sample, Prediction]]


@dataclass(frozen=True)
class Measured:
    """What a process tells: CPU-seconds, growth of the peak of resident memory in MB, and the two values."""

    seconds: float
    grown_mb: float
    mask_ap: float
    boundary_iou: float


def main() -> None:
    """Print CPU-seconds and the growth of memory over the images."""
    images = f"{IMAGES} images, {INSTANCES} instances each, {SIDE} pixels"
    print(f"{images}; load average {os.getloadavg()[0]:.0f}")
    like = _shown("segdist, mask AP and boundary IoU", "like", IMAGES)
    whole = _shown("segdist, every metric", "whole", IMAGES)
    _shown(f"segdist, every metric, {IMAGES // 4} images", "whole", IMAGES // 4)
    theirs = _shown("torchmetrics and boundary IoU", "theirs", IMAGES)
    print(f"mask AP {like.mask_ap:.6f} against {theirs.mask_ap:.6f}")
    print(f"boundary IoU {like.boundary_iou:.6f} against {theirs.boundary_iou:.6f}")
    print(f"as fast as the baseline: {theirs.seconds / like.seconds:.1f} times on its metrics")
    print(f"                         {theirs.seconds / whole.seconds:.1f} times with every metric")


def _shown(name: str, what: str, images: int) -> Measured:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_measured, (what, images))
    print(f"{name:42} {found.seconds:8.1f} CPU-s   memory +{found.grown_mb:.0f} MB", flush=True)
    return found


def _measured(what: str, images: int) -> Measured:
    run = {"like": _like, "whole": _whole, "theirs": _theirs}[what]
    pairs = _pairs(images)
    run(_pairs(2))  # imports, and what libraries do once
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = _peak_mb(), time.process_time()
    values = run(pairs)
    return Measured(time.process_time() - started, _peak_mb() - before, *values)


def _peak_mb() -> float:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _like(pairs: Pairs) -> tuple[float, float]:
    return _ours(pairs, ["mask_ap", "boundary_iou"])


def _whole(pairs: Pairs) -> tuple[float, float]:
    return _ours(pairs, None)


def _ours(pairs: Pairs, metrics: list[str] | None) -> tuple[float, float]:
    evaluator = Evaluator(CLASSES, min_score=0.0, metrics=metrics)
    for sample, prediction in pairs:
        evaluator.add(sample, prediction)
    values = evaluator.values()
    return values["mask_ap"], values["boundary_iou"]


def _theirs(pairs: Pairs) -> tuple[float, float]:
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    # Its own default thresholds are COCO's in single precision: recalls at a threshold fall on its other side.
    levels, recalls = np.linspace(0.5, 0.95, 10).tolist(), np.linspace(0, 1, 101).tolist()
    metric = MeanAveragePrecision(iou_type="segm", backend="pycocotools", iou_thresholds=levels, rec_thresholds=recalls)
    sums = np.zeros((len(CLASSES), 2))
    for sample, prediction in pairs:
        truth, guess = _dense(sample.instances), _dense(prediction.instances)
        scores = torch.tensor([i.score for i in prediction.instances])
        metric.update(
            [{"masks": torch.from_numpy(guess[0]), "labels": torch.from_numpy(guess[1]), "scores": scores}],
            [{"masks": torch.from_numpy(truth[0]), "labels": torch.from_numpy(truth[1])}],
        )
        for k in range(len(CLASSES)):
            true, found = (_band(m[labels == k].any(axis=0)) for m, labels in (truth, guess))
            sums[k] += (true & found).sum(), (true | found).sum()
    return float(metric.compute()["map"]), float((sums[:, 0] / sums[:, 1]).mean())


def _dense(instances: tuple[Instance, ...]) -> tuple[Any, Any]:
    decoded = np.stack([masks.decode(i.mask) for i in instances if i.mask is not None])
    return decoded, np.array([CLASSES.index(i.label) for i in instances])


def _band(mask_HW: masks.Mask) -> masks.Mask:
    """As the code of Cheng et al. (2021): erosion of the whole padded image, as often as the band is wide."""
    pixels = max(1, round(0.02 * float(np.hypot(*mask_HW.shape))))
    padded = cv2.copyMakeBorder(mask_HW.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=pixels)[1:-1, 1:-1]
    return mask_HW & ~inner.astype(np.bool_)


def _pairs(images: int) -> Pairs:
    rng = np.random.default_rng(0)
    return [_pair(str(number), rng) for number in range(images)]


def _pair(name: str, rng: np.random.Generator) -> tuple[Sample, Prediction]:
    truths, found = [], []
    for _ in range(INSTANCES):
        centre, axes = rng.integers(0, SIDE, 2), rng.integers(10, LONGEST, 2)
        label = CLASSES[int(rng.integers(len(CLASSES)))]
        angle, shift = float(rng.integers(180)), rng.integers(-9, 10, 2)
        truths.append(_ellipse(label, centre, axes, angle, 1.0))
        found.append(_ellipse(label, centre + shift, axes, angle, float(rng.random())))
    return (
        Sample(name, "", (SIDE, SIDE), tuple(i for i in truths if i.mask and i.mask.area)),
        Prediction(name, tuple(i for i in found if i.mask and i.mask.area)),
    )


def _ellipse(label: str, centre: Any, axes: Any, angle: float, score: float) -> Instance:
    left, top = (max(0, int(centre[k]) - LONGEST) for k in (0, 1))
    right, bottom = (min(SIDE, int(centre[k]) + LONGEST + 1) for k in (0, 1))
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    middle = int(centre[0]) - left, int(centre[1]) - top
    cv2.ellipse(canvas, middle, (int(axes[0]), int(axes[1])), angle, 0, 360, 1, -1)
    rle = masks.place(canvas > 0, (top, left), (SIDE, SIDE))
    return Instance(label, rle, rle.box_xyxy, score)


if __name__ == "__main__":
    main()
