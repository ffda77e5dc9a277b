"""A bound on what is built from a description that came from outside: it ends before memory is taken."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from segdist.core.errors import WeightsError

MOST_LAYERS = 20_000
"""Modules inside modules counted along; PaliGemma 2 of 28 billion values has 1,500."""
BEYOND_THE_FILE = 2**25
"""Values that a network may have beside those in its files: heads for other classes, parts of the training alone."""


@contextmanager
def at_most(bytes_in_files: int, *, described: str) -> Iterator[None]:
    """Networks built inside have no more values than their files can hold, which is one a byte.

    A layer's tensors are reserved, counted and then filled, so that one which is too large costs nothing.

    Raises:
        WeightsError: one has more; it says what `described` the network.
    """
    most, values, layers = bytes_in_files + BEYOND_THE_FILE, 0, 0

    def stop_beyond() -> None:
        if layers > MOST_LAYERS or values > most:
            raise WeightsError(
                f"{described} must describe what its files hold, at most {most:,} values in {MOST_LAYERS:,} layers, "
                f"but describes {values:,} or more in {layers:,} or more"
            )

    def count_layer(_: nn.Module, __: str, ___: nn.Module | None) -> None:
        nonlocal layers
        layers += 1
        stop_beyond()

    def count_values(_: nn.Module, __: str, tensor: Tensor | None) -> None:
        nonlocal values
        values += 0 if tensor is None else tensor.numel()
        stop_beyond()

    hooks = (
        register_module_module_registration_hook(count_layer),
        register_module_parameter_registration_hook(count_values),
        register_module_buffer_registration_hook(count_values),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
