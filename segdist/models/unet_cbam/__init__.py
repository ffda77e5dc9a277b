"""U-Net with CBAM attention: semantic; from scratch with GroupNorm, quick on small data, or on a backbone of timm."""

from typing import Self

from pydantic import Field, model_validator

from segdist.core.errors import SpecError
from segdist.core.plugins import EVERY_NOISE, SEMANTIC_LOSSES, USUAL_ADAPTERS, Family, ModelOptions
from segdist.nets import backbones
from segdist.nets.backbones import PUBLISHED
from segdist.nets.packaged import PACKAGED
from segdist.nets.weights import RANDOM

NAME = "unet_cbam"
SCRATCH = "scratch"
"""`backbone` of our own encoder, which begins with random weights."""
_BACKBONE_STRIDE = 32


class Options(ModelOptions):
    """Size of the network, and what its encoder is."""

    backbone: str = Field(default=SCRATCH, pattern=r"^\w[\w.]*$")
    """scratch: an encoder of our own with GroupNorm. Otherwise a model of timm that gives features at several scales,
    e.g. efficientnet_lite0, resnet18 or convnext_tiny."""
    weights: str = PUBLISHED
    """Of the backbone. packaged: those of ImageNet that the extra `encoders` installs, for efficientnet_lite0, 1 and 2.
    published: those that timm downloads for it. random: untrained. resnet18_imagenet or resnet50_imagenet, which
    `segdist weights get` fetches. Otherwise a .safetensors or .pth file here or at a URI, or a name on the hub like
    timm/resnet18.a1_in1k."""
    width: int = Field(default=32, ge=4, le=1024, multiple_of=4)
    """Channels at full resolution; from scratch, every level down has twice as many."""
    depth: int = Field(default=4, ge=1, le=6)
    """Number of times the resolution is halved; a backbone has its own."""
    full_resolution: bool = True
    """Also learn features at the image's own resolution, which with a backbone take half of the time. false: the class
    map is as fine as the backbone's finest features, every second pixel or less, and enlarged; `width` is not used."""

    @model_validator(mode="before")
    @classmethod
    def _with_its_backbone(cls, options: object) -> object:
        return backbones.completed(options)

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if self.backbone == SCRATCH and self.image_size % 2**self.depth:
            raise ValueError(f"`image_size` must be a multiple of 2^depth = {2**self.depth}, but got {self.image_size}")
        if self.backbone != SCRATCH and (self.image_size % _BACKBONE_STRIDE or self.image_size < 2 * _BACKBONE_STRIDE):
            # At 32 pixels one value a channel is left, of which batch norm can compute no variance.
            raise ValueError(f"`image_size` must be 64, 96, 128, ... with a backbone, but got {self.image_size}")
        if self.backbone == SCRATCH and not self.full_resolution:
            raise ValueError("`full_resolution: false` needs a `backbone`; from scratch, lower `image_size` or `width`")
        return self


def check(options: Options) -> None:
    """Looks for timm, the backbone's name in it, and the weights file; a hub name is not looked up.

    Raises:
        SpecError: timm is not installed, or has no such model; weights are named, but not of which backbone.
        WeightsError: the file is not there.
    """
    if "backbone" not in options.model_fields_set and options.weights not in (PUBLISHED, RANDOM):
        raise SpecError(
            f"`model.{NAME}.weights: {options.weights}` must go with a `backbone`, but none is named. Add one, e.g. "
            "`backbone: efficientnet_lite0`, or take `weights` away to train from scratch.",
            option="weights",
        )
    if options.backbone != SCRATCH:
        backbones.check(options.backbone, options.weights, family=NAME, own=SCRATCH)


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
    published=backbones.CATALOGUE,
    places=lambda o: () if o.backbone == SCRATCH or o.weights in (PACKAGED, RANDOM) else ("weights",),
    adapters=(*USUAL_ADAPTERS, "partial"),
    onnx=lambda _: ("scores_BKSS",),
    packs=True,
    sizes={
        SCRATCH: "width 32, depth 4: 8 M parameters",
        "efficientnet_lite0": "with `weights: packaged` pretrained on ImageNet; for photographs",
        "resnet18": "from timm, as any model of it with features at several scales",
    },
    licence="Apache-2.0; weights of a backbone: see its card at huggingface.co/timm",
)
