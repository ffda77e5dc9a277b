"""Trained-looking models for tests of export and serving: random weights, a few classes, no training."""

from pathlib import Path

import torch

from segdist.core.plugins import declaration
from segdist.core.spec import AdapterSpec, EvaluateSpec, ModelSpec, RunSpec, TrainSpec
from segdist.engine import checkpoint

CLASSES = ("roof", "tree")


def model_folder(
    folder: Path,
    family: str,
    *,
    adapter: str = "full",
    min_score: float = 0.0,
    seed_of_move: int = 1,
    **options: object,
) -> Path:
    """The folder of a debug-sized model whose every parameter has moved since it was built."""
    declared = declaration(family)
    model = ModelSpec.model_validate({"family": family, family: {**declared.debug, **options}})
    train = TrainSpec(adapter=AdapterSpec.model_validate({"kind": adapter}))
    run = RunSpec(model=model, train=train, evaluate=EvaluateSpec(min_score=min_score))
    network = checkpoint.build(model, CLASSES, adapter=train.adapter)
    torch.manual_seed(seed_of_move)
    with torch.no_grad():
        for parameter in network.parameters():
            if (
                parameter.requires_grad
            ):  # LoRA's second factor begins with zeros: without a move there is nothing to merge
                parameter.add_(0.02 * torch.randn_like(parameter))
    checkpoint.save(network, folder, run, CLASSES)
    return folder
