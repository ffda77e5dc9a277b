"""A few drawn roofs and the smallest run that learns from them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segdist.core.records import Sample
from segdist.core.spec import RunSpec
from segdist.engine.fit import Metrics, ReportEpoch
from segdist.formats.synthetic import Format, Options
from segdist.models.unet_cbam import network as unet

CLASSES = ("roof",)
Rows = list[tuple[Sample, bytes]]


def roofs(count: int, *, seed: int = 0, size: int = 32) -> Rows:
    """Drawn roofs with their masks, as PNG."""
    drawings = Format(Options(scene="roofs", count=count, size=size, seed=seed))
    return [(sample, drawings.image_bytes(sample)) for sample in drawings.read(lambda _: None)]


def tiny_run(**train: Any) -> RunSpec:
    """A run of the smallest U-Net; keywords are keys of `train`."""
    return RunSpec.model_validate(
        {
            "model": {"family": "unet_cbam", "unet_cbam": {"image_size": 32, "width": 8, "depth": 2}},
            "train": {"epochs": 1, "batch_size": 4, "lr": 3e-3, "precision": "float32", **train},
            "evaluate": {"pictures": 1},
        }
    )


class WithBatchNorm(unet.UnetCbam):
    """Our smallest network has group norms, which keep no statistics."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.norm = nn.BatchNorm2d(3)

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return super().logits(self.norm(images_BCHW))


class Reports:
    """Keeps what a fit reports; `keep` copies the checkpoint of each epoch into `<folder>/<epoch>`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.metrics: list[Metrics] = []
        self.saved: list[bool] = []
        self._folder = folder

    def __call__(self, metrics: Metrics, checkpoint: Path | None) -> None:
        self.metrics.append(metrics)
        self.saved.append(checkpoint is not None)
        if checkpoint and self._folder:
            checkpoint.rename(self._folder / f"{metrics['epoch']:.0f}")
            checkpoint.mkdir()  # the fit takes its own folder away


def weights(network: Any) -> dict[str, np.ndarray]:
    """Every value of a model, by name."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


nothing: ReportEpoch = Reports()
