"""MobileSAM's image encoder (Zhang et al. 2023): TinyViT-5M (Wu et al. 2022) at SAM's stride, and its published names.

Every batch norm is folded into the convolution before it, as at deployment: a trainer that sees one or two images of
1024 pixels at a time must not estimate their statistics anew, and the published ONNX graph has them folded already.
"""

import re
from functools import partial

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from segdist.core import extras
from segdist.core.errors import SpecError
from segdist.nets.fused import fuse
from segdist.nets.state_dicts import State

CHANNELS = 256
"""Of the embedding."""
_FOLLOWED_BY = {"conv1": "act1", "conv2": "act2", "fc1": "act"}
"""Layers of timm's modules and the activation after each."""
_BATCH_NORM_EPS = 1e-5
_STAGE = re.compile(r"layers\.(\d)\.(downsample\.)?")
_CLASSIFIER = ("image_encoder.norm_head.", "image_encoder.head.")
"""What the encoder was distilled with, and segmenting has no use for."""


class TinyViT(nn.Module):
    """An image to its embedding, (B, 3, S, S) to (B, 256, S / 16, S / 16).

    Attributes:
        img_size: S in pixels, a multiple of 16.
    """

    def __init__(self, image_size: int = 1024) -> None:
        super().__init__()
        try:
            import timm
            from timm.utils.model import reparameterize_model
        except ModuleNotFoundError as error:
            raise SpecError(extras.needs("`model.sam.size: vit_t`", "timm"), option="size") from error
        self.img_size = image_size
        body = timm.create_model("tiny_vit_5m_224", num_classes=0, drop_path_rate=0.0)
        last_halving = body.get_submodule("stages.3.downsample.conv2.conv")
        assert isinstance(last_halving, nn.Conv2d)
        last_halving.stride = (1, 1)  # a classifier's 32 is too coarse for masks
        reparameterize_model(body, inplace=True)
        for module in body.modules():
            if hasattr(module, "get_attention_biases"):
                setattr(module, "get_attention_biases", partial(_of_every_window, module))  # noqa: B010 - a method
        fuse(body, _FOLLOWED_BY)
        self.patch_embed, self.stages = body.get_submodule("patch_embed"), body.get_submodule("stages")
        self.neck = nn.Sequential(
            nn.Conv2d(last_halving.out_channels, CHANNELS, 1, bias=False),
            LayerNorm2d(CHANNELS),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(CHANNELS),
        )
        fuse(self.neck)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """The embedding."""
        embedding_BCHW: Tensor = self.neck(self.stages(self.patch_embed(image_BCHW)))
        return embedding_BCHW


def _of_every_window(attention: nn.Module, device: torch.device) -> Tensor:
    """The biases (1, heads, N, N) of an attention; without the first dimension torch has no quick kernel for them."""
    biases_HNN: Tensor = type(attention).get_attention_biases(attention, device)  # type: ignore[attr-defined]
    return biases_HNN[None]


def from_published(state: State) -> State:
    """The tensors of `mobile_sam.pt` under the names here, each batch norm folded; others stay as they are."""
    renamed = {_renamed(name): value for name, value in state.items() if not name.startswith(_CLASSIFIER)}
    folded: State = {}
    for name, value in renamed.items():
        stem = name.removesuffix(".c.weight")
        norm = {key: renamed.get(f"{stem}.bn.{key}") for key in ("weight", "bias", "running_mean", "running_var")}
        if stem != name and all(part is not None for part in norm.values()):
            folded[f"{stem}.weight"], folded[f"{stem}.bias"] = _fold(value, **norm)  # type: ignore[arg-type]
        elif ".bn." not in name:
            folded[name] = value
    return folded


def _renamed(name: str) -> str:
    """The name in timm, where a stage begins by halving its input; as published, it ends so."""
    stem = "image_encoder."
    if not name.startswith(stem):
        return name
    name = name.removeprefix(stem).replace("patch_embed.seq.0.", "patch_embed.conv1.")
    name = name.replace("patch_embed.seq.2.", "patch_embed.conv2.")
    if found := _STAGE.match(name):
        name = f"stages.{int(found[1]) + bool(found[2])}.{found[2] or ''}{name[found.end() :]}"
    return stem + name


def _fold(
    kernel_OIHW: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor
) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution that does what it and the batch norm after it did."""
    scale = weight / torch.sqrt(running_var + _BATCH_NORM_EPS)
    return kernel_OIHW * scale[:, None, None, None], bias - running_mean * scale
