"""Shapes that people draw, as masks and boxes: polygons, rectangles, circles, ellipses, and lines of some width."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from segdist.core import masks
from segdist.core.records import Box, Instance, Rle, Severity
from segdist.core.spec import Strict
from segdist.reading.geometry import (
    PointXy,
    UnusableAnnotation,
    box_from_xyxy,
    mask_from_segmentation,
    note_what_is_cut,
)

Part = tuple[Rle | None, Box]
"""What one shape covers: its mask, None where only the box is known, and its box."""
_FURTHEST = 30_000
"""OpenCV computes with sixteen bits before the point; what lies further out is drawn up to here."""

_ENDLESS = 1e9
"""Pixels: what is larger or further away is as if it were so."""
_AT_ONCE = 1 << 22
"""Pixels that are computed together."""


class ShapeOptions(Strict):
    """What shapes mean that are no outline of an object."""

    rectangles: Literal["boxes", "masks"] = "boxes"
    """boxes: a rectangle is a box whose mask is not known. masks: it is filled."""
    line_width: float = Field(default=0.0, ge=0)
    """Pixels that lines are wide; 0 leaves them out, because a line covers no area."""


def joined(label: str, parts: Sequence[Part], size_hw: tuple[int, int]) -> Instance:
    """The parts of a group as one instance; a part without a mask makes it one of which only the box is known."""
    lows_x, lows_y, highs_x, highs_y = zip(*(box for _, box in parts), strict=True)
    rles = [rle for rle, _ in parts if rle is not None]
    mask = masks.union(rles, size_hw=size_hw) if len(rles) == len(parts) else None
    return Instance(label, mask, (min(lows_x), min(lows_y), max(highs_x), max(highs_y)))


def masked(rle: Rle) -> tuple[Rle, Box]:
    """A mask as a part.

    Raises:
        Problem: it is empty.
    """
    if rle.area == 0:
        raise UnusableAnnotation("mask-empty", Severity.SKIPPED, "the shape covers no pixel of the image")
    return rle, rle.box_xyxy


def polygon(points: Sequence[PointXy], size_hw: tuple[int, int], repairs: list[str]) -> Part:
    """An outline that is closed.

    Raises:
        Problem: it has fewer than three points, or nothing of it lies in the image.
    """
    flat = [v for point in points for v in point]
    return masked(mask_from_segmentation([flat], size_hw=size_hw, repairs=repairs))


def rectangle(
    corners: Sequence[PointXy],
    size_hw: tuple[int, int],
    repairs: list[str],
    options: ShapeOptions,
    degrees: float = 0.0,
) -> Part:
    """Two opposite corners, dragged in any direction, or all of them.

    Args:
        corners: as they are drawn.
        size_hw: of the image.
        repairs: takes what was repaired.
        options: whether it is filled.
        degrees: that they are turned by already: only then is a rectangle more than its box.

    Raises:
        Problem: nothing of it lies in the image.
    """
    xs, ys = zip(*corners, strict=True)
    box_xyxy = box_from_xyxy([min(xs), min(ys), max(xs), max(ys)], size_hw=size_hw, repairs=repairs)
    if options.rectangles == "boxes":
        return None, box_xyxy
    return polygon(corners, size_hw, repairs) if degrees % 90 else (masks.from_box(box_xyxy, size_hw=size_hw), box_xyxy)


def turned(points: Sequence[PointXy], about: PointXy, degrees: float) -> list[PointXy]:
    """Points turned clockwise, as they appear on the screen."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    x, y = about
    return [(x + (px - x) * cosine - (py - y) * sine, y + (px - x) * sine + (py - y) * cosine) for px, py in points]


def drawn_ellipse(
    centre_xy: PointXy, radii_xy: PointXy, size_hw: tuple[int, int], repairs: list[str], degrees: float = 0.0
) -> Part:
    """An ellipse, or a circle whose radii are equal.

    Raises:
        UnusableAnnotation: it covers no pixel of the image.
    """
    found = masked(ellipse(centre_xy, radii_xy, degrees, size_hw=size_hw))
    ends = turned([(radii_xy[0], 0.0), (0.0, radii_xy[1])], (0.0, 0.0), degrees)
    reach_2 = np.minimum(np.hypot(*np.array(ends, np.float64)), _ENDLESS)
    corners_22 = np.array([centre_xy - reach_2, centre_xy + reach_2])
    note_what_is_cut(corners_22, "ellipse", size_hw=size_hw, repairs=repairs)
    return found


def ellipse(centre_xy: PointXy, radii_xy: PointXy, degrees: float = 0.0, *, size_hw: tuple[int, int]) -> Rle:
    """The pixels whose centres lie within an ellipse that is turned clockwise by some degrees."""
    (x, y), (rx, ry) = (tuple(min(max(v, -_ENDLESS), _ENDLESS) for v in pair) for pair in (centre_xy, radii_xy))
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    reach_x, reach_y = np.hypot(rx * cosine, ry * sine) + 1, np.hypot(rx * sine, ry * cosine) + 1
    left, right = (int(min(max(v, 0), size_hw[1])) for v in (x - reach_x, x + reach_x + 1))
    top, bottom = (int(min(max(v, 0), size_hw[0])) for v in (y - reach_y, y + reach_y + 1))
    if min(rx, ry) <= 0 or left >= right or top >= bottom:
        return masks.empty(size_hw)
    parts, step = [], max(_AT_ONCE // (bottom - top), 1)
    for start in range(left, right, step):  # some columns at a time: a file may say that its image is very large
        ys, xs = np.ogrid[top:bottom, start : min(start + step, right)]
        rightward, down = xs + 0.5 - x, ys + 0.5 - y
        along_HW, across_HW = rightward * cosine + down * sine, down * cosine - rightward * sine
        inside_HW = (along_HW * ry) ** 2 + (across_HW * rx) ** 2 <= (rx * ry) ** 2
        parts.append(masks.place(inside_HW, (top, start), size_hw))
    return masks.union(parts, size_hw=size_hw)


def drawn_line(points: list[PointXy], size_hw: tuple[int, int], options: ShapeOptions, repairs: list[str]) -> Part:
    """A line of the width that the options give it.

    Raises:
        Problem: they give it none, or it lies outside the image.
    """
    if not options.line_width or len(points) < 2:
        raise without_area("line")
    found = masked(line(points, options.line_width, size_hw=size_hw))
    note_what_is_cut(np.array(points, np.float64), "line", size_hw=size_hw, repairs=repairs)
    return found


def line(points_xy: list[PointXy], width: float, *, size_hw: tuple[int, int]) -> Rle:
    """The pixels along a line of straight pieces, `width` pixels wide and at least one, with round ends.

    OpenCV's own thickness is not the width in pixels in every version (5.0 draws 3 as 5), so distances are measured.
    """
    radius = max(width - 1, 0.0) / 2
    margin = int(np.ceil(radius)) + 1
    corners = np.clip(np.floor(np.array(points_xy, np.float64)), -_FURTHEST, _FURTHEST).astype(np.int32)
    (left, top), (right, bottom) = (corners.min(axis=0) - margin).tolist(), (corners.max(axis=0) + margin + 1).tolist()
    left, top = max(left, -margin), max(top, -margin)
    right, bottom = min(right, size_hw[1] + margin), min(bottom, size_hw[0] + margin)
    if min(right, size_hw[1]) <= max(left, 0) or min(bottom, size_hw[0]) <= max(top, 0):
        return masks.empty(size_hw)
    canvas_HW = np.ones((bottom - top, right - left), np.uint8)  # around the line alone
    cv2.polylines(canvas_HW, [(corners - (left, top)).reshape(-1, 1, 2)], isClosed=False, color=0, thickness=1)
    distance_HW = cv2.distanceTransform(canvas_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    own = slice(max(-top, 0), size_hw[0] - top), slice(max(-left, 0), size_hw[1] - left)
    return masks.place((distance_HW <= radius)[own], (max(top, 0), max(left, 0)), size_hw)


def without_area(kind: str) -> UnusableAnnotation:
    """Why a shape of a kind that covers nothing was left out."""
    hint = "; set `line_width` to read lines" if "line" in kind else ""
    return UnusableAnnotation("shape-without-area", Severity.SKIPPED, f"a {kind} covers no area{hint}")


def unknown(kind: object, known: str) -> UnusableAnnotation:
    """Why a shape of another kind cannot be used."""
    return UnusableAnnotation(
        "shape-unknown", Severity.ERROR, f"the shape `{kind!s:.40}` is none of {known}; export it as one"
    )
