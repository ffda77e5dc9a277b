"""What trials of a small network on drawn scenes score, epoch after epoch: trained in this process, without Ray."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import torch

from segdist.core.records import LabelledImage, LabelledImages, Prediction, Sample
from segdist.core.spec import EvaluateSpec, RunSpec
from segdist.engine import fit as fitting
from segdist.engine.predict import score as scored
from segdist.engine.workers import Workers
from segdist.formats.synthetic import Format, Options
from segdist.metrics import evaluator_of
from segdist.nets.segmenter import Segmenter

EPOCHS = 12
SIZE = 64
TRAIN, VAL = 24, 16
"""Images."""
DRAWN = 5
"""Seed of the scenes."""
OWN: dict[str, Any] = {
    "model": {"family": "unet_cbam", "unet_cbam": {"image_size": SIZE, "width": 8, "depth": 3}},
    "train": {"epochs": EPOCHS, "lr": 1e-3, "checkpoint_every": EPOCHS},
    "evaluate": {"pictures": VAL},
}
"""What every trial is, but for its searched values."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of a trial.

    Attributes:
        iou: `val/iou`.
        seconds: of the CPU, so that it does not depend on what else the machine does.
        image_ious: IoU of each validation image; NaN where it shows nothing and nothing was found; none
            where training diverged.
    """

    iou: float
    seconds: float
    image_ious: tuple[float, ...]


def curve(scene: str, values: Mapping[str, Any], seed: int) -> list[Epoch]:
    """Train the small network with some searched values on scenes of a kind, and score it after each epoch."""
    torch.set_num_threads(1)
    run = RunSpec.model_validate({**OWN, "seed": seed}).override(values)
    rows, classes = _drawn(scene)
    epochs: list[Epoch] = []
    found: list[float] = []
    since = time.process_time()

    def score(
        network: Segmenter, rows: LabelledImages, evaluate: EvaluateSpec, *, workers: Workers
    ) -> tuple[dict[str, float], list[Prediction]]:
        values, predictions = scored(network, rows, evaluate, workers=workers)
        found[:] = _image_ious([sample for sample, _ in rows], predictions, classes, evaluate)
        return values, []

    def report(metrics: fitting.Metrics, _: object) -> None:
        nonlocal since
        now = time.process_time()
        epochs.append(Epoch(metrics["val/iou"], now - since, tuple(found)))
        found.clear()
        since = now

    with patch.object(fitting, "score", score):
        fitting.fit(run, classes, train=rows[:TRAIN], val=rows[TRAIN:], report=report)
    return epochs


@cache
def _drawn(scene: str) -> tuple[list[LabelledImage], tuple[str, ...]]:
    drawn = Format(Options(scene=scene, count=TRAIN + VAL, size=SIZE, seed=DRAWN))
    samples = list(drawn.read(lambda _: None))
    labels = {instance.label for sample in samples for instance in sample.instances}
    return [(sample, drawn.image_bytes(sample)) for sample in samples], tuple(sorted(labels))


def _image_ious(
    samples: Sequence[Sample], predictions: Sequence[Prediction], classes: Sequence[str], evaluate: EvaluateSpec
) -> list[float]:
    """Of each image, the mean over the classes that are there or were found."""
    evaluator = evaluator_of(classes, evaluate, ("iou",))
    for sample, prediction in zip(samples, predictions, strict=True):
        evaluator.add(sample, prediction)
    metric = evaluator.metric("iou")
    return [float(value) for value in metric.overall(evaluator.table(metric))]
