"""A backbone of timm as the encoder of a U-Net: features at several scales, pretrained or not.

Shapes: B images, C channels, H and W pixels.
"""

import importlib
import logging
from typing import Any

import torch
from torch import Tensor, nn

from segdist.core import extras
from segdist.core.errors import SpecError, WeightsError
from segdist.models.unet_cbam import PUBLISHED, Options, is_file
from segdist.nets import packaged, state_dicts
from segdist.nets.collate import ChannelValues
from segdist.nets.packaged import PACKAGED
from segdist.nets.weights import RANDOM


class Backbone(nn.Module):
    """Features of a timm model, the finest first.

    Attributes:
        channels: of each feature map.
        mean: of each colour, in 0..255, as the model was trained with.
        std: of each colour, in 0..255.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.body = _features(options)
        self.channels: list[int] = self.body.feature_info.channels()
        self.mean, self.std = _colours(self.body)
        self._freeze_unused(options.image_size)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Feature maps, (B, C, H / stride, W / stride) each."""
        found = zip(self.body(images_BCHW), self.channels, strict=True)
        # Transformers of timm put channels last.
        return [f if f.shape[1] == channels else f.permute(0, 3, 1, 2) for f, channels in found]

    def _freeze_unused(self, image_size: int) -> None:
        """Layers that only the classifier would read get no gradient; data-parallel training must know at once."""
        training, named = self.body.training, dict(self.body.named_parameters())
        total = torch.stack([f.sum() for f in self.body.eval()(torch.zeros(1, 3, image_size, image_size))]).sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        self.body.train(training)
        for parameter, gradient in zip(named.values(), gradients, strict=True):
            parameter.requires_grad = gradient is not None


def _features(options: Options) -> Any:
    """The timm model without its classifier.

    Raises:
        SpecError: timm has no such model, or it gives no features at several scales.
        WeightsError: its weights are missing or those of another model.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise SpecError(extras.needs("`model.unet_cbam.backbone`", "timm")) from error
    logging.getLogger("timm").setLevel(logging.ERROR)  # it lists the classifier's tensors, which features leave out
    settings: dict[str, Any] = {"features_only": True, "pretrained": options.weights != RANDOM}
    state = _state(options.weights, options.backbone)
    if state:
        settings["pretrained_cfg_overlay"] = {"state_dict": state}
    elif options.weights not in (PUBLISHED, RANDOM):
        settings["pretrained_cfg_overlay"] = {"hf_hub_id": options.weights}
    card = timm.models.get_pretrained_cfg(options.backbone, allow_unregistered=True)
    if card is not None and card.fixed_input_size:
        settings["img_size"] = options.image_size
    try:
        body = timm.create_model(options.backbone, **settings)
    except (OSError, KeyError, ValueError) as error:  # not found, offline, no such file on the hub
        raise WeightsError(
            f"The weights `{options.weights}` of {options.backbone} cannot be loaded: {error}. "
            "Set `model.unet_cbam.weights` to a file of timm's weights for it, or to random."
        ) from error
    except (RuntimeError, AttributeError, NotImplementedError) as error:  # of another model; no such model; no features
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{options.backbone} of timm with weights `{options.weights}` cannot be an encoder: {reason}"
        ) from error
    if state:
        _check_filled(body, state, options)
    return body


def _state(weights: str, backbone: str) -> state_dicts.State:
    """The tensors that are at hand; empty where timm gets them, or none are wanted."""
    if weights == PACKAGED:
        return packaged.state(backbone)
    return state_dicts.read(weights) if is_file(weights) else {}


def _check_filled(body: nn.Module, state: state_dicts.State, options: Options) -> None:
    """Timm leaves layers that a file does not hold as they were drawn, in silence.

    Raises:
        WeightsError: the file lacks a layer of the backbone.
    """
    held = {_plain(name) for name in state}
    lacking = [name for name, _ in body.named_parameters() if _plain(name) not in held]
    if lacking:
        raise WeightsError(
            f"{options.weights} must hold timm's weights of {options.backbone}, but {len(lacking)} tensors are missing "
            f"({', '.join(lacking[:3])}, ...)"
        )


def _plain(name: str) -> str:
    """A tensor's name in the classifier and in the features made of it, e.g. `stages.0.x` and `stages_0.x`."""
    return name.removeprefix("model.").replace("_", ".")


def _colours(body: object) -> tuple[ChannelValues, ChannelValues]:
    """Mean and deviation of the colours the weights were trained with, in 0..255."""
    data = importlib.import_module("timm.data")
    config = data.resolve_model_data_config(body)
    mean, std = (tuple(255 * float(v) for v in config[key]) for key in ("mean", "std"))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
