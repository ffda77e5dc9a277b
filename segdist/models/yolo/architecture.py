"""The network of ultralytics: from a .pt file, of a published shape with random weights, or small."""

import math
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from segdist import storage
from segdist.errors import WeightsError
from segdist.models.yolo import HOW_TO_GET, Options, check
from segdist.models.yolo.quietly import Segment, SegmentationModel, torch_safe_load, yaml_model_load
from segdist.weights import RANDOM

_QUICK = 0.1
"""Momentum of the batch norms of a random network: with Ultralytics' 0.03, made for weeks of training, their running
statistics lag hundreds of steps behind."""
_PRIOR = 0.01
"""Score that an untrained class branch gives everywhere (Lin et al. 2017). Ultralytics begins a hundred times lower and
lets the biases rush at a hundred times the learning rate at first; here they learn at the rate of all others."""


def load(options: Options, *, num_classes: int) -> Any:
    """The network of ultralytics for this many classes; layers that depend on the classes start untrained.

    Raises:
        SpecError: ultralytics is not installed.
        WeightsError: the weights are not there, cannot be read, or are not those of a YOLOv8 or YOLO11 with masks.
    """
    check(options)
    if options.weights != RANDOM:
        return _pretrained(options.weights, num_classes=num_classes)
    shape = _debug() if options.size == "debug" else yaml_model_load(f"yolo{options.size}-seg.yaml")
    network = SegmentationModel(shape, nc=num_classes, verbose=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = _QUICK
    _begin_classes(network)
    return network


def _pretrained(weights: str, *, num_classes: int) -> Any:
    held = _held(weights)
    network = SegmentationModel(held.yaml, nc=num_classes, verbose=False)
    head = f"model.{len(network.model) - 1}."
    given, wanted = held.float().state_dict(), network.state_dict()
    fits = {name: value for name, value in given.items() if name in wanted and wanted[name].shape == value.shape}
    # The width of the class branch depends on the number of classes, and so does what it means.
    lacking = sorted(name for name in set(wanted) - set(fits) if not name.startswith(f"{head}cv3."))
    if lacking:
        raise WeightsError(
            f"{weights} must fit its own description, but {len(lacking)} tensors are missing or of another shape "
            f"({', '.join(lacking[:3])}, ...). {HOW_TO_GET}"
        )
    network.load_state_dict(fits, strict=False)
    if any(name not in fits for name in wanted):
        _begin_classes(network)
    return network


def _begin_classes(network: Any) -> None:
    for level in network.model[-1].cv3:
        nn.init.constant_(level[-1].bias, math.log(_PRIOR / (1 - _PRIOR)))


def _held(weights: str) -> Any:
    """The network inside a .pt file: a pickle, of which only known classes of torch and ultralytics are made.

    Raises:
        WeightsError: it is damaged, holds other classes, or another kind of network.
    """
    with TemporaryDirectory(prefix="segdist-") as folder:
        file = Path(storage.absolute(weights).removeprefix("file://"))
        if not storage.is_local(weights):
            file = Path(folder) / "weights.pt"
            storage.download(weights, file)
        try:
            content, _ = torch_safe_load(file, safe_only=True)
        except (TypeError, ImportError, AttributeError, RuntimeError, pickle.UnpicklingError, OSError) as error:
            raise WeightsError(
                f"{weights} must be a .pt file of Ultralytics that holds nothing but a network, but cannot be read: "
                f"{str(error).splitlines()[0]}. {HOW_TO_GET}"
            ) from error
    held = content.get("ema") or content.get("model")
    kind = type(held.model[-1]) if isinstance(held, SegmentationModel) else type(held)
    if kind is not Segment:
        raise WeightsError(
            f"{weights} must hold a YOLOv8 or YOLO11 with masks (*-seg.pt), but its last layer is {kind.__name__}. "
            f"{HOW_TO_GET}"
        )
    return held


def _debug() -> dict[str, Any]:
    """0.2 M parameters in Ultralytics' notation [from, repeats, module, arguments]; features at strides 4 and 8."""
    return {
        "nc": 1,
        "scale": "n",
        "backbone": [
            [-1, 1, "Conv", [16, 3, 2]],
            [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "C3k2", [32, False, 0.5]],
            [-1, 1, "Conv", [64, 3, 2]],
            [-1, 1, "C3k2", [64, False, 0.5]],
            [-1, 1, "SPPF", [64, 5]],
        ],
        "head": [
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, 2], 1, "Concat", [1]],
            [-1, 1, "C3k2", [32, False, 0.5]],
            [[8, 5], 1, "Segment", ["nc", 16, 32]],
        ],
    }
