"""From masks to polygons that rasterise back to the same pixels, holes and several parts included."""

import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.records import Rle

Loop = list[tuple[int, int]]
"""Corners (x, y) of pixels along one closed boundary."""


def outlines(rle: Rle) -> list[Loop]:
    """The closed boundaries of a mask along pixel edges, outer ones and holes alike; filled by the even-odd rule.

    Only corners where the boundary turns are kept. Every row of corners has an even number of them, and so has every
    column; joining them two by two gives the horizontal and the vertical edges. Where two pixels touch at a corner
    only, boundaries cross there.
    """
    if rle.area == 0:
        return []
    rows, columns = masks.tight_cut(rle)
    mask_HW = masks.decode_cut(rle, (rows, columns), margin=1)
    edges_below = mask_HW[:-1] ^ mask_HW[1:]
    ys, xs = np.nonzero(edges_below[:, 1:] ^ edges_below[:, :-1])
    return _loops(xs + columns.start, ys + rows.start)


def single_polygon(loops: list[Loop]) -> NDArray[np.int64]:
    """All loops as one closed polygon of (N, 2) points, for formats that hold one polygon an object.

    Loops are joined by bridges of no width, walked once in each direction: rasterised, the two ways cancel out.
    """
    start = loops[0][0]
    points = [*loops[0]]
    for loop in loops[1:]:
        points += [start, *loop, loop[0]]
    return np.array(points, np.int64)


def _loops(xs: NDArray[np.int64], ys: NDArray[np.int64]) -> list[Loop]:
    """Walk from corner to corner, horizontally and vertically in turn; corners come row by row."""
    by_column = np.lexsort((ys, xs))
    across = np.empty(len(xs), np.int64)
    across[by_column[0::2]], across[by_column[1::2]] = by_column[1::2], by_column[0::2]
    vertical, x, y = across.tolist(), xs.tolist(), ys.tolist()
    seen, found = bytearray(len(x)), []
    for first in range(len(x)):
        loop: Loop = []
        corner = first
        while not seen[corner]:
            neighbour = corner ^ 1  # of the same row
            seen[corner] = seen[neighbour] = 1
            loop += [(x[corner], y[corner]), (x[neighbour], y[neighbour])]
            corner = vertical[neighbour]
        if loop:
            found.append(loop)
    return found
