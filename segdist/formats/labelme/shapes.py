"""LabelMe's shapes as masks and boxes."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from segdist.core import masks
from segdist.core.errors import DataError
from segdist.core.records import Rle, Severity
from segdist.core.text import counted, short
from segdist.reading.drawn.shapes import (
    Part,
    ShapeOptions,
    drawn_ellipse,
    drawn_line,
    masked,
    polygon,
    rectangle,
    unknown,
    without_area,
)
from segdist.reading.geometry import PointXy, UnusableAnnotation, numbers
from segdist.reading.images import header_of
from segdist.reading.label_maps import decode_values

_KNOWN = "polygon, rectangle, circle, line, mask"


def part_of(shape: Mapping[str, object], options: ShapeOptions, size_hw: tuple[int, int], repairs: list[str]) -> Part:
    """Mask and box of one shape.

    Raises:
        Problem: it cannot be used.
    """
    kind = shape.get("shape_type") or "polygon"  # files of LabelMe 3 have none
    points = _points(shape.get("points"), repairs)
    if kind == "polygon":
        return polygon(points, size_hw, repairs)
    if kind == "rectangle":
        if len(points) not in (2, 4):
            message = f"a rectangle must have two or four points, but has {len(points)}"
            raise UnusableAnnotation("box-malformed", Severity.ERROR, message)
        return rectangle(points, size_hw, repairs, options)
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(points[1][0] - points[0][0], points[1][1] - points[0][1]))
        return drawn_ellipse(points[0], (radius, radius), size_hw, repairs)
    if kind in ("line", "linestrip"):
        return drawn_line(points, size_hw, options, repairs)
    if kind == "mask" and points:
        return masked(_pasted(shape.get("mask"), points[0], size_hw, repairs))
    raise (
        without_area(kind)
        if kind in ("point", "points")
        else unknown(f"{kind} of {counted(len(points), 'point')}", _KNOWN)
    )


def _points(values: object, repairs: list[str]) -> list[PointXy]:
    if not isinstance(values, list):
        raise UnusableAnnotation(
            "number-invalid", Severity.ERROR, f"`points` must be a list of [x, y], but is {short(values)}"
        )
    found = [numbers(point, "a point", repairs) for point in values]
    if any(len(point) != 2 for point in found):
        raise UnusableAnnotation("polygon-odd-length", Severity.ERROR, "every point must be [x, y]")
    return [(x, y) for x, y in found]


def _pasted(encoded: Any, corner_xy: PointXy, size_hw: tuple[int, int], repairs: list[str]) -> Rle:
    """A mask that is stored as a PNG of its own box, put where it belongs."""
    try:
        content = base64.b64decode(encoded, validate=True)
        if any(own > side for own, side in zip(header_of(content).size_hw, size_hw, strict=True)):
            raise ValueError(f"it must not be larger than its image, but is {header_of(content).size_hw}")
        values_HW = decode_values(content, name="`mask`").values_HW
    except (TypeError, ValueError, DataError, binascii.Error) as error:
        message = f"`mask` must be a PNG in base64: {error}; save the annotation again"
        raise UnusableAnnotation("mask-unreadable", Severity.ERROR, message) from None
    x, y = (round(v) for v in corner_xy)
    height, width = values_HW.shape
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + height, size_hw[0]), min(x + width, size_hw[1])
    if (bottom - top, right - left) != (height, width):
        repairs.append("the mask reaches outside the image and was cut at its border")
    if bottom <= top or right <= left:
        return masks.empty(size_hw)
    return masks.place(values_HW[top - y : bottom - y, left - x : right - x] > 0, (top, left), size_hw)
