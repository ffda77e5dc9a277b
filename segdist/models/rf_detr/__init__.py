"""RF-DETR-Seg (Robinson et al. 2025): a real-time detector on a DINOv2 encoder that draws a mask for each box."""

from typing import Literal, Self

from pydantic import model_validator

from segdist.core.plugins import EVERY_NOISE, Family, ImageSize, ModelOptions, Queries
from segdist.nets.weights import RANDOM, Published

PUBLISHED = Published("rf_detr", "rf_detr", "Roboflow/rf-detr-seg-medium", parts=("rf_detr_",))
_IMAGE_SIZE = {"debug": 64, "nano": 312, "small": 384, "medium": 432}
STRIDE = {"debug": 16, "nano": 12, "small": 24, "medium": 24}
"""Pixels that the sides must be a multiple of: a patch times the windows of the encoder."""


class Options(ModelOptions):
    """Which network."""

    weights: str
    """A local folder or URI with config.json and safetensors, a name on the hub, or random: an untrained network."""
    size: Literal["debug", "nano", "small", "medium"] = "medium"
    """Shape of the network; decides the image size that it was trained with."""
    image_size: ImageSize = _IMAGE_SIZE["medium"]
    """Longest side in pixels that the network sees; left out: as the size was trained."""
    num_queries: Queries | Literal["auto"] = "auto"
    """Most objects found in an image; auto takes what the weights were trained with. Other numbers start untrained."""

    @model_validator(mode="before")
    @classmethod
    def _image_size_as_trained(cls, options: object) -> object:
        if isinstance(options, dict) and "image_size" not in options:
            return {**options, "image_size": _IMAGE_SIZE.get(options.get("size", "medium"), _IMAGE_SIZE["medium"])}
        return options

    @model_validator(mode="after")
    def _image_is_whole_windows(self) -> Self:
        if self.image_size % STRIDE[self.size]:
            raise ValueError(
                f"`image_size` must be a multiple of {STRIDE[self.size]} for {self.size}, but got {self.image_size}"
            )
        return self


def check(options: Options) -> None:
    """Looks at the files that `weights` names.

    Raises:
        WeightsError: there is no such folder, or it holds no RF-DETR.
    """
    PUBLISHED.check(options.weights)


FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "size": "debug"},
    losses={"class": 1.0, "box": 5.0, "giou": 2.0, "mask": 5.0, "dice": 5.0},  # those of the published training
    encoder=("model.model.model.backbone.backbone.",),
    lora_targets=("q_proj", "v_proj"),  # of DINOv2, and of the decoder's self-attention
    lora_trains=(
        "model.model.class_embed.",
        "model.model.bbox_embed.",
        "model.model.model.enc_out_class_embed.",
        "model.model.model.enc_out_bbox_embed.",
        "model.model.model.reference_point_embed.",
        "model.model.model.query_feat.",
        "model.blocks.",
        "model.spatial_features_proj.",
        "model.query_features_",
        "model.segmentation_bias",
    ),
    encoder_blocks=("model.model.model.backbone.backbone.encoder.layer.*",),
    check=check,
    published=(PUBLISHED.declared(licence="Apache-2.0"),),
    noise=EVERY_NOISE,
    tasks=("semantic", "instance"),
    sizes={
        "debug": "0.4 M parameters, random",
        "nano": "34 M parameters, 312 pixels",
        "small": "34 M parameters, 384 pixels",
        "medium": "36 M parameters, 432 pixels",
    },
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora"),
    hub_module="model",
    shape_in_weights=lambda _: True,
    extra="hf",
    licence="Apache-2.0 (code and published weights)",
)
