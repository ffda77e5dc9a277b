"""SAM 2 (Ravi et al. 2024) on images: a hierarchical encoder whose fine features reach the mask, through transformers.

It is shown what `sam` is shown, and learns in the same modes; its memory, which is for videos, is not used.
"""

from typing import Literal

from pydantic import Field

from segdist.core.plugins import EVERY_NOISE, Family, ImageSize
from segdist.nets.promptable.options import LOSSES, PromptableOptions, onnx, prompts
from segdist.nets.weights import RANDOM, Published

__all__ = ["FAMILY", "PUBLISHED", "RANDOM", "Options", "check"]

PUBLISHED = Published("sam2", "sam2", "facebook/sam2.1-hiera-tiny", also=("sam2_video",), parts=("sam2_",))
"""The published folders describe the video model, whose image part is this one."""


class Options(PromptableOptions):
    """Which network, and what it is shown."""

    weights: str
    """A local folder or URI with config.json and safetensors, a name on the hub, or random: an untrained network."""
    size: Literal["debug", "hiera_tiny"] = "debug"
    """Shape of a random network; weights bring their own."""
    image_size: ImageSize = Field(default=1024, multiple_of=32)
    """Longest side in pixels that the network sees; its coarsest features are 32 times smaller."""


def check(options: Options) -> None:
    """Looks at the files that `weights` names.

    Raises:
        WeightsError: there is no such folder, or it holds no SAM 2.
    """
    PUBLISHED.check(options.weights)


FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "prompt": "class", "image_size": 96, "grid_side": 8},
    losses=LOSSES,
    encoder=("model.vision_encoder.",),
    lora_targets=("qkv",),  # of Hiera's attention
    lora_trains=(
        "model.mask_decoder.",
        "model.prompt_encoder.",
        "model.no_memory_embedding",
        "class_tokens",
        "class_head.",
    ),
    encoder_blocks=("model.vision_encoder.backbone.blocks.*",),
    prompts=prompts,
    onnx=onnx,
    check=check,
    published=(PUBLISHED.declared(licence="Apache-2.0"),),
    noise=EVERY_NOISE,
    tasks=("promptable", "semantic", "instance"),
    sizes={"debug": "0.5 M parameters, random", "hiera_tiny": "39 M parameters"},
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora"),
    packs=True,
    sometimes_unused=("model.prompt_encoder.",),
    hub_module="model",
    shape_in_weights=lambda _: True,
    extra="hf",
    licence="code: Apache-2.0 (transformers); Meta's published weights: Apache-2.0",
)
