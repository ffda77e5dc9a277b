"""The files of CVAT, kind "CVAT for images 1.1" (docs.cvat.ai/docs/dataset_management/formats/format-cvat)."""

from collections.abc import Iterator
from functools import partial
from xml.etree.ElementTree import Element

import numpy as np

from segdist.core import masks
from segdist.core.records import Rle, Severity
from segdist.core.text import counted
from segdist.reading.drawn.listed import DrawnImage, Shape, SizeHw
from segdist.reading.drawn.shapes import (
    Part,
    ShapeOptions,
    drawn_ellipse,
    drawn_line,
    masked,
    polygon,
    rectangle,
    turned,
    unknown,
    without_area,
)
from segdist.reading.geometry import PointXy, UnusableAnnotation, numbers

_KNOWN = "polygon, mask, box, ellipse, polyline"


def images_of(root: Element, options: ShapeOptions) -> Iterator[DrawnImage]:
    """The images of a file.

    Args:
        root: its root element.
        options: what shapes mean.

    Raises:
        ValueError: it is of another kind.
    """
    if root.tag != "annotations":
        raise ValueError(f"its root must be `annotations`, as in `CVAT for images 1.1`, but is `{root.tag:.40}`")
    images = list(root.iter("image"))
    if root.find("track") is not None:
        raise ValueError("it holds the tracks of a video; export it as `CVAT for images 1.1`, with the frames")
    if not images:
        raise ValueError("it must hold elements `image`, as `CVAT for images 1.1` does, but has none")
    for image in images:
        name, subset = image.attrib.get("name", ""), image.attrib.get("subset", "")
        size_hw = image.attrib.get("height"), image.attrib.get("width")
        shapes = (_shape(n, element, options) for n, element in enumerate(image, 1))
        yield DrawnImage((f"{subset}/{name}", name) if subset else (name,), tuple(shapes), size_hw, subset)


def _shape(number: int, element: Element, options: ShapeOptions) -> Shape:
    group = element.attrib.get("group_id")
    return Shape(
        label=element.attrib.get("label", ""),
        name=f"{element.tag} {number}",
        part=partial(_part, element, options),
        group=None if group in (None, "", "0") else group,
    )


def _part(element: Element, options: ShapeOptions, size_hw: SizeHw, repairs: list[str]) -> Part:
    kind = element.tag
    if kind == "polygon":
        return polygon(_points(element), size_hw, repairs)
    if kind == "mask":
        try:
            return masked(mask_of(element, size_hw))
        except (KeyError, ValueError, OverflowError) as error:
            raise UnusableAnnotation(
                "rle-malformed", Severity.ERROR, f"a mask must have rle, left, ...: {error}"
            ) from None
    if kind == "box":
        x1, y1, x2, y2 = (_number(element, side) for side in ("xtl", "ytl", "xbr", "ybr"))
        degrees = _number(element, "rotation", "0")
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        return rectangle(turned(corners, ((x1 + x2) / 2, (y1 + y2) / 2), degrees), size_hw, repairs, options, degrees)
    if kind == "ellipse":
        x, y, rx, ry = (_number(element, side) for side in ("cx", "cy", "rx", "ry"))
        return drawn_ellipse((x, y), (rx, ry), size_hw, repairs, _number(element, "rotation", "0"))
    if kind == "polyline":
        return drawn_line(_points(element), size_hw, options, repairs)
    raise without_area(kind) if kind in ("points", "skeleton", "tag") else unknown(kind, _KNOWN)


def mask_of(element: Element, size_hw: SizeHw) -> Rle:
    """The mask that is given by run lengths, row by row, of a part of the image, of unset pixels first.

    Raises:
        KeyError, ValueError, OverflowError: it lacks a number, or does not fit the image.
    """
    left, top, width, height = (int(float(element.attrib[k])) for k in ("left", "top", "width", "height"))
    inside = min(left, top) >= 0 and left + width <= size_hw[1] and top + height <= size_hw[0]
    if not inside or min(width, height) < 1:
        raise ValueError(f"a mask of {width} x {height} at ({left}, {top}) must lie in its image")
    runs = np.array(element.attrib["rle"].replace(",", " ").split(), np.float64)
    if not ((runs >= 0) & (runs <= width * height)).all() or runs.sum() != width * height:  # false for NaN
        raise ValueError(f"a mask of {width} x {height} must have runs that sum to its pixels, not to {runs.sum():.0f}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
    return masks.place(values.reshape(height, width), (top, left), size_hw)


def corners_of(element: Element) -> list[float]:
    """The corners of a polygon or line: x, y, x, y, ...

    Raises:
        KeyError, ValueError: there are none, or one is no number.
    """
    return [float(v) for point in element.attrib["points"].split(";") for v in point.split(",")]


def _points(element: Element) -> list[PointXy]:
    try:
        values = numbers(corners_of(element), "`points`", [])
    except (KeyError, ValueError) as error:
        raise UnusableAnnotation(
            "number-invalid", Severity.ERROR, f"`points` must be x,y;x,y;..., but: {error}"
        ) from None
    if len(values) % 2:
        raise UnusableAnnotation(
            "polygon-odd-length",
            Severity.ERROR,
            f"`points` must be x,y;x,y;..., but has {counted(len(values), 'number')}",
        )
    return list(zip(values[::2], values[1::2], strict=True))


def _number(element: Element, name: str, default: str = "") -> float:
    return _floats([element.attrib.get(name, default)])[0]


def _floats(texts: list[str]) -> list[float]:
    try:
        found = [float(text) for text in texts]
    except ValueError:
        found = [float("nan")]
    if not np.isfinite(found).all():
        raise UnusableAnnotation(
            "number-invalid", Severity.ERROR, f"numbers must be finite, but are `{','.join(texts):.60}`"
        )
    return found
