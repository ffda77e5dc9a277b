"""LabelMe's shapes as masks and boxes."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from segdist import masks
from segdist.data.drawn_shapes import circle, line
from segdist.data.geometry import Box, Point, Problem, box_from_xyxy, mask_from_segmentation, numbers
from segdist.data.label_maps import decode_values
from segdist.errors import DataError
from segdist.records import Instance, Rle, Severity

Part = tuple[Rle | None, Box]
"""What one shape covers: its mask, None where only the box is known, and its box."""


def joined(label: str, parts: list[Part], size_hw: tuple[int, int]) -> Instance:
    """The parts of a group as one instance; a part without a mask makes it one of which only the box is known."""
    lows_x, lows_y, highs_x, highs_y = zip(*(box for _, box in parts), strict=True)
    rles = [rle for rle, _ in parts if rle is not None]
    mask = masks.union(rles, size_hw=size_hw) if len(rles) == len(parts) else None
    return Instance(label, mask, (min(lows_x), min(lows_y), max(highs_x), max(highs_y)))


def part_of(shape: Mapping[str, Any], size_hw: tuple[int, int], options: Any, repairs: list[str]) -> Part:
    """Mask and box of one shape.

    Raises:
        Problem: it cannot be used.
    """
    kind = shape.get("shape_type") or "polygon"  # files of LabelMe 3 have none
    points = _points(shape.get("points"), repairs)
    if kind == "polygon":
        flat = [v for point in points for v in point]
        return _masked(mask_from_segmentation([flat], size_hw=size_hw, repairs=repairs))
    if kind == "rectangle":
        box_xyxy = _rectangle(points, size_hw, repairs)
        return (masks.from_box(box_xyxy, size_hw=size_hw) if options.rectangles == "masks" else None), box_xyxy
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(points[1][0] - points[0][0], points[1][1] - points[0][1]))
        (x, y), (height, width) = points[0], size_hw
        if min(x, y, width - x, height - y) < radius:
            repairs.append("the circle reaches outside the image and was cut at its border")
        return _masked(circle(points[0], radius, size_hw=size_hw))
    if kind in ("line", "linestrip") and options.line_width and len(points) > 1:
        return _masked(line(points, options.line_width, size_hw=size_hw))
    if kind == "mask" and points:
        return _masked(_pasted(shape.get("mask"), points[0], size_hw, repairs))
    if kind in ("line", "linestrip", "point", "points"):
        hint = "; set `line_width` to read lines" if kind.startswith("line") else ""
        raise Problem("shape-without-area", Severity.SKIPPED, f"a {kind} covers no area{hint}")
    message = f"the shape `{kind}` with {len(points)} point(s) is none of polygon, rectangle, circle, line, mask"
    raise Problem("shape-unknown", Severity.ERROR, message)


def _masked(rle: Rle) -> tuple[Rle, Box]:
    if rle.area == 0:
        raise Problem("mask-empty", Severity.SKIPPED, "the shape covers no pixel of the image")
    return rle, rle.box_xyxy


def _points(values: Any, repairs: list[str]) -> list[Point]:
    if not isinstance(values, list):
        raise Problem("number-invalid", Severity.ERROR, f"`points` must be a list of [x, y], but is {values!r:.40}")
    found = [numbers(point, "a point", repairs) for point in values]
    if any(len(point) != 2 for point in found):
        raise Problem("polygon-odd-length", Severity.ERROR, "every point must be [x, y]")
    return [(x, y) for x, y in found]


def _rectangle(points: list[Point], size_hw: tuple[int, int], repairs: list[str]) -> Box:
    """The box of two opposite corners, dragged in any direction, or of four corners."""
    if len(points) not in (2, 4):
        raise Problem(
            "box-malformed", Severity.ERROR, f"a rectangle must have two or four points, but has {len(points)}"
        )
    xs, ys = zip(*points, strict=True)
    return box_from_xyxy([min(xs), min(ys), max(xs), max(ys)], size_hw=size_hw, repairs=repairs)


def _pasted(encoded: Any, corner_xy: Point, size_hw: tuple[int, int], repairs: list[str]) -> Rle:
    """A mask that is stored as a PNG of its own box, put where it belongs."""
    try:
        values_HW = decode_values(base64.b64decode(encoded, validate=True), name="`mask`").values_HW
    except (TypeError, ValueError, DataError, binascii.Error) as error:
        message = f"`mask` must be a PNG in base64: {error}; save the annotation again"
        raise Problem("mask-unreadable", Severity.ERROR, message) from None
    x, y = (round(v) for v in corner_xy)
    height, width = values_HW.shape
    canvas_HW = np.zeros(size_hw, np.bool_)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + height, size_hw[0]), min(x + width, size_hw[1])
    if bottom > top and right > left:
        canvas_HW[top:bottom, left:right] = values_HW[top - y : bottom - y, left - x : right - x] > 0
    if (bottom - top, right - left) != (height, width):
        repairs.append("the mask reaches outside the image and was cut at its border")
    return masks.encode(canvas_HW)
