"""Linear layers and convolutions that answer sooner on a CPU: by oneDNN, with the activation after them in one pass.

torch's own linear layers go through MKL, which on some processors takes twice as long; a convolution of one image on
one thread goes through no library at all; and an activation apart reads and writes everything once more. Where
gradients are wanted, on a card, in other precisions and in a graph that is exported all is as torch has it. Names and
weights stay what they were.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["none", "gelu"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """(..., in) to (..., out), and the activation of it.

    Args:
        x: the input.
        weight: (out, in).
        bias: (out,).
        activation: what follows.
    """
    if not _can_fuse(x):
        return _activated(functional.linear(x, weight, bias), activation)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    return found


class FusedLinear(nn.Linear):
    """A linear layer and what follows it."""

    activation: Activation = "none"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """The layer's answer, activated."""
        return linear(input, self.weight, self.bias, self.activation)


class FusedConv2d(nn.Conv2d):
    """A convolution and what follows it."""

    activation: Activation = "none"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """The layer's answer, activated."""
        if not _can_fuse(input) or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return _activated(super().forward(input), self.activation)
        channels_last = input.contiguous(memory_format=torch.channels_last)
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            channels_last, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups,
            self.activation, [], "none",
        )  # fmt: skip
        return found


def fuse(network: nn.Module, activations: Mapping[str, str] | None = None) -> None:
    """Make the plain linear layers and convolutions in a network such ones, in place.

    Args:
        network: it.
        activations: names of layers, as their parent has them, and of the GELU of the same parent that follows each
            directly.
    """
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear:
                layer.__class__ = FusedLinear
            elif type(layer) is nn.Conv2d:
                layer.__class__ = FusedConv2d
            if not isinstance(layer, FusedLinear | FusedConv2d):
                continue
            after = getattr(parent, (activations or {}).get(name, ""), None)
            if isinstance(after, nn.GELU) and after.approximate == "none":
                layer.activation = "gelu"
                setattr(parent, (activations or {})[name], nn.Identity())


def _activated(x: Tensor, activation: Activation) -> Tensor:
    return functional.gelu(x) if activation == "gelu" else x


def _can_fuse(x: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_tracing_state() is None
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    )
