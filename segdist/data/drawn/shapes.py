"""Shapes that people draw, as masks and boxes: polygons, rectangles, circles, ellipses, and lines of some width."""

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field

from segdist import masks
from segdist.data.geometry import Box, Point, Problem, box_from_xyxy, mask_from_segmentation
from segdist.records import Instance, Rle, Severity
from segdist.spec import Strict

Part = tuple[Rle | None, Box]
"""What one shape covers: its mask, None where only the box is known, and its box."""
_FURTHEST = 30_000
"""OpenCV computes with sixteen bits before the point; what lies further out is drawn up to here."""


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
        raise Problem("mask-empty", Severity.SKIPPED, "the shape covers no pixel of the image")
    return rle, rle.box_xyxy


def polygon(points: Sequence[Point], size_hw: tuple[int, int], repairs: list[str]) -> Part:
    """An outline that is closed.

    Raises:
        Problem: it has fewer than three points, or nothing of it lies in the image.
    """
    flat = [v for point in points for v in point]
    return masked(mask_from_segmentation([flat], size_hw=size_hw, repairs=repairs))


def rectangle(
    corners: Sequence[Point], size_hw: tuple[int, int], repairs: list[str], options: ShapeOptions, degrees: float = 0.0
) -> Part:
    """Two opposite corners, dragged in any direction, or all of them.

    Args:
        corners: as they are drawn.
        size_hw: of the image.
        repairs: takes what was mended.
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


def turned(points: Sequence[Point], about: Point, degrees: float) -> list[Point]:
    """Points turned clockwise, as they appear on the screen."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    x, y = about
    return [(x + (px - x) * cosine - (py - y) * sine, y + (px - x) * sine + (py - y) * cosine) for px, py in points]


def circle(centre_xy: Point, radius: float, *, size_hw: tuple[int, int]) -> Rle:
    """The pixels whose centres lie within a circle."""
    return ellipse(centre_xy, (radius, radius), size_hw=size_hw)


def ellipse(centre_xy: Point, radii_xy: Point, degrees: float = 0.0, *, size_hw: tuple[int, int]) -> Rle:
    """The pixels whose centres lie within an ellipse that is turned clockwise by some degrees."""
    if min(radii_xy) <= 0:
        return masks.empty(size_hw)
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    ys, xs = np.ogrid[: size_hw[0], : size_hw[1]]
    right, down = xs + 0.5 - centre_xy[0], ys + 0.5 - centre_xy[1]
    along_HW, across_HW = right * cosine + down * sine, down * cosine - right * sine
    return masks.encode(
        (along_HW * radii_xy[1]) ** 2 + (across_HW * radii_xy[0]) ** 2 <= (radii_xy[0] * radii_xy[1]) ** 2
    )


def drawn_line(points: list[Point], size_hw: tuple[int, int], options: ShapeOptions) -> Part:
    """A line of the width that the options give it.

    Raises:
        Problem: they give it none, or it lies outside the image.
    """
    if not options.line_width or len(points) < 2:
        raise without_area("line")
    return masked(line(points, options.line_width, size_hw=size_hw))


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


def without_area(kind: str) -> Problem:
    """Why a shape of a kind that covers nothing was left out."""
    hint = "; set `line_width` to read lines" if "line" in kind else ""
    return Problem("shape-without-area", Severity.SKIPPED, f"a {kind} covers no area{hint}")


def unknown(kind: Any, known: str) -> Problem:
    """Why a shape of another kind cannot be used."""
    return Problem("shape-unknown", Severity.ERROR, f"the shape `{kind!s:.40}` is none of {known}; export it as one")
