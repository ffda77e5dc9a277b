"""Label Studio's brush regions: the packed run lengths of thi.ng/rle-pack over RGBA pixels row by row.

32 bits of length, 5 of the word's size, four times 4 of the sizes of lengths; then runs: a bit that says whether one
value repeats, two bits that choose the length's size, the length less one, and the value, or all values.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.records import Rle

_SIZES = (3, 4, 8, 16)
"""Bits of the lengths of runs."""
_MOST_BRUSH = 1 << 21
"""Bytes of a brush region: a run takes at least two."""


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


def decode_brush(content: Sequence[object], size_hw: tuple[int, int]) -> Rle:
    """The mask of a brush region: pixels whose alpha is set.

    Raises:
        ValueError: it holds no bytes, too many, ends too early, or is of another size.
    """
    stream = _Bits(content)
    total, word = stream.number(32), stream.number(5) + 1
    if total != size_hw[0] * size_hw[1] * 4:
        raise ValueError(f"a brush region must have 4 x {size_hw[0]} x {size_hw[1]} values, but has {total}")
    if word != 8:
        raise ValueError(f"a brush region must have values of 8 bits, but has some of {word}")
    sizes = [stream.number(4) + 1 for _ in range(4)]
    alpha: NDArray[np.bool_] = np.zeros(total // 4, np.bool_)
    done = 0
    while done < total:
        repeats = stream.number(1)
        stop = min(done + 1 + stream.number(sizes[stream.number(2)]), total)
        pixels = slice(done // 4, stop // 4)  # alpha is the last value of each pixel
        if repeats:
            alpha[pixels] = stream.number(8) > 0
        else:
            alpha[pixels] = stream.values(stop - done)[3 - done % 4 :: 4] > 0
        done = stop
    return masks.encode(alpha.reshape(size_hw))


class _Bits:
    """Numbers of some bits each, one behind the other."""

    def __init__(self, content: Sequence[Any]) -> None:
        if len(content) > _MOST_BRUSH:
            raise ValueError(f"a brush region must have at most {_MOST_BRUSH:,} bytes, but has {len(content):,}")
        try:
            self._bits = np.unpackbits(np.array(content, np.uint8))
        except (TypeError, ValueError, OverflowError):
            raise ValueError("a brush region must be a list of numbers from 0 to 255") from None
        self._text = (self._bits + np.uint8(ord("0"))).tobytes()
        self._place = 0

    def number(self, bits: int) -> int:
        """The next number of this many bits."""
        return int(self._text[self._take(bits) : self._place], 2)

    def values(self, count: int) -> NDArray[np.uint8]:
        """The next bytes."""
        return np.packbits(self._bits[self._take(8 * count) : self._place])

    def _take(self, bits: int) -> int:
        start, self._place = self._place, self._place + bits
        if self._place > len(self._bits):
            raise ValueError("the run lengths of a brush region end in the middle")
        return start
