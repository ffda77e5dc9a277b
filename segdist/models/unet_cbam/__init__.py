"""U-Net with CBAM attention: semantic; from scratch with GroupNorm, quick on small data, or on a backbone of timm."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from segdist.core import extras, storage
from segdist.core.errors import SpecError, WeightsError, did_you_mean
from segdist.core.plugins import EVERY_NOISE, SEMANTIC_LOSSES, USUAL_ADAPTERS, Family, ModelOptions
from segdist.nets import packaged
from segdist.nets.packaged import PACKAGED
from segdist.nets.weights import RANDOM

SCRATCH = "scratch"
"""`backbone` of our own encoder, which begins with random weights."""
PUBLISHED = "published"
"""`weights` that timm names for the backbone."""
_BACKBONE_STRIDE = 32
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_TIMM_MODEL = re.compile(rb"@register_model\s+def (\w+)\(")


class Options(ModelOptions):
    """Size of the network, and what its encoder is."""

    backbone: str = Field(default=SCRATCH, pattern=r"^\w[\w.]*$")
    """scratch: an encoder of our own with GroupNorm. Otherwise a model of timm that gives features at several scales,
    e.g. efficientnet_lite0, resnet18 or convnext_tiny."""
    weights: str = PUBLISHED
    """Of the backbone. packaged: those of ImageNet that the extra `encoders` installs, for efficientnet_lite0, 1 and 2.
    published: those that timm downloads for it. random: untrained. Otherwise a .safetensors or .pth file here or at a
    URI, or a name on the hub like timm/resnet18.a1_in1k."""
    width: int = Field(default=32, ge=4, le=1024, multiple_of=4)
    """Channels at full resolution; from scratch, every level down has twice as many."""
    depth: int = Field(default=4, ge=1, le=6)
    """Number of times the resolution is halved; a backbone has its own."""

    @model_validator(mode="before")
    @classmethod
    def _padded_as_trained(cls, options: object) -> object:
        """Written out, so that a trained model is built with the same padding when its base weights are not wanted."""
        if (
            isinstance(options, dict)
            and options.get("weights") == PACKAGED
            and isinstance(options.get("backbone"), str)
        ):
            return {**options, "backbone": packaged.timm_name(options["backbone"])}
        return options

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if self.backbone == SCRATCH and self.image_size % 2**self.depth:
            raise ValueError(f"`image_size` must be a multiple of 2^depth = {2**self.depth}, but got {self.image_size}")
        if self.backbone != SCRATCH and (self.image_size % _BACKBONE_STRIDE or self.image_size < 2 * _BACKBONE_STRIDE):
            # At 32 pixels one value a channel is left, of which batch norm can compute no variance.
            raise ValueError(f"`image_size` must be 64, 96, 128, ... with a backbone, but got {self.image_size}")
        return self


def check(options: Options) -> None:
    """Looks for timm, the backbone's name in it, and the weights file; a hub name is not looked up.

    Raises:
        SpecError: timm is not installed, or has no such model.
        WeightsError: the file is not there.
    """
    if options.backbone == SCRATCH:
        return
    known = _timm_models()
    name = options.backbone.partition(".")[0]
    if name not in known:
        raise SpecError(
            f"`model.unet_cbam.backbone` must be {SCRATCH} or a model of timm, but got {options.backbone}. "
            f"{did_you_mean(name, known) if len(known) else ''}",
            option="backbone",
        )
    if options.weights == PACKAGED:
        packaged.file(options.backbone)
    if is_file(options.weights) and not storage.exists(storage.absolute(options.weights)):
        raise WeightsError(
            f"`model.unet_cbam.weights` must be {PACKAGED}, {PUBLISHED}, {RANDOM}, a file or a name on the hub, but "
            f"there is no {options.weights}. Get one: hf download timm/{options.backbone}.<tag> model.safetensors"
        )


def is_file(weights: str) -> bool:
    """Whether `weights` names a file, there or not."""
    if weights in (PACKAGED, PUBLISHED, RANDOM):
        return False
    return not (HUB_NAME.fullmatch(weights) and not Path(weights).expanduser().exists())


def _timm_models() -> list[str]:
    """The names of timm's models, read from its source: importing it imports torch, for which `check` has no time.

    Raises:
        SpecError: timm is not installed.
    """
    found = find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise SpecError(extras.needs("`model.unet_cbam.backbone`", "timm"), option="backbone")
    folder = Path(found.submodule_search_locations[0]) / "models"
    return [name.decode() for file in folder.glob("*.py") for name in _TIMM_MODEL.findall(file.read_bytes())]


FAMILY = Family(
    options=Options,
    debug={"image_size": 64, "width": 8, "depth": 3},
    losses=SEMANTIC_LOSSES,
    encoder=("encoder.",),
    lora_targets=("conv1", "conv2"),
    lora_trains=("head.", "stem."),
    encoder_blocks=("encoder.levels.*", "encoder.body.layer*", "encoder.body.stages_*", "encoder.body.blocks.*"),
    check=check,
    noise=EVERY_NOISE,
    places=lambda o: () if o.backbone == SCRATCH or o.weights in (PACKAGED, RANDOM) else ("weights",),
    adapters=(*USUAL_ADAPTERS, "partial"),
    onnx=lambda _: ("scores_BKSS",),
    sizes={
        SCRATCH: "width 32, depth 4: 8 M parameters",
        "efficientnet_lite0": "with `weights: packaged` pretrained on ImageNet; for photographs",
        "resnet18": "from timm, as any model of it with features at several scales",
    },
    licence="Apache-2.0; weights of a backbone: see its card at huggingface.co/timm",
)
