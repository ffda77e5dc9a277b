"""Ultralytics' YOLO with masks (YOLOv8 and YOLO11, Jocher et al. 2023, 2024), in our loop, evaluator and checkpoints.

The library and its weights are under AGPL-3.0: read its terms before you ship a model that was trained with it.
"""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from segdist.core import extras, storage
from segdist.core.errors import SpecError, WeightsError
from segdist.core.plugins import USUAL_ADAPTERS, Family, ImageSize, ModelOptions
from segdist.nets.weights import RANDOM

YoloSize = Literal["debug", "v8n", "v8s", "v8m", "v8l", "v8x", "11n", "11s", "11m", "11l", "11x"]


class Options(ModelOptions):
    """Which network."""

    weights: str
    """A .pt file of Ultralytics here or at a URI, e.g. yolo11n-seg.pt, or random: an untrained network."""
    size: YoloSize = "11n"
    """Shape of a random network: the generation and its size; weights bring their own, and it need not be named."""
    image_size: ImageSize = Field(default=640, multiple_of=32)
    """Longest side in pixels that the network sees; its coarsest features are 32 times smaller."""
    max_overlap: float = Field(default=0.7, gt=0, le=1)
    """Of two boxes of one class with a larger IoU, the one with the lower score is left out (NMS)."""


def check(options: Options) -> None:
    """Looks for the library and the weights file.

    Raises:
        SpecError: ultralytics is not installed.
        WeightsError: the file is not there, or its name says that it is something else.
    """
    if find_spec("ultralytics") is None:
        raise SpecError(f"{extras.needs('`yolo`', 'ultralytics')} (AGPL-3.0: read its terms first)")
    if options.weights == RANDOM:
        return
    if not options.weights.endswith(".pt"):
        raise WeightsError(
            f"`model.yolo.weights` must be a .pt file or {RANDOM}, but got {options.weights}. {HOW_TO_GET}"
        )
    if not storage.exists(storage.absolute(options.weights)):
        raise WeightsError(
            f"`model.yolo.weights` must be a file or {RANDOM}, but there is no {options.weights}. {HOW_TO_GET}"
        )


HOW_TO_GET = "Download yolo11n-seg.pt from the release assets of github.com/ultralytics/assets and name its path."

FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "size": "debug", "image_size": 64},
    losses={"box": 7.5, "mask": 7.5, "class": 0.5, "distribution": 1.5},  # Ultralytics' gains
    encoder=("encoder.",),
    lora_targets=("encoder.*.cv1.conv", "encoder.*.cv2.conv"),
    lora_trains=("head.",),
    encoder_blocks=("encoder.*",),
    check=check,
    tasks=("semantic", "instance"),
    adapters=(*USUAL_ADAPTERS, "partial"),
    sizes={
        "debug": "0.2 M parameters, random",
        "11n": "2.9 M parameters",
        "11s": "10 M parameters",
        "11m": "22 M parameters",
        "11l": "28 M parameters",
        "11x": "62 M parameters",
        "v8n": "3.4 M parameters; v8s, v8m, v8l, v8x: to 72 M",
    },
    # Whose object an anchor stands for, the library keeps: no `score_power`.
    noise=("ignore_band", "soft_band", "label_smoothing", "soft_targets"),
    extra="yolo",
    licence="AGPL-3.0 (Ultralytics' code and published weights)",
)
