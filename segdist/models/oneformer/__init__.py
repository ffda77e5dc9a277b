"""OneFormer (Jain et al. 2023): one network for semantic, instance and panoptic masks, given the task as a token."""

from typing import Literal

from pydantic import Field

from segdist.core.plugins import EVERY_NOISE, Family, ImageSize, ModelOptions, Queries
from segdist.nets.weights import RANDOM, Published

PUBLISHED = Published("oneformer", "oneformer", "shi-labs/oneformer_ade20k_swin_tiny", parts=("swin",))
TaskName = Literal["semantic", "instance", "panoptic"]


class Options(ModelOptions):
    """Which network, and what it is asked."""

    weights: str
    """A local folder or URI with config.json and safetensors, a name on the hub, or random: an untrained network."""
    size: Literal["debug", "swin_tiny"] = "debug"
    """Shape of a random network; weights bring their own."""
    image_size: ImageSize = Field(default=384, multiple_of=32)
    """Longest side in pixels that the network sees; its coarsest features are 32 times smaller."""
    num_queries: Queries | Literal["auto"] = "auto"
    """Most objects found in an image; auto takes what the weights were trained with. Other numbers start untrained."""
    task: TaskName = "instance"
    """semantic: one region a class. instance: separate objects, which may overlap. panoptic: the same without
    overlaps, and one region for each class of `stuff`."""
    train_tasks: Literal["same", "all"] = "same"
    """same: trained for `task` alone. all: each image with a task drawn at random, as published; then the same weights
    serve all three, and `task` says what is asked of them when they are scored."""
    stuff: tuple[str, ...] = ()
    """Classes without single objects (wall, sky), one region an image in the panoptic task."""


def check(options: Options) -> None:
    """Looks at the files that `weights` names.

    Raises:
        WeightsError: there is no such folder, or it holds no OneFormer.
    """
    PUBLISHED.check(options.weights)


FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "image_size": 64},
    losses={"class": 2.0, "mask": 5.0, "dice": 5.0, "contrastive": 0.5},  # the paper's weights
    encoder=("model.model.pixel_level_module.encoder.",),
    lora_targets=("q_proj", "v_proj"),  # of Swin, and of the decoder's self-attention
    lora_trains=(
        "model.model.transformer_module.decoder.class_embed.",
        "model.model.transformer_module.decoder.mask_embed.",
        "model.model.transformer_module.queries_embedder.",
        "model.model.task_encoder.",
        "model.model.text_mapper.",
        "logit_scale",
    ),
    encoder_blocks=("model.model.pixel_level_module.encoder.swin.encoder.layers.*.blocks.*",),
    check=check,
    published=(PUBLISHED.declared(licence="MIT"),),
    noise=EVERY_NOISE,
    tasks=("semantic", "instance"),
    sizes={"debug": "1.7 M parameters, random", "swin_tiny": "67 M parameters with the text encoder of training"},
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora"),
    packs=True,
    onnx=lambda _: ("classes_BQC", "masks_BQhw"),
    hub_module="model",
    shape_in_weights=lambda _: True,
    extra="hf",
    licence="code: Apache-2.0 (transformers); published weights: MIT",
)
