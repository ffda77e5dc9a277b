"""Label Studio's brush regions: the packed run lengths of thi.ng/rle-pack over RGBA pixels row by row.

32 bits of length, 5 of the word's size, four times 4 of the sizes of lengths; then runs: a bit that says whether one
value repeats, two bits that choose the length's size, the length less one, and the value, or all values.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdist import masks
from segdist.records import Rle

_SIZES = (3, 4, 8, 16)
"""Bits of the lengths of runs."""
_ALPHA = 3
"""Of the four values of a pixel the one that says whether it is painted."""


def encode_brush(rle: Rle) -> list[int]:
    """The bytes of a brush region."""
    flat = masks.decode(rle).ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=len(flat)) * 4
    bits = [f"{len(flat) * 4:032b}{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        for done in range(0, length, 1 << _SIZES[-1]):
            part = min(length - done, 1 << _SIZES[-1]) - 1
            kind = next(k for k, size in enumerate(_SIZES) if part < 1 << size)
            bits.append(f"1{kind:02b}{part:0{_SIZES[kind]}b}{255 if flat[start] else 0:08b}")
    text = "".join(bits)
    packed = np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0"))
    return [int(v) for v in packed]


def decode_brush(content: Sequence[Any], size_hw: tuple[int, int]) -> Rle:
    """The mask of a brush region: pixels whose alpha is set.

    Raises:
        ValueError: it holds no bytes, ends too early, or is of another size.
    """
    bits = _Bits(content)
    total, word = bits.number(32), bits.number(5) + 1
    if total != size_hw[0] * size_hw[1] * 4:
        raise ValueError(f"a brush region must have 4 x {size_hw[0]} x {size_hw[1]} values, but has {total}")
    sizes = [bits.number(4) + 1 for _ in range(4)]
    painted = np.zeros(total // 4, np.bool_)
    done = 0
    while done < total:
        repeats = bits.number(1)
        stop = min(done + 1 + bits.number(sizes[bits.number(2)]), total)
        if repeats:
            painted[_pixels(done, stop)] = bits.number(word) > 0
        else:
            values = bits.numbers(word, stop - done)
            painted[_pixels(done, stop)] = values[(_ALPHA - done) % 4 :: 4] > 0
        done = stop
    return masks.encode(painted.reshape(size_hw))


def _pixels(start: int, stop: int) -> slice:
    """The pixels whose alpha lies between two places among the values."""
    return slice((start - _ALPHA + 3) // 4, (stop - _ALPHA + 3) // 4)  # rounded up: the first alpha not before


class _Bits:
    """Whole numbers out of bytes, bit by bit."""

    def __init__(self, content: Sequence[Any]) -> None:
        try:
            self._bits = np.unpackbits(np.asarray(content, np.uint8))
        except (TypeError, ValueError, OverflowError):
            raise ValueError("a brush region must be a list of numbers from 0 to 255") from None
        self._place = 0

    def number(self, bits: int) -> int:
        """The next number of some bits."""
        return int(self.numbers(bits, 1)[0])

    def numbers(self, bits: int, count: int) -> NDArray[np.int64]:
        """The next numbers of as many bits each."""
        stop = self._place + bits * count
        if stop > len(self._bits):
            raise ValueError("the run lengths of a brush region end in the middle")
        taken = self._bits[self._place : stop].reshape(count, bits)
        self._place = stop
        return np.asarray(taken @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64)))
