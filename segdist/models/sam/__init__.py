"""Segment Anything (Kirillov et al. 2023), on the `segment-anything` package.

Shown boxes or points, it draws one mask for each and needs no classes: a teacher. With `prompt: class` it learns a
prompt of its own for each class, with `prompt: everything` it looks under every point of a grid: then it segments
without being shown anything, a student like the others.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from segdist.core.errors import WeightsError
from segdist.core.plugins import EVERY_NOISE, Family, ImageSize
from segdist.nets.promptable.options import LOSSES, PromptableOptions, onnx, prompts

SHIPPED = "shipped"
RANDOM = "random"
SHIPPED_FILE = Path(__file__).with_name("tiny.safetensors")
_PUBLISHED = {
    "vit_t": "mobile_sam.pt",
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
_TINY_IMAGE_SIZE, _IMAGE_SIZE = 128, 1024
_TINY_STRIDE, _STRIDE = 8, 16


class Options(PromptableOptions):
    """Which network, and what it is shown."""

    size: Literal["tiny", "vit_t", "vit_b", "vit_l", "vit_h"] = "tiny"
    """tiny: 1.2 M parameters, trained by us on drawn scenes. vit_t: MobileSAM (Zhang et al. 2023), SAM's decoder on a
    small encoder, for photographs on a CPU or a small card. The others are Meta's."""
    weights: str = SHIPPED
    """A .pth, .pt or .safetensors file, for vit_t also a folder with encoder.onnx and sam.onnx; shipped: those that
    come with segdist (tiny only); random: untrained."""
    image_size: ImageSize = _TINY_IMAGE_SIZE
    """Longest side in pixels that the network sees; left out: 128 for tiny and 1024 for the others, as trained."""

    @model_validator(mode="before")
    @classmethod
    def _image_size_as_trained(cls, options: object) -> object:
        if isinstance(options, dict) and "image_size" not in options:
            is_tiny = options.get("size", "tiny") == "tiny"
            return {**options, "image_size": _TINY_IMAGE_SIZE if is_tiny else _IMAGE_SIZE}
        return options

    @model_validator(mode="after")
    def _image_is_whole_patches(self) -> Self:
        stride = _TINY_STRIDE if self.size == "tiny" else _STRIDE
        if self.image_size % stride:
            raise ValueError(f"`image_size` must be a multiple of {stride} for {self.size}, but got {self.image_size}")
        return self


def check(options: Options) -> None:
    """Looks for the weights file.

    Raises:
        WeightsError: it is not there.
    """
    weights_file(options)


def weights_file(options: Options) -> Path | None:
    """The file that holds the weights, or the folder with their ONNX graphs; None for random ones.

    Raises:
        WeightsError: it is not there.
    """
    if options.weights == RANDOM:
        return None
    if options.weights != SHIPPED:
        file = Path(options.weights).expanduser()
    elif options.size == "tiny":
        file = SHIPPED_FILE
    else:
        raise WeightsError(f"`model.sam.weights` must be a file for {options.size}. {how_to_get(options)}")
    if not file.is_file() and not (options.size == "vit_t" and file.is_dir()):
        raise WeightsError(f"`model.sam.weights` must be a file, but there is no {file}. {how_to_get(options)}")
    return file


def how_to_get(options: Options) -> str:
    """The sentence that says where weights of this size come from."""
    if options.size == "tiny":
        return "`shipped` weights come with segdist; train your own with sweeps/recipes/pretrain_sam_tiny.yaml."
    if options.size == "vit_t":
        return f"Download {_PUBLISHED['vit_t']} from github.com/ChaoningZhang/MobileSAM and set `weights` to its path."
    return (
        f"Download {_PUBLISHED[options.size]} from the model checkpoints of "
        "github.com/facebookresearch/segment-anything and set `weights` to its path."
    )


FAMILY = Family(
    options=Options,
    debug={"size": "tiny", "weights": RANDOM, "prompt": "class", "image_size": 64},
    losses=LOSSES,
    encoder=("image_encoder.",),
    lora_targets=("qkv",),
    lora_trains=("mask_decoder.", "prompt_encoder.", "class_tokens", "class_head."),
    encoder_blocks=("image_encoder.blocks.*", "image_encoder.stages.*.blocks.*"),
    prompts=prompts,
    onnx=onnx,
    check=check,
    noise=EVERY_NOISE,
    places=lambda o: () if o.weights in (SHIPPED, RANDOM) else ("weights",),
    tasks=("promptable", "semantic", "instance"),
    sizes={
        "tiny": "1.2 M parameters, shipped",
        "vit_t": "10 M parameters: MobileSAM, for photographs on a CPU",
        "vit_b": "91 M parameters",
        "vit_l": "308 M parameters",
        "vit_h": "636 M parameters",
    },
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora", "qlora", "conv_lora"),
    sometimes_unused=("prompt_encoder.",),
    extra="sam",
)
