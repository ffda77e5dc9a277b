"""U-Net with a ResNet-like encoder, CBAM attention and GroupNorm: semantic, from scratch, quick on small data."""

from typing import Self

from pydantic import Field, model_validator

from segdist.plugins import Family, ModelOptions


class Options(ModelOptions):
    """Size of the network."""

    width: int = Field(default=32, ge=4, multiple_of=4)
    """Channels at full resolution; every level down has twice as many."""
    depth: int = Field(default=4, ge=1, le=6)
    """Number of times the resolution is halved."""

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if self.image_size % 2**self.depth:
            raise ValueError(f"`image_size` must be a multiple of 2^depth = {2**self.depth}, but got {self.image_size}")
        return self


FAMILY = Family(
    options=Options,
    debug={"image_size": 64, "width": 8, "depth": 3},
    losses={"cross_entropy": 1.0, "dice": 1.0, "focal": 0.0},
    encoder=("encoder.",),
    lora_targets=("conv1", "conv2"),
    lora_trains=("head.",),
)
