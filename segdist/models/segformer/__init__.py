"""SegFormer (Xie et al. 2021): a pyramid of transformers under a light head; a class for each pixel."""

from typing import Literal

from pydantic import Field

from segdist.core.plugins import EVERY_NOISE, SEMANTIC_LOSSES, USUAL_ADAPTERS, Family, ImageSize, ModelOptions
from segdist.nets.weights import RANDOM, Published

PUBLISHED = Published("segformer", "segformer", "nvidia/segformer-b0-finetuned-ade-512-512")


class Options(ModelOptions):
    """Which network."""

    weights: str
    """A local folder or URI with config.json and safetensors, a name on the hub, or random: an untrained network.
    Weights of the encoder alone (nvidia/mit-b0) fit as well: the head starts untrained then."""
    size: Literal["debug", "b0", "b1", "b2", "b3", "b4", "b5"] = "debug"
    """Shape of a random network; weights bring their own."""
    image_size: ImageSize = Field(default=512, multiple_of=32)
    """Longest side in pixels that the network sees; its coarsest features are 32 times smaller, its masks 4 times."""


def check(options: Options) -> None:
    """Looks at the files that `weights` names.

    Raises:
        WeightsError: there is no such folder, or it holds no SegFormer.
    """
    PUBLISHED.check(options.weights)


FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "image_size": 64},
    losses=SEMANTIC_LOSSES,
    encoder=("model.segformer.",),
    lora_targets=("q_proj", "v_proj"),
    lora_trains=("model.decode_head.",),
    encoder_blocks=("model.segformer.stages.*.blocks.*",),
    check=check,
    published=(PUBLISHED.declared(licence="NVIDIA's own, not for commercial use"),),
    noise=EVERY_NOISE,
    sizes={
        "debug": "0.2 M parameters, random",
        "b0": "3.8 M parameters",
        "b1": "13.7 M parameters",
        "b2": "27.5 M parameters",
        "b3": "47.3 M parameters",
        "b4": "64.1 M parameters",
        "b5": "84.7 M parameters",
    },
    adapters=(*USUAL_ADAPTERS, "partial"),
    packs=True,
    onnx=lambda _: ("scores_BKSS",),
    hub_module="model",
    shape_in_weights=lambda _: True,
    extra="hf",
    licence="code: Apache-2.0 (transformers); NVIDIA's published weights: its own, not for commercial use",
)
