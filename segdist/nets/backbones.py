"""Encoders of timm by name: whether one is there, and where its weights come from. Torch is not imported."""

import re
from importlib.util import find_spec
from pathlib import Path

from segdist.core import extras, storage
from segdist.core.errors import SpecError, WeightsError, did_you_mean
from segdist.core.published import PublishedWeights, WeightFile, named
from segdist.nets import packaged
from segdist.nets.packaged import PACKAGED
from segdist.nets.weights import RANDOM

PUBLISHED = "published"
"""`weights` that timm names for the backbone."""
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
CATALOGUE = (
    PublishedWeights(
        "resnet18_imagenet",
        "BSD-3-Clause (torchvision); learned from ImageNet",
        (
            WeightFile(
                "resnet18.pth",
                "https://download.pytorch.org/models/resnet18-f37072fd.pth",
                46_830_571,
                "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
            ),
        ),
        {"backbone": "resnet18"},
    ),
    PublishedWeights(
        "resnet50_imagenet",
        "BSD-3-Clause (torchvision); learned from ImageNet",
        (
            WeightFile(
                "resnet50.pth",
                "https://download.pytorch.org/models/resnet50-0676ba61.pth",
                102_530_333,
                "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
            ),
        ),
        {"backbone": "resnet50"},
    ),
)
"""`weights` that `segdist weights get` fetches, under timm's names of tensors; their file names begin their digests."""
_TIMM_MODEL = re.compile(rb"@register_model\s+def (\w+)\(")


def completed(options: object) -> object:
    """Options as they are written, with the backbone that its weights are of.

    That of published weights need not be named. Of packaged ones timm's name for it is written out, so that a trained
    model is built with the same padding when its base weights are not wanted.
    """
    if not isinstance(options, dict):
        return options
    if published := named(CATALOGUE, options.get("weights")):
        return {**published.options, **options}
    if options.get("weights") == PACKAGED and isinstance(options.get("backbone"), str):
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
        SpecError: timm is not installed, has no such model, or the weights are of another one.
        WeightsError: the file is not there, or published weights are not.
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
    if published := named(CATALOGUE, weights):
        if name != published.options["backbone"]:
            raise SpecError(
                f"`model.{family}.weights: {weights}` must go with `backbone: {published.options['backbone']}`, "
                f"but got {backbone}.",
                option="weights",
            )
        published.check()
    if is_file(weights) and not storage.exists(storage.absolute(weights)):
        raise WeightsError(
            f"`model.{family}.weights` must be {PACKAGED}, {PUBLISHED}, {RANDOM}, a file, a name that `segdist weights "
            f"list` has or one on the hub, but there is no {weights}. "
            f"Get one: hf download timm/{backbone}.<tag> model.safetensors"
        )


def is_file(weights: str) -> bool:
    """Whether `weights` names a file, there or not."""
    if weights in (PACKAGED, PUBLISHED, RANDOM) or named(CATALOGUE, weights):
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
