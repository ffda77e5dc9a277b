"""A few convolutions; a class for each pixel."""

from pydantic import Field

from segdist.core.plugins import EVERY_NOISE, SEMANTIC_LOSSES, Family, ModelOptions


class Options(ModelOptions):
    """How large the network is."""

    width: int = Field(default=32, gt=0, le=512)
    """Channels of every layer."""


FAMILY = Family(
    options=Options,
    debug={"image_size": 64},
    losses=SEMANTIC_LOSSES,
    encoder=("encoder.",),
    lora_targets=(),
    lora_trains=("head.",),
    adapters=("full", "frozen_encoder"),
    noise=EVERY_NOISE,
    onnx=lambda _: ("scores_BKSS",),
    licence="Apache-2.0",
)
