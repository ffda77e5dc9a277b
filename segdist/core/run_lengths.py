"""Compressed COCO run lengths, of one mask or of many together, read with NumPy.

pycocotools trusts its input: counts that do not fill the image make it read past its buffer. So they are counted here
before it sees them. Five bits of a number a character (48 is added), least significant first; bit 0x20 says that the
number goes on, bit 0x10 of the last character is its sign; each count from the fourth on is relative to the one two
before (cocoapi, maskApi.c, rleFrString).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONGEST = 7
"""Characters of the largest number that is read; six are enough for an image of 2^29 pixels."""
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """What the counts of N masks say.

    Attributes:
        readable: (N,) whether they are such counts at all, none of them negative.
        pixels: (N,) of the whole image, by their sum; 0 where unreadable.
        areas: (N,) of the mask.
    """

    readable: Flags
    pixels: Integers
    areas: Integers


def run_lengths(counts: bytes) -> Integers:
    """The run lengths of one mask, zeros first; they need not fill an image, and may be negative.

    Raises:
        ValueError: these are no such counts.
    """
    chunks = np.frombuffer(counts, np.uint8) - np.uint8(48)
    if not len(chunks):
        return np.zeros(0, np.int64)
    if (chunks >= 64).any():
        wrong = counts[int(np.argmax(chunks >= 64))]
        raise ValueError(f"compressed RLE counts hold a character outside the COCO alphabet: {chr(wrong)!r}")
    number_ends = (chunks & 0x20) == 0
    if not number_ends[-1]:
        raise ValueError("compressed RLE counts end in the middle of a number")
    runs, _, short_enough = _numbers(chunks, number_ends, np.zeros(1, np.int64))
    if not short_enough[0]:
        raise ValueError("compressed RLE counts hold a number that no image has room for")
    for parity in (1, 2):
        runs[parity::2] = np.cumsum(runs[parity::2])
    return runs


def measure(counts: Sequence[bytes]) -> Measured:
    """Sum up the counts of each mask; `pycocotools.mask.area` (2.0.11) overflows on lists, at 256 pixels."""
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    written = np.flatnonzero(lengths > 0)
    size = len(counts)
    found = Measured(np.zeros(size, np.bool_), np.zeros(size, np.int64), np.zeros(size, np.int64))
    if len(written) == 0:
        return found
    ends = np.cumsum(lengths)[written]
    starts = ends - lengths[written]
    chunks = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)
    number_ends = (chunks & 0x20) == 0
    readable = np.logical_and.reduceat(chunks < 64, starts) & number_ends[ends - 1]
    number_ends[ends - 1] = True  # an unreadable mask must not swallow its neighbour
    values, first, short = _numbers(chunks, number_ends, starts)
    readable &= short
    amount = np.diff(first, append=len(values))
    runs_N2, row = _runs(values, first, amount)
    readable &= np.minimum.reduceat(runs_N2.min(axis=1), row) >= 0
    zeros, ones = np.add.reduceat(runs_N2, row).T
    found.readable[written] = readable
    found.pixels[written] = np.where(readable, zeros + ones, 0)
    found.areas[written] = np.where(readable, ones, 0)
    return found


def _numbers(chunks: NDArray[np.uint8], number_ends: Flags, mask_starts: Integers) -> tuple[Integers, Integers, Flags]:
    """The written numbers, the first of each mask, and for each mask whether all are short enough to be one."""
    last: Integers = np.flatnonzero(number_ends)
    start = np.r_[0, last[:-1] + 1]
    width = last - start + 1
    values = (chunks[start] & 0x1F).astype(np.int64)
    for place in range(1, LONGEST):
        longer = np.flatnonzero(width > place)
        values[longer] |= (chunks[start[longer] + place] & 0x1F).astype(np.int64) << (5 * place)
    negative = np.flatnonzero(chunks[last] & 0x10)
    values[negative] -= np.int64(1) << np.minimum(5 * width[negative], 60)
    first = np.searchsorted(start, mask_starts)
    return values, first, np.logical_and.reduceat(width <= LONGEST, first)


def _runs(values: Integers, first: Integers, amount: Integers) -> tuple[Integers, Integers]:
    """The run lengths of zeros (first column) and ones of each mask, and its first row.

    From the fourth on, a count has the run two before added: each column sums up, except that the very first count
    stands alone. A mask with an odd number of counts has a last run of no ones.
    """
    rows = (amount + 1) // 2
    row = np.cumsum(rows) - rows
    deltas_N2 = np.zeros((int(rows.sum()), 2), np.int64)
    place = np.arange(len(values)) + np.repeat(2 * row - first, amount)
    deltas_N2.reshape(-1)[place] = values
    alone = deltas_N2[row, 0].copy()
    deltas_N2[row, 0] = 0
    runs_N2 = np.cumsum(deltas_N2, axis=0)
    before = runs_N2[row] - deltas_N2[row]
    runs_N2 -= np.repeat(before, rows, axis=0)
    runs_N2[row, 0] = alone
    padded = (row + rows - 1)[amount % 2 == 1]
    runs_N2[padded, 1] = 0
    return runs_N2, row
