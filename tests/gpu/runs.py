"""Small runs of several families, and how alike two results are."""

from typing import Any

import numpy as np
import torch

from segdist.core.plugins import declaration
from segdist.core.spec import RunSpec
from tests.engine.drawn import roofs

TRAIN, VAL = roofs(8, size=64), roofs(4, seed=1, size=64)
STEPS = 4
"""Of an epoch."""
ADAPTERS = {"unet_cbam": "full", "segformer": "full", "mask2former": "full", "sam": "lora"}
"""The families that are tried, with what is trained of each."""


def run_of(family: str, *, options: dict[str, Any] | None = None, **train: Any) -> RunSpec:
    """A run of the family's smallest variant, whose images are read by processes beside it; keywords are `train`'s."""
    return RunSpec.model_validate(
        {
            "model": {"family": family, family: {**declaration(family).debug, **(options or {})}},
            "train": {
                "epochs": 2,
                "batch_size": len(TRAIN) // STEPS,
                "lr": 3e-3,
                "warmup": 0.0,
                "schedule": "constant",
                "augment": [],
                "adapter": {"kind": ADAPTERS[family]},
                **train,
            },
            "evaluate": {"pictures": 1},
            "resources": {"cpus_per_worker": 2, "gpus_per_worker": 1},
        }
    )


def outputs(network: Any) -> list[torch.Tensor]:
    """What a network computes of two held-out images, on the CPU."""
    from segdist.reading.examples import decode_image

    device = next(network.parameters()).device
    network.eval()
    with torch.inference_mode():
        pixels = network.pixels([decode_image(content) for _, content in VAL[:2]])
        return [value.float().cpu() for value in network.outputs(pixels.to(device))]


def apart(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The largest relative distance (Frobenius norm) of tensors from those they should be."""
    assert len(some) == len(others) > 0
    return max(float((a - b).norm() / b.norm()) for a, b in zip(some, others, strict=True))


def moved_apart(some: dict[str, Any], others: dict[str, Any], start: dict[str, Any]) -> float:
    """How far two trainings ended from each other, as a share of the way that the second went."""
    between = sum(float(((some[n].astype(np.float64) - others[n]) ** 2).sum()) for n in others)
    way = sum(float(((others[n].astype(np.float64) - start[n]) ** 2).sum()) for n in others)
    return float(np.sqrt(between / way))
