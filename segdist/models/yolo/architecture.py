"""The network of ultralytics: from a .pt file, of a published shape with random weights, or small."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import yaml
from torch import Tensor, nn

from segdist.core.errors import WeightsError
from segdist.models.yolo import HOW_TO_GET, Options, YoloSize, check
from segdist.models.yolo.quietly import TABLES, SegmentationModel
from segdist.nets import state_dicts
from segdist.nets.state_dicts import StandIn, State
from segdist.nets.weights import RANDOM

_QUICK = 0.1
"""Momentum of the batch norms of a random network: with Ultralytics' 0.03, made for weeks of training, their running
statistics lag hundreds of steps behind."""
_PRIOR = 0.01
"""Score that an untrained class branch gives everywhere (Lin et al. 2017). Ultralytics begins a hundred times lower and
lets the biases rush at a hundred times the learning rate at first; here they learn at the rate of all others."""
_DATA = ("ultralytics.", "torch.nn.modules.", "numpy.", "pathlib.")
"""What a file of Ultralytics is made of: layers, the settings of its training, and its results."""
_ACTIVATION = "SiLU"
"""Of all published networks. It has no weights, so a file's word is all there is of it."""
_MOST_LAYERS = 10_000
"""Of a file, those in layers counted along; the largest published network has 800."""


def load(options: Options, *, num_classes: int) -> tuple[SegmentationModel, YoloSize]:
    """The network of ultralytics for this many classes, and its shape; what depends on the classes starts untrained.

    Raises:
        SpecError: ultralytics is not installed.
        WeightsError: the weights are not there, cannot be read, are not those of a YOLOv8 or YOLO11 with masks, or of
            another shape than `size` says.
    """
    check(options)
    if options.weights != RANDOM:
        return _pretrained(options, num_classes=num_classes)
    network = SegmentationModel(_table(options.size), nc=num_classes, verbose=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = _QUICK
    _set_class_prior(network)
    return network, options.size


def _pretrained(options: Options, *, num_classes: int) -> tuple[SegmentationModel, YoloSize]:
    layers, given = _held(options.weights)
    for size in _candidates(layers, given):
        network = SegmentationModel(_table(size), nc=num_classes, verbose=False)
        wanted = network.state_dict()
        fits = {k: v.float() for k, v in given.items() if k in wanted and state_dicts.fits(v, wanted[k])}
        # The width of the class branch depends on the number of classes, and so does what it means.
        if all(name.startswith(f"model.{layers - 1}.cv3.") for name in wanted.keys() - fits.keys()):
            break
    else:
        raise WeightsError(
            f"{options.weights} must have the tensors of a published YOLOv8 or YOLO11 with masks, but has those of "
            f"another network. {HOW_TO_GET}"
        )
    if "size" in options.model_fields_set and size != options.size:
        raise WeightsError(
            f"{options.weights} is of `size: {size}`, but `model.yolo.size` says {options.size}. Leave it out."
        )
    network.load_state_dict(fits, strict=False)
    if len(fits) < len(wanted):
        _set_class_prior(network)
    return network, size


def _set_class_prior(network: SegmentationModel) -> None:
    for level in network.model[-1].cv3:
        nn.init.constant_(level[-1].bias, math.log(_PRIOR / (1 - _PRIOR)))


def _held(weights: str) -> tuple[int, State]:
    """How many layers the network inside a .pt file has, and its tensors; what the file calls is not called.

    Raises:
        WeightsError: it is damaged, holds other classes, or another kind of network.
    """
    try:
        with state_dicts.local_copy(weights) as file:
            content = state_dicts.unpickled(file, _DATA)
    except WeightsError as error:
        raise WeightsError(
            f"{weights} must be a .pt file of Ultralytics that holds nothing but a network: {error}. {HOW_TO_GET}"
        ) from error
    held = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    modules = dict(_modules(held)) if isinstance(held, StandIn) else {}
    layers = len(_part(modules["model"], "_modules")) if "model" in modules else 0
    last = modules.get(f"model.{layers - 1}", held)
    if not isinstance(last, StandIn) or last.class_name != "ultralytics.nn.modules.head.Segment":
        kind = last.class_name if isinstance(last, StandIn) else type(last).__name__
        raise WeightsError(
            f"{weights} must hold a YOLOv8 or YOLO11 with masks (*-seg.pt), but its last layer is {kind}. {HOW_TO_GET}"
        )
    activations = {m.class_name.rpartition(".")[2] for m in modules.values() if ".activation." in m.class_name}
    if activations - {_ACTIVATION}:
        raise WeightsError(
            f"{weights} must be built like the published networks, with {_ACTIVATION}, but has "
            f"{', '.join(sorted(activations))}. {HOW_TO_GET}"
        )
    state = {
        f"{prefix}.{name}".removeprefix("."): value
        for prefix, module in modules.items()
        for kind in ("_parameters", "_buffers")
        for name, value in _part(module, kind).items()
        if isinstance(value, Tensor)
    }
    state_dicts.check(state, weights)
    return layers, state


def _modules(root: StandIn) -> Iterator[tuple[str, StandIn]]:
    """A stand-in for a module and those inside it, by their names.

    Raises:
        WeightsError: there are more than any network has.
    """
    waiting = [("", root)]
    for _ in range(_MOST_LAYERS):
        if not waiting:
            return
        name, module = waiting.pop()
        yield name, module
        inside = _part(module, "_modules").items()
        waiting += [(f"{name}.{key}".removeprefix("."), m) for key, m in inside if isinstance(m, StandIn)]
    raise WeightsError(f"A network of Ultralytics has at most {_MOST_LAYERS:,} layers, but the file has more")


def _part(module: StandIn, kind: str) -> dict[str, Any]:
    found = module.held.get(kind)
    return found if isinstance(found, dict) else {}


def _candidates(layers: int, given: State) -> Iterator[YoloSize]:
    """The shapes with as many layers and as wide a beginning."""
    first = given.get("model.0.conv.weight")
    for size in get_args(YoloSize):
        table = _table(size)
        width = table["scales"][table["scale"]][1] if "scales" in table else 1
        known = len(table["backbone"]) + len(table["head"]), int(width * table["backbone"][0][3][0])
        if first is not None and known == (layers, len(first)):
            yield size


def _table(size: YoloSize) -> dict[str, Any]:
    """The description of a network in Ultralytics' notation [from, repeats, module, arguments]."""
    if size == "debug":
        return _debug()
    generation, scale = size[:-1], size[-1]
    text = (TABLES / generation / f"yolo{generation}-seg.yaml").read_text("utf-8")
    return {**yaml.safe_load(text), "scale": scale}


def _debug() -> dict[str, Any]:
    """0.2 M parameters; features at strides 4 and 8."""
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
