"""Mask2Former (Cheng et al. 2022): masked attention, one query an object; semantic and instance masks alike."""

from typing import Literal

from pydantic import Field

from segdist.core.plugins import EVERY_NOISE, Family, ImageSize, ModelOptions, Queries
from segdist.nets.weights import RANDOM, Published

__all__ = ["FAMILY", "PUBLISHED", "RANDOM", "Options", "check"]

PUBLISHED = Published("mask2former", "mask2former", "facebook/mask2former-swin-tiny-coco-instance", parts=("swin",))


class Options(ModelOptions):
    """Which network."""

    weights: str
    """A local folder or URI with config.json and safetensors, a name on the hub, or random: an untrained network."""
    size: Literal["debug", "swin_tiny"] = "debug"
    """Shape of a random network; weights bring their own."""
    image_size: ImageSize = Field(default=384, multiple_of=32)
    """Longest side in pixels that the network sees; its coarsest features are 32 times smaller."""
    num_queries: Queries | Literal["auto"] = "auto"
    """Most objects found in an image; auto takes what the weights were trained with. Other numbers start untrained."""


def check(options: Options) -> None:
    """Looks at the files that `weights` names.

    Raises:
        WeightsError: there is no such folder, or it holds no Mask2Former.
    """
    PUBLISHED.check(options.weights)


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
    encoder_blocks=("model.model.pixel_level_module.encoder.swin.encoder.layers.*.blocks.*",),
    check=check,
    published=(PUBLISHED.declared(licence="CC BY-NC 4.0"),),
    noise=EVERY_NOISE,
    tasks=("semantic", "instance"),
    sizes={"debug": "1.5 M parameters, random", "swin_tiny": "47 M parameters"},
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora"),
    onnx=lambda _: ("classes_BQC", "masks_BQhw"),
    hub_module="model",
    shape_in_weights=True,
    extra="hf",
    licence="code: Apache-2.0 (transformers) and MIT; Meta's published weights: CC BY-NC 4.0 by its model zoo",
)
