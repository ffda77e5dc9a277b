"""Numbers of more than eight bits, or floating point, as eight bits.

The range that becomes 0..255 is the smallest usual one that holds all values of the file (8, 10, 12, 14, 16 or 32 bits;
for floating point 0..1, 0..255 or 0..65535), if they fill at least half of it, or else the file's own smallest and
largest value. NaN, infinity and what is said to be "no data" become 0 and do not count. So the same file always gives
the same pixels, whatever is cut from it later.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Note = tuple[str, str]
"""A finding's code and message."""
_INTEGER_RANGES = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1, 2**32 - 1)
_FLOAT_RANGES = (1, 2**8 - 1, 2**16 - 1)
Strips = Callable[[], Iterator[tuple[int, NDArray[np.generic]]]]
"""Gives the values of an image a few rows at a time, each with the number of its first row, as often as asked."""


def to_eight_bits(
    strips: Strips, shape: tuple[int, ...], no_data: float | None
) -> tuple[NDArray[np.uint8], tuple[Note, ...]]:
    """Values of any type as eight bits, by the rule of the module."""
    low, high, is_float = math.inf, -math.inf, False
    for _, values in strips():
        counted = values[_counts(values, no_data)]
        is_float = values.dtype.kind == "f"
        if counted.size:
            low, high = min(low, float(counted.min())), max(high, float(counted.max()))
    found = np.zeros(shape, np.uint8)
    if low > high:
        return found, (("pixels-scaled", "it has no value that is a number"),)
    first, last, notes = _range(low, high, is_float=is_float)
    for top, values in strips():
        native, size = values.dtype.newbyteorder("="), values.dtype.itemsize
        if size > 2:
            levels = _levels(values, first, last, no_data)
        else:  # a table of all values that the type has is ten times as fast
            every = np.arange(1 << 8 * size, dtype=np.uint32).astype(f"u{size}").view(native)
            levels = _levels(every, first, last, no_data)[values.astype(native).view(f"u{size}")]
        found[top : top + len(values)] = levels
    return found, notes


def _levels(values: NDArray[Any], first: float, last: float, no_data: float | None) -> NDArray[np.uint8]:
    """Eight bits from values of which `first` becomes 0 and `last` 255."""
    shifted = np.where(_counts(values, no_data), values, first).astype(np.float64) - first
    is_float = values.dtype.kind == "f"
    levels = np.rint(shifted / (last - first) * 255) if is_float else np.floor(shifted * 256 / (last - first + 1))
    return levels.clip(0, 255).astype(np.uint8)


def _range(low: float, high: float, *, is_float: bool) -> tuple[float, float, tuple[Note, ...]]:
    """The values that become 0 and 255, and what there is to say."""
    usual = _FLOAT_RANGES if is_float else _INTEGER_RANGES
    fitting = next((most for most in usual if low >= 0 and high <= most), 0)
    if fitting and (low == high or (high - low) * 2 >= fitting):
        bits = fitting.bit_length()
        is_plain = is_float or bits in (8, 16, 32)
        note = ("pixels-scaled", f"its values reach to {high:g} and were read as {bits} bits")
        return 0, fitting, () if is_plain else (note,)
    message = f"its values from {low:g} to {high:g} were stretched to 0..255; other images have another range"
    return low, max(high, math.nextafter(low, math.inf)), (("pixels-scaled", message),)


def _counts(values: NDArray[Any], no_data: float | None) -> NDArray[np.bool_]:
    counts = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
    return counts if no_data is None else counts & (values != no_data)
