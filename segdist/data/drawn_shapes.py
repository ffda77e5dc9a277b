"""Masks of shapes that are no polygon: circles, and lines of some width."""

import cv2
import numpy as np

from segdist import masks
from segdist.data.geometry import Point
from segdist.records import Rle

_FURTHEST = 30_000
"""OpenCV computes with sixteen bits before the point; what lies further out is drawn up to here."""


def circle(centre_xy: Point, radius: float, *, size_hw: tuple[int, int]) -> Rle:
    """The pixels whose centres lie within a circle."""
    ys, xs = np.ogrid[: size_hw[0], : size_hw[1]]
    squared_HW = (xs + 0.5 - centre_xy[0]) ** 2 + (ys + 0.5 - centre_xy[1]) ** 2
    return masks.encode(squared_HW <= radius**2)


def line(points_xy: list[Point], width: float, *, size_hw: tuple[int, int]) -> Rle:
    """The pixels along a line of straight pieces, `width` pixels wide and at least one, with round ends.

    OpenCV's own thickness is not the width in pixels in every version (5.0 draws 3 as 5), so distances are measured.
    """
    radius = max(width - 1, 0.0) / 2
    margin = int(np.ceil(radius)) + 1
    canvas_HW = np.ones((size_hw[0] + 2 * margin, size_hw[1] + 2 * margin), np.uint8)
    corners = np.clip(np.floor(np.array(points_xy, np.float64)) + margin, -_FURTHEST, _FURTHEST).astype(np.int32)
    cv2.polylines(canvas_HW, [corners.reshape(-1, 1, 2)], isClosed=False, color=0, thickness=1)
    distance_HW = cv2.distanceTransform(canvas_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return masks.encode((distance_HW <= radius)[margin:-margin, margin:-margin])
