"""Mask2Former (Cheng et al. 2022): masked attention, one query an object; semantic and instance masks alike."""

import json
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from segdist.errors import WeightsError
from segdist.plugins import Family, ModelOptions

RANDOM = "random"
"""`weights` of the small network that is drawn at random and needs no file."""
HOW_TO_GET = "Get some: hf download facebook/mask2former-swin-tiny-coco-instance --local-dir FOLDER"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class Options(ModelOptions):
    """Which network."""

    weights: str
    """A local folder with config.json and safetensors, a name on the hub, or random: a small untrained network."""
    image_size: int = Field(default=384, gt=0, multiple_of=32)
    """Longest side in pixels that the network sees; its coarsest features are 32 times smaller."""
    num_queries: PositiveInt | Literal["auto"] = "auto"
    """Most objects found in an image; auto takes what the weights were trained with. Other numbers start untrained."""


def check(options: Options) -> None:
    """Looks at the files that `weights` names; a hub name is only looked at when the network is built.

    Raises:
        WeightsError: there is no such folder, or it holds no Mask2Former.
    """
    folder = local_folder(options.weights)
    if folder is None:
        return
    if not folder.is_dir():
        raise WeightsError(
            "`model.mask2former.weights` must be a folder, a hub name like "
            f"facebook/mask2former-swin-tiny-coco-instance, or {RANDOM}, but there is no folder {options.weights}. "
            f"{HOW_TO_GET}"
        )
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise WeightsError(f"A folder of weights must hold {pattern}, but {folder} has none. {HOW_TO_GET}")
    found = _model_type(folder / "config.json")
    if found != "mask2former":
        raise WeightsError(f"{folder / 'config.json'} must describe a `mask2former`, but says {found!r}. {HOW_TO_GET}")


def local_folder(weights: str) -> Path | None:
    """The folder that `weights` names, there or not; None for a hub name and for `random`."""
    folder = Path(weights).expanduser()
    if weights == RANDOM or (_HUB_NAME.fullmatch(weights) and not folder.exists() and not folder.parent.is_dir()):
        return None
    return folder


def _model_type(config: Path) -> str:
    try:
        return str(json.loads(config.read_text()).get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{config} cannot be read: {error}. {HOW_TO_GET}") from error


FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "image_size": 64},
    losses={"class": 2.0, "mask": 5.0, "dice": 5.0},  # the paper's weights
    encoder=("model.model.pixel_level_module.encoder.",),
    lora_targets=("q_proj", "v_proj"),  # of Swin, and of the decoder's self-attention
    lora_trains=(
        "model.class_predictor.",
        "model.model.transformer_module.decoder.mask_predictor.",
        "model.model.transformer_module.queries_",
    ),
    check=check,
    tasks=("semantic", "instance"),
    licence="code: Apache-2.0 (transformers) and MIT; Meta's published weights: CC BY-NC 4.0 by its model zoo",
)
