"""A model of timm without its classifier: features at several scales, pretrained or not."""

import importlib
import logging
from typing import Any

import torch
from torch import nn

from segdist.core import extras
from segdist.core.errors import SpecError, WeightsError
from segdist.core.published import named
from segdist.nets import packaged, state_dicts
from segdist.nets.backbones import CATALOGUE, PUBLISHED, is_file
from segdist.nets.collate import ChannelValues
from segdist.nets.packaged import PACKAGED
from segdist.nets.weights import RANDOM


def features(backbone: str, weights: str, *, image_size: int, family: str) -> Any:
    """The timm model; called with (B, 3, H, W), it gives a feature map for each scale, the finest first.

    Args:
        backbone: its name in timm.
        weights: as `backbones.check` knows them.
        image_size: side in pixels, for those that take no other.
        family: whose options these are, for messages.

    Raises:
        SpecError: timm has no such model, or it gives no features at several scales.
        WeightsError: its weights are missing or those of another model.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise SpecError(extras.needs(f"`model.{family}.backbone`", "timm")) from error
    logging.getLogger("timm").setLevel(logging.ERROR)  # it lists the classifier's tensors, which features leave out
    settings: dict[str, Any] = {"features_only": True, "pretrained": weights != RANDOM}
    state = _state(weights, backbone)
    if state:
        settings["pretrained_cfg_overlay"] = {"state_dict": state}
    elif weights not in (PUBLISHED, RANDOM):
        settings["pretrained_cfg_overlay"] = {"hf_hub_id": weights}
    card = timm.models.get_pretrained_cfg(backbone, allow_unregistered=True)
    if card is not None and card.fixed_input_size:
        settings["img_size"] = image_size
    try:
        body = timm.create_model(backbone, **settings)
    except (OSError, KeyError, ValueError) as error:  # not found, offline, no such file on the hub
        raise WeightsError(
            f"The weights `{weights}` of {backbone} cannot be loaded: {error}. "
            f"Set `model.{family}.weights` to a file of timm's weights for it, or to random."
        ) from error
    except (RuntimeError, AttributeError, NotImplementedError) as error:  # of another model; no such model; no features
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{backbone} of timm with weights `{weights}` cannot be an encoder: {reason}") from error
    if state:
        _check_filled(body, state, backbone, weights)
    return body


def colours(body: object) -> tuple[ChannelValues, ChannelValues]:
    """Mean and deviation of the colours the weights were trained with, in 0..255."""
    data = importlib.import_module("timm.data")
    config = data.resolve_model_data_config(body)
    mean, std = (tuple(255 * float(v) for v in config[key]) for key in ("mean", "std"))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def freeze_unused(body: nn.Module, image_size: int) -> None:
    """Layers that only the classifier would read get no gradient; data-parallel training must know at once."""
    training, named = body.training, dict(body.named_parameters())
    total = torch.stack([f.sum() for f in body.eval()(torch.zeros(1, 3, image_size, image_size))]).sum()
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    body.train(training)
    for parameter, gradient in zip(named.values(), gradients, strict=True):
        parameter.requires_grad = gradient is not None


def layout(body: nn.Module) -> torch.memory_format:
    """Of the tensors of a network that begins with it: channels last, which takes a fifth less time on a CPU.

    Not where a 1 x 1 convolution strides, as in a ResNet: with that torch 2.13 frees memory twice on a CPU.
    """
    convolutions = [m for m in body.modules() if isinstance(m, nn.Conv2d)]
    strides = any(m.kernel_size == (1, 1) and m.stride != (1, 1) for m in convolutions)
    return torch.contiguous_format if strides else torch.channels_last


def _state(weights: str, backbone: str) -> state_dicts.State:
    """The tensors that are at hand; empty where timm gets them, or none are wanted."""
    if weights == PACKAGED:
        return packaged.state(backbone)
    if published := named(CATALOGUE, weights):
        return state_dicts.read(str(published.source()))
    return state_dicts.read(weights) if is_file(weights) else {}


def _check_filled(body: nn.Module, state: state_dicts.State, backbone: str, weights: str) -> None:
    """Timm leaves layers that a file does not hold as they were drawn, in silence.

    Raises:
        WeightsError: the file lacks a layer of the backbone.
    """
    held = {_plain(name) for name in state}
    lacking = [name for name, _ in body.named_parameters() if _plain(name) not in held]
    if lacking:
        raise WeightsError(
            f"{weights} must hold timm's weights of {backbone}, but {len(lacking)} tensors are missing "
            f"({', '.join(lacking[:3])}, ...)"
        )


def _plain(name: str) -> str:
    """A tensor's name in the classifier and in the features made of it, e.g. `stages.0.x` and `stages_0.x`."""
    return name.removeprefix("model.").replace("_", ".")
