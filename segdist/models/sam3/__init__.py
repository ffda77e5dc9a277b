"""SAM 3 (Carion et al. 2025) on images: finds every object that a class name describes, through transformers.

Every image is asked for by class names, also for classes it does not show; a presence token learns to say no.
"""

from typing import Literal

from pydantic import Field

from segdist.core.plugins import EVERY_NOISE, Family, ImageSize, ModelOptions
from segdist.nets.weights import RANDOM, Published

__all__ = ["FAMILY", "PUBLISHED", "RANDOM", "Options", "check"]

PUBLISHED = Published("sam3", "sam3", "facebook/sam3", also=("sam3_video",), parts=("sam3_", "clip_"))
"""The published folder describes the video model, whose detector is this one."""
_PATCH = {"debug": 8, "published": 14}


class Options(ModelOptions):
    """Which network, and what it is asked in training."""

    weights: str
    """A local folder or URI with config.json, safetensors and the tokenizer, a name on the hub, or random: an untrained
    network that reads letters."""
    size: Literal["debug", "published"] = "debug"
    """Shape of a random network; weights bring their own."""
    image_size: ImageSize = 1008
    """Longest side in pixels that the network sees: a multiple of its patch, 14 for published weights."""
    names_per_image: int = Field(default=8, gt=0, le=1000)
    """Most class names that one training step asks an image for: those it shows first, then names of absent classes."""
    exemplars: bool = False
    """Keep the part that reads boxes, for the prompt strategy `exemplars`; it is not trained here."""
    names: dict[str, str] = {}
    """What a class is called when the network is asked for it, where its label is no good phrase: {door_2: sliding
    door}."""


def check(options: Options) -> None:
    """Looks at the files that `weights` names.

    Raises:
        WeightsError: there is no such folder, or it holds no SAM 3.
    """
    PUBLISHED.check(options.weights)


FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "image_size": 64},
    losses={
        "class": 5.0,
        "presence": 5.0,
        "box": 5.0,
        "giou": 2.0,
        "mask": 5.0,
        "dice": 5.0,
        "semantic": 1.0,
        "semantic_dice": 1.0,
    },
    encoder=("model.vision_encoder.", "model.text_encoder."),
    lora_targets=("q_proj", "v_proj"),  # of both encoders and of the detector's attention
    lora_trains=(
        "model.detr_decoder.box_head.",
        "model.detr_decoder.presence_head.",
        "model.detr_decoder.query_embed.",
        "model.detr_decoder.reference_points.",
        "model.dot_product_scoring.",
        "model.mask_decoder.",
    ),
    encoder_blocks=("model.vision_encoder.backbone.layers.*",),
    prompts=lambda o: frozenset({"none", "text", *(("exemplar",) if o.exemplars else ())}),
    check=check,
    published=(PUBLISHED.declared(licence="SAM License"),),
    noise=EVERY_NOISE,
    tasks=("semantic", "instance"),
    sizes={"debug": "0.3 M parameters, random", "published": "840 M parameters"},
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora"),
    hub_module="model",
    sometimes_unused=("model.geometry_encoder.",),
    shape_in_weights=lambda _: True,
    extra="hf",
    licence="code: Apache-2.0 (transformers); Meta's published weights: SAM License",
)
