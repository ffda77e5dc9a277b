"""Mask2Former (Cheng et al. 2022): masked attention, one query an object; semantic and instance masks alike."""

from typing import Literal, Self

from pydantic import Field, model_validator

from segdist.core.plugins import EVERY_NOISE, Family, ImageSize, ModelOptions, Queries
from segdist.nets import backbones
from segdist.nets.packaged import PACKAGED
from segdist.nets.weights import RANDOM, Published

__all__ = ["FAMILY", "NAME", "PUBLISHED", "RANDOM", "SWIN", "Options", "check"]

NAME = "mask2former"
SWIN = "swin"
"""`backbone` that published weights have."""
PUBLISHED = Published(NAME, "mask2former", "facebook/mask2former-swin-tiny-coco-instance", parts=("swin",))


class Options(ModelOptions):
    """Which network."""

    backbone: str = Field(default=SWIN, pattern=r"^\w[\w.]*$")
    """swin: that of the published weights. Otherwise a model of timm that gives features at several scales, e.g.
    efficientnet_lite0: then `weights` are the backbone's, and what follows it starts untrained."""
    weights: str
    """A local folder or URI with config.json and safetensors, a name on the hub, or random: an untrained network. Of a
    backbone of timm: packaged (those of ImageNet that the extra `encoders` installs), resnet18_imagenet or
    resnet50_imagenet (`segdist weights get`), published (those that timm downloads), random, a .safetensors or .pth
    file here or at a URI, or a name on the hub."""
    size: Literal["debug", "swin_tiny"] = "debug"
    """Shape of a random network, or of what follows a backbone of timm; weights of a whole network bring their own."""
    image_size: ImageSize = Field(default=384, multiple_of=32)
    """Longest side in pixels that the network sees; its coarsest features are 32 times smaller."""
    num_queries: Queries | Literal["auto"] = "auto"
    """Most objects found in an image; auto takes what the weights were trained with. Other numbers start untrained."""

    @model_validator(mode="before")
    @classmethod
    def _with_its_backbone(cls, options: object) -> object:
        return backbones.completed(options)

    @model_validator(mode="after")
    def _features_have_a_variance(self) -> Self:
        if self.backbone != SWIN and self.image_size < 64:  # at 32 one value a channel is left for batch norm
            raise ValueError(f"`image_size` must be 64 or more with a backbone, but got {self.image_size}")
        return self


def check(options: Options) -> None:
    """Looks at the files that `weights` names, and for a backbone of timm.

    Raises:
        SpecError: timm is not installed, or has no such model.
        WeightsError: there is no such folder or file, or it holds no Mask2Former.
    """
    if options.backbone == SWIN:
        PUBLISHED.check(options.weights)
    else:
        backbones.check(options.backbone, options.weights, family=NAME, own=SWIN)


FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "image_size": 64},
    losses={"class": 2.0, "mask": 5.0, "dice": 5.0},  # the paper's weights
    encoder=("model.model.pixel_level_module.encoder.",),
    lora_targets=("q_proj", "v_proj"),  # of Swin, and of the decoder's self-attention
    lora_trains=(
        "model.class_predictor.",
        "model.model.transformer_module.decoder.mask_predictor.",
        "model.model.transformer_module.queries_",
    ),
    encoder_blocks=(
        "model.model.pixel_level_module.encoder.swin.encoder.layers.*.blocks.*",
        "model.model.pixel_level_module.encoder._backbone.blocks.*",
        "model.model.pixel_level_module.encoder._backbone.layer*",
        "model.model.pixel_level_module.encoder._backbone.stages_*",
    ),
    check=check,
    published=(PUBLISHED.declared(licence="CC BY-NC 4.0"), *backbones.CATALOGUE),
    noise=EVERY_NOISE,
    packs=True,
    tasks=("semantic", "instance"),
    sizes={
        "debug": "1.5 M parameters, random",
        "swin_tiny": "47 M parameters",
        "efficientnet_lite0": "as `backbone`, with `weights: packaged` pretrained on ImageNet; any model of timm",
    },
    places=lambda o: () if o.weights == RANDOM or (o.backbone != SWIN and o.weights == PACKAGED) else ("weights",),
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora"),
    onnx=lambda _: ("classes_BQC", "masks_BQhw"),
    hub_module="model",
    shape_in_weights=lambda o: o.backbone == SWIN,
    extra="hf",
    licence="code: Apache-2.0 (transformers) and MIT; Meta's published weights: CC BY-NC 4.0 by its model zoo",
)
