"""Polygons and boxes from outside: checked, clipped to the image, repaired where the meaning is plain.

`repairs` collects, in words, what was repaired. What cannot be repaired is an `UnusableAnnotation`.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.bounded_json import parse_json
from segdist.core.records import MAX_PIXELS, Box, Rle, Severity
from segdist.core.text import counted, short
from segdist.reading.codes import declared

PointXy = tuple[float, float]
_MANY = 64
"""Numbers from which on NumPy is quicker."""
TOLERANCE = 1.0
"""Pixels that a coordinate may lie outside the image by rounding alone."""


class UnusableAnnotation(Exception):  # noqa: N818 - becomes a finding, never reaches the user as an exception
    """Why an annotation cannot be used, and whether the run must stop for it."""

    def __init__(self, code: str, severity: Severity, message: str) -> None:
        super().__init__(message)
        self.code, self.severity, self.message = declared(code), severity, message


def numbers(values: object, what: str, repairs: list[str]) -> list[float]:
    """A flat list of finite numbers; numbers written as strings are repaired.

    Raises:
        Problem: anything else.
    """
    if not isinstance(values, list):
        raise UnusableAnnotation(
            "number-invalid", Severity.ERROR, f"{what} must be a list of numbers, but is {short(values)}"
        )
    if len(values) > _MANY and {*map(type, values)} <= {int, float}:
        with suppress(OverflowError):  # a whole number of hundreds of digits: the loop below names it
            array = np.array(values, np.float64)
            if np.isfinite(array).all():
                return list(array.tolist())
    found = []
    for value in values:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise UnusableAnnotation(
                "number-invalid", Severity.ERROR, f"{what} must hold finite numbers, but has {short(value)}"
            )
        found.append(number)
    if any(isinstance(v, str) for v in values):
        repairs.append(f"numbers of {what} were written as strings")
    return found


def mask_from_segmentation(segmentation: object, *, size_hw: tuple[int, int], repairs: list[str]) -> Rle:
    """The mask of a COCO `segmentation`: polygons or either kind of RLE.

    Polygons that leave the image are rasterised as they are and the raster is cut, as by pycocotools; that is reported.

    Raises:
        Problem: it is malformed, or nothing of it lies in the image.
    """
    segmentation = _unquoted(segmentation, repairs)
    rle = (
        _from_rle(segmentation, size_hw)
        if isinstance(segmentation, dict)
        else _from_polygons(segmentation, size_hw, repairs)
    )
    if rle.area == 0:
        raise UnusableAnnotation("mask-empty", Severity.SKIPPED, "the mask covers no pixel of the image")
    return rle


def box_from_xywh(values: object, *, size_hw: tuple[int, int], repairs: list[str]) -> Box:
    """A COCO box (x, y, width, height) as xyxy, clipped to the image.

    Raises:
        Problem: it is malformed, or nothing of it lies in the image.
    """
    found = xywh(values, repairs=repairs)
    return _fitted(list(found), _corners(found), size_hw, repairs)


def box_as_written(values: object, *, repairs: list[str]) -> Box:
    """The same wherever it lies and however small it is.

    Raises:
        Problem: it is malformed.
    """
    return _corners(xywh(values, repairs=repairs))


def xywh(values: object, *, repairs: list[str]) -> Box:
    """The four numbers of a COCO box (x, y, width, height), whatever they say.

    Raises:
        Problem: there are not four finite numbers.
    """
    found = numbers(_listed(values, repairs), "bbox", repairs)
    if len(found) != 4:
        raise UnusableAnnotation(
            "box-malformed",
            Severity.ERROR,
            f"bbox must be [x, y, width, height], but has {counted(len(found), 'number')}",
        )
    return found[0], found[1], found[2], found[3]


def box_from_xyxy(values: object, *, size_hw: tuple[int, int], repairs: list[str]) -> Box:
    """A box given as corners (x1, y1, x2, y2), clipped to the image.

    Raises:
        Problem: it is malformed, or nothing of it lies in the image.
    """
    found = numbers(values, "a box", repairs)
    if len(found) != 4:
        raise UnusableAnnotation(
            "box-malformed", Severity.ERROR, f"a box must be [x1, y1, x2, y2], but has {counted(len(found), 'number')}"
        )
    x1, y1, x2, y2 = found
    if x2 < x1 or y2 < y1:
        raise UnusableAnnotation(
            "box-malformed", Severity.ERROR, f"`x1 <= x2 and y1 <= y2` must hold, but a box is {found}"
        )
    return _fitted(found, (x1, y1, x2, y2), size_hw, repairs)


def _corners(found: Box) -> Box:
    x, y, width, height = found
    if width < 0 or height < 0:
        message = f"bbox must not have negative width or height, but is {list(found)}"
        raise UnusableAnnotation("box-malformed", Severity.ERROR, message)
    return x, y, x + width, y + height


def _fitted(written: list[float], whole: Box, size_hw: tuple[int, int], repairs: list[str]) -> Box:
    clipped = clip_box(whole, size_hw)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise UnusableAnnotation("box-empty", Severity.SKIPPED, f"the box {written} covers nothing of the image")
    if max(abs(a - b) for a, b in zip(whole, clipped, strict=True)) > TOLERANCE:
        repairs.append(f"the box {written} reaches outside the image and was clipped")
    return clipped


def _listed(values: object, repairs: list[str]) -> Any:
    """A box that was written as an object, as a list."""
    for keys in (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height")):
        if isinstance(values, dict) and set(keys) <= set(values):
            repairs.append(f"the box was written as an object with {', '.join(keys)}")
            return [values[key] for key in keys]
    return values


def clip_box(box_xyxy: Sequence[float], size_hw: tuple[int, int]) -> Box:
    """The part of a box inside the image; for a box outside of it, the nearest place of no size."""
    height, width = size_hw
    x1, x2 = (min(max(v, 0.0), float(width)) for v in (box_xyxy[0], box_xyxy[2]))
    y1, y2 = (min(max(v, 0.0), float(height)) for v in (box_xyxy[1], box_xyxy[3]))
    return x1, y1, x2, y2


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where both are of no size."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / whole if whole > 0 else 0.0


def crosses_itself(
    values: NDArray[np.float64],
    starts: NDArray[np.int64],
    areas: NDArray[np.int64],
    numbers: Sequence[int] | None = None,
) -> NDArray[np.bool_]:
    """Which polygons cross themselves, known by their signed area (the shoelace formula).

    Loops of opposite sense cancel in it, and rasterised they do not.

    Args:
        values: x, y, x, y, ... of all polygons, one behind the other.
        starts: where each begins in `values`.
        areas: pixels of each of the chosen ones.
        numbers: the chosen ones; all by default.
    """
    chosen = np.arange(len(starts)) if numbers is None else np.asarray(numbers, np.int64)
    x, y = values[0::2], values[1::2]
    first = starts // 2
    following = np.arange(1, len(x) + 1)
    following[np.r_[first[1:], len(x)] - 1] = first
    dx, dy = x[following] - x, y[following] - y
    signed = np.add.reduceat(x * y[following] - x[following] * y, first)[chosen] / 2
    outline = np.add.reduceat(np.hypot(dx, dy), first)[chosen]
    return np.asarray(np.abs(areas - np.abs(signed)) > outline + 0.2 * areas)  # rasterising moves half the outline


def polygons_cross(segmentation: Sequence[object], size_hw: tuple[int, int]) -> bool:
    """Whether any polygon of a segmentation that lies inside the image crosses itself."""
    parts = [part for part in _polygons(segmentation, []) if len(part) >= 6]
    if not parts:
        return False
    starts = np.cumsum([0, *map(len, parts[:-1])])
    return bool(crosses_itself(np.concatenate(parts), starts, masks.polygon_areas(parts, size_hw=size_hw)).any())


def _unquoted(segmentation: object, repairs: list[str]) -> object:
    """A segmentation that was written as text, as the lists or the object that the text means."""
    if not isinstance(segmentation, str):
        return segmentation
    try:
        found = parse_json(segmentation)
    except ValueError:
        return segmentation
    repairs.append("the segmentation was written as text")
    return found


def _from_rle(segmentation: dict[str, object], size_hw: tuple[int, int]) -> Rle:
    try:
        return masks.from_coco(segmentation, size_hw=size_hw)
    except ValueError as error:
        raise UnusableAnnotation("rle-malformed", Severity.ERROR, str(error)) from None


def _from_polygons(segmentation: object, size_hw: tuple[int, int], repairs: list[str]) -> Rle:
    polygons = _polygons(segmentation, repairs)
    usable = [p for p in polygons if len(p) >= 6]
    if not usable:
        raise UnusableAnnotation(
            "polygon-too-short", Severity.SKIPPED, "a polygon needs at least three points, but has fewer"
        )
    if len(usable) < len(polygons):
        repairs.append(f"without {counted(len(polygons) - len(usable), 'part')} of fewer than three points")
    points_P2 = np.concatenate(usable).reshape(-1, 2)
    size_wh = np.array(size_hw[::-1])
    if (points_P2.max(axis=0) < 0).any() or (points_P2.min(axis=0) > size_wh).any():
        raise UnusableAnnotation("polygon-outside", Severity.SKIPPED, "the polygon lies outside the image")
    note_what_is_cut(points_P2, "polygon", size_hw=size_hw, repairs=repairs)
    try:
        return masks.from_polygons(usable, size_hw=size_hw)
    except ValueError as error:
        raise UnusableAnnotation("polygon-too-large", Severity.ERROR, str(error)) from None


def note_what_is_cut(
    points_P2: NDArray[np.float64], what: str, *, size_hw: tuple[int, int], repairs: list[str]
) -> None:
    """Say where a shape that spans these points (x, y) reaches out of its image, whose border cuts it."""
    furthest = max(-points_P2.min(), (points_P2 - np.array(size_hw[::-1])).max())
    if furthest > 0:
        repairs.append(f"the {what} reaches {furthest:.2g} pixels outside the image and was cut at its border")


def _polygons(segmentation: object, repairs: list[str]) -> list[NDArray[np.float64]]:
    """The polygons of a segmentation, each as x, y, x, y, ..."""
    parts = _parts(segmentation, repairs)
    points = max(len(parts), sum(len(part) for part in parts if isinstance(part, list)) // 2)
    if points > masks.MOST_POINTS:
        message = f"polygons of a mask must have at most {masks.MOST_POINTS:,} points, but have {points:,}"
        raise UnusableAnnotation("polygon-too-large", Severity.ERROR, message)
    return [_polygon(part, repairs) for part in parts]


def _parts(segmentation: object, repairs: list[str]) -> list[object]:
    """The polygons of a segmentation, also when it is a single one that was not put into a list."""
    if not isinstance(segmentation, list):
        raise UnusableAnnotation(
            "segmentation-malformed",
            Severity.ERROR,
            f"segmentation must be a list of polygons or an RLE, but is {short(segmentation)}",
        )
    flat = all(isinstance(v, int | float | str) for v in segmentation)
    pairs = all(isinstance(v, list) and len(v) == 2 and not isinstance(v[0], list) for v in segmentation)
    if flat or (pairs and len(segmentation) > 2):
        repairs.append("the polygon was not put into a list")
        return [segmentation]
    return segmentation


def _polygon(part: object, repairs: list[str]) -> NDArray[np.float64]:
    if isinstance(part, list) and part and all(isinstance(point, list) and len(point) == 2 for point in part):
        repairs.append("the polygon was written as [x, y] pairs")
        part = [v for point in part for v in point]
    values = numbers(part, "polygon", repairs)
    if len(values) % 2:
        message = f"a polygon must have x and y for each point, but has {counted(len(values), 'number')}"
        raise UnusableAnnotation("polygon-odd-length", Severity.ERROR, message)
    return np.array(values, np.float64)


def stated_size(height: Any, width: Any, *, most: float = MAX_PIXELS) -> tuple[int, int] | None:
    """Height and width as a file states them; None where they are no whole numbers above 0.

    Raises:
        Problem: they are those of an image of more than `most` pixels, which nobody can have annotated.
    """
    try:
        sides = [-1.0 if isinstance(side, bool) else float(side) for side in (height, width)]
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(side.is_integer() and side > 0 for side in sides):  # false for NaN and infinity
        return None
    if sides[0] * sides[1] > most:
        message = f"`height` x `width` must be at most {most:,} pixels, but is {sides[0]:g} x {sides[1]:g}"
        raise UnusableAnnotation("image-size-invalid", Severity.ERROR, message)
    return int(sides[0]), int(sides[1])


def cut_out(box_xyxy: Sequence[float], size_hw: tuple[int, int], *, margin: float = 0.0) -> tuple[slice, slice]:
    """Rows and columns of a box, widened by a share of its sides, inside the image; at least one pixel."""
    x1, y1, x2, y2 = box_xyxy
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    rows = _span(y1 - dy, y2 + dy, size_hw[0])
    return rows, _span(x1 - dx, x2 + dx, size_hw[1])


def _span(low: float, high: float, size: int) -> slice:
    start = min(max(int(np.floor(low)), 0), size - 1)
    return slice(start, max(min(int(np.ceil(high)), size), start + 1))
