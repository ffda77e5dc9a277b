"""Training steps that are compiled."""

import torch
from torch import nn

from segdist.core.errors import SpecError


def compile_in_place(network: nn.Module, device: torch.device) -> None:
    """Compile what a call of the network does; its weights keep their names, and its other methods stay as they are.

    Raises:
        SpecError: this machine has no compiler that torch can use.
    """
    try:
        torch.compile(_probe)(torch.ones(2, device=device))
    except RuntimeError as error:  # which all of torch's compilers raise
        said = " ".join(str(error).split())[:300]
        needed = "triton" if device.type == "cuda" else "a C++ compiler such as g++, or CXX that names one"
        raise SpecError(
            f"`train.compile` must find {needed} where the network trains, but torch.compile says: {said}. "
            "Install it there, or set `train.compile: false`."
        ) from error
    network.compile()


def _probe(values: torch.Tensor) -> torch.Tensor:
    return values.sin() + 1
