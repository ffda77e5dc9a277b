"""Encoders of timm by name: whether one is there, and where its weights come from. Torch is not imported."""

import re
from importlib.util import find_spec
from pathlib import Path

from segdist.core import extras, storage
from segdist.core.errors import SpecError, WeightsError, did_you_mean
from segdist.nets import packaged
from segdist.nets.packaged import PACKAGED
from segdist.nets.weights import RANDOM

PUBLISHED = "published"
"""`weights` that timm names for the backbone."""
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_TIMM_MODEL = re.compile(rb"@register_model\s+def (\w+)\(")


def padded_as_trained(options: object) -> object:
    """Options as they are written, the backbone under timm's name for it where its weights are packaged.

    Written out, so that a trained model is built with the same padding when its base weights are not wanted.
    """
    if isinstance(options, dict) and options.get("weights") == PACKAGED and isinstance(options.get("backbone"), str):
        return {**options, "backbone": packaged.timm_name(options["backbone"])}
    return options


def check(backbone: str, weights: str, *, family: str, own: str) -> None:
    """Looks for timm, the backbone's name in it, and the weights file; a hub name is not looked up.

    Args:
        backbone: as a sweep file names it.
        weights: of it.
        family: whose options these are, for messages.
        own: what `backbone` says for the family's own encoder.

    Raises:
        SpecError: timm is not installed, or has no such model.
        WeightsError: the file is not there.
    """
    known = _timm_models(family)
    name = backbone.partition(".")[0]
    if name not in known:
        raise SpecError(
            f"`model.{family}.backbone` must be {own} or a model of timm, but got {backbone}. "
            f"{did_you_mean(name, known) if len(known) else ''}",
            option="backbone",
        )
    if weights == PACKAGED:
        packaged.file(backbone)
    if is_file(weights) and not storage.exists(storage.absolute(weights)):
        raise WeightsError(
            f"`model.{family}.weights` must be {PACKAGED}, {PUBLISHED}, {RANDOM}, a file or a name on the hub, but "
            f"there is no {weights}. Get one: hf download timm/{backbone}.<tag> model.safetensors"
        )


def is_file(weights: str) -> bool:
    """Whether `weights` names a file, there or not."""
    if weights in (PACKAGED, PUBLISHED, RANDOM):
        return False
    return not (HUB_NAME.fullmatch(weights) and not Path(weights).expanduser().exists())


def _timm_models(family: str) -> list[str]:
    """The names of timm's models, read from its source: importing it imports torch, for which `check` has no time.

    Raises:
        SpecError: timm is not installed.
    """
    found = find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise SpecError(extras.needs(f"`model.{family}.backbone`", "timm"), option="backbone")
    folder = Path(found.submodule_search_locations[0]) / "models"
    return [name.decode() for file in folder.glob("*.py") for name in _TIMM_MODEL.findall(file.read_bytes())]
