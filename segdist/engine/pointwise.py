"""1 x 1 convolutions on a CPU: computed by oneDNN also where torch would not ask it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_POINT = (1, 1)


@contextmanager
def hastened(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Have oneDNN compute the 1 x 1 convolutions of a network on a CPU; results agree to rounding.

    Of fewer than 16 images, a process of one thread computes them as a product of matrices, in up to twice the time: a
    fifth of a training step on EfficientNet. Torch does not do so where a convolution is dilated, and a kernel of one
    pixel has nothing to dilate.
    """
    points = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride == _POINT]
    before = [convolution.dilation for convolution in points]
    if device.type == "cpu":
        for convolution in points:
            convolution.dilation = (2, 2)
    try:
        yield
    finally:
        for convolution, dilation in zip(points, before, strict=True):
            convolution.dilation = dilation
