"""The evaluator against torchmetrics' mean average precision with a boundary IoU as the paper's code computes it.

CPU-seconds are compared, so that a busy machine does not decide. `SEGDIST_BENCH_IMAGES` makes it shorter.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from segdist import masks
from segdist.metrics import Evaluator
from segdist.records import Instance, Prediction, Sample

IMAGES = int(os.environ.get("SEGDIST_BENCH_IMAGES", "1000"))
SIDE, INSTANCES = 1024, 20
CLASSES = ("wall", "floor", "window", "door", "lamp")
Pair = tuple[Sample, Prediction]


def main() -> None:
    """Print CPU-seconds and the growth of memory over the images."""
    images = f"{IMAGES} images, {INSTANCES} instances each, {SIDE} pixels"
    print(f"{images}; load average {os.getloadavg()[0]:.0f}")
    like, like_values = _measured("segdist, mask AP and boundary IoU", lambda: _ours(["mask_ap", "boundary_iou"]))
    _measured("segdist, every metric", lambda: _ours(None))
    theirs, their_values = _measured("torchmetrics and boundary IoU", _theirs)
    print(f"mask AP {like_values[0]:.6f} against {their_values[0]:.6f}")
    print(f"boundary IoU {like_values[1]:.6f} against {their_values[1]:.6f}")
    print(f"torchmetrics and boundary IoU take {theirs / like:.1f} times as long as segdist on the same metrics")


def _measured(name: str, run: Callable[[], tuple[float, float]]) -> tuple[float, tuple[float, float]]:
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    values = run()
    seconds = time.process_time() - started - _drawing()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss) / 1024
    print(f"{name:36} {seconds:8.1f} CPU-s   memory +{grown:.0f} MB", flush=True)
    return seconds, values


def _ours(metrics: list[str] | None) -> tuple[float, float]:
    evaluator = Evaluator(CLASSES, min_score=0.0, metrics=metrics)
    for sample, prediction in _pairs():
        evaluator.add(sample, prediction)
    values = evaluator.values()
    return values["mask_ap"], values["boundary_iou"]


def _theirs() -> tuple[float, float]:
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    # Its own default thresholds are COCO's in single precision: recalls at a threshold fall on its other side.
    levels, recalls = np.linspace(0.5, 0.95, 10).tolist(), np.linspace(0, 1, 101).tolist()
    metric = MeanAveragePrecision(iou_type="segm", backend="pycocotools", iou_thresholds=levels, rec_thresholds=recalls)
    sums = np.zeros((len(CLASSES), 2))
    for sample, prediction in _pairs():
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


def _drawing() -> float:
    """CPU-seconds of drawing the images, which every evaluator has to wait for."""
    started = time.process_time()
    for _ in _pairs():
        pass
    return time.process_time() - started


def _pairs() -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        truths, found = [], []
        for _ in range(INSTANCES):
            centre, axes = rng.integers(0, SIDE, 2), rng.integers(10, 130, 2)
            label = CLASSES[int(rng.integers(len(CLASSES)))]
            angle, shift = float(rng.integers(180)), rng.integers(-9, 10, 2)
            truths.append(_ellipse(label, centre, axes, angle, 1.0))
            found.append(_ellipse(label, centre + shift, axes, angle, float(rng.random())))
        yield (
            Sample(str(number), "", (SIDE, SIDE), tuple(i for i in truths if i.mask and i.mask.area)),
            Prediction(str(number), tuple(i for i in found if i.mask and i.mask.area)),
        )


def _ellipse(label: str, centre: Any, axes: Any, angle: float, score: float) -> Instance:
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(canvas, (int(centre[0]), int(centre[1])), (int(axes[0]), int(axes[1])), angle, 0, 360, 1, -1)
    rle = masks.encode(canvas)
    return Instance(label, rle, rle.box_xyxy, score)


if __name__ == "__main__":
    main()
