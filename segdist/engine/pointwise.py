"""1 x 1 convolutions on a CPU: computed by oneDNN also where torch would not ask it."""

from torch import nn

_POINT = (1, 1)


def hasten(network: nn.Module) -> None:
    """Have oneDNN compute the 1 x 1 convolutions of a network on a CPU, whose results stay what they are.

    Of fewer than 16 images, a process of one thread computes them as a product of matrices, in up to twice the time: a
    fifth of a training step on EfficientNet. Torch does not do so where a convolution is dilated, and a kernel of one
    pixel has nothing to dilate.
    """
    _dilate(network, by=2)


def as_declared(network: nn.Module) -> None:
    """Undo `hasten`, for a network that is written down."""
    _dilate(network, by=1)


def _dilate(network: nn.Module, *, by: int) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride == _POINT:
            module.dilation = (by, by)
