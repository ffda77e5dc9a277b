"""The JSON export of Label Studio (labelstud.io/guide/export): the regions of each task's latest annotation."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from segdist.core.records import Severity
from segdist.reading.drawn.brush import decode_brush
from segdist.reading.drawn.listed import DrawnImage, Shape, SizeHw
from segdist.reading.drawn.shapes import (
    Part,
    ShapeOptions,
    drawn_ellipse,
    masked,
    polygon,
    rectangle,
    turned,
    unknown,
    without_area,
)
from segdist.reading.geometry import PointXy, UnusableAnnotation, numbers
from segdist.reading.image_formats import IMAGE_SUFFIXES

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the names of uploads."""
_KNOWN = "brush, polygon, rectangle, ellipse"
_OF_THE_IMAGE = ("choices", "rating", "textarea", "taxonomy", "number", "datetime", "pairwise", "relation")
"""Results that say something about the image or a region, and draw nothing."""


def regions_of(task: object) -> list[dict[str, object]] | None:
    """What was drawn for a task; None where nobody has submitted anything.

    Raises:
        ValueError: it is no task.
    """
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise ValueError(f"a task must be an object with `data` and `annotations`, but is {task!r:.60}")
    try:
        results = latest(task)
        return None if results is None else [region for region in results if isinstance(region, dict)]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"`annotations` must be a list of objects with a list `result`, but: {error!r:.80}") from None


def latest(task: Mapping[str, Any]) -> Any:
    """The results of the annotation that was changed last and not cancelled; None where there is none."""
    done = [a for a in task.get("annotations") or task.get("completions") or () if not a.get("was_cancelled")]
    return max(done, key=lambda a: str(a.get("updated_at") or a.get("created_at") or ""))["result"] if done else None


def image_of(task: Mapping[str, object], regions: list[dict[str, object]], options: ShapeOptions) -> DrawnImage:
    """The image of a task with what was drawn on it."""
    sizes = [(r.get("original_height"), r.get("original_width")) for r in regions if r.get("original_height")]
    labelled = {str(r.get("id")) for r in regions if _label(r)}
    shapes = (
        _shape(number, region, options)
        for number, region in enumerate(regions, 1)
        if _draws(region) and (_label(region) or str(region.get("id")) not in labelled)
    )
    return DrawnImage(image_names(task), tuple(shapes), sizes[0] if sizes else None)


def image_names(task: Mapping[str, Any]) -> tuple[str, ...]:
    """What the image of a task may be called: a name that was given to it, or the file that a URL ends in."""
    data = task["data"]
    texts = [data.get("file_name"), data.get("image"), *data.values(), task.get("file_upload")]
    found: list[str] = []
    for text in texts:
        path = _path(text) if isinstance(text, str) else ""
        if path.lower().endswith(IMAGE_SUFFIXES):
            folder, _, name = path.rpartition("/")
            short = _UPLOADED.sub("", name)
            found += [path] if short == name else [path, f"{folder}/{short}".lstrip("/")]
    return tuple(dict.fromkeys(found)) or (str(data.get("image", "")),)


def _path(url: str) -> str:
    """The path of a URL; of a local file that Label Studio serves, the file's."""
    if url.startswith("data:"):
        return ""
    parts = urlsplit(url) if "://" in url or "?" in url else None
    served = parse_qs(parts.query).get("d", [""])[0] if parts else ""
    return served or (unquote(parts.path) if parts else url).lstrip("/")


def _draws(region: Mapping[str, object]) -> bool:
    kind = str(region.get("type", ""))
    return not kind.startswith(_OF_THE_IMAGE) and isinstance(region.get("value"), dict)


def _label(region: Mapping[str, object]) -> str:
    value = region.get("value")
    found = [v for k, v in value.items() if k.endswith("labels") and v] if isinstance(value, dict) else []
    names = found[0] if found else []
    return str(names[0]) if isinstance(names, list) and names else ""


def _shape(number: int, region: dict[str, Any], options: ShapeOptions) -> Shape:
    kind = str(region.get("type", "")).removesuffix("labels")
    value = region["value"]
    if not kind:  # of the control tag `Labels`: the shape shows in what it holds
        kind = "rectangle" if "width" in value else "ellipse" if "radiusX" in value else kind
        kind = "polygon" if "points" in value else "brush" if "rle" in value else kind
    name = f"{kind or 'region'} {number}"
    return Shape(_label(region), name, partial(_part, region, kind, options))


def _part(region: Mapping[str, Any], kind: str, options: ShapeOptions, size_hw: SizeHw, repairs: list[str]) -> Part:
    value = region["value"]
    if region.get("image_rotation"):
        message = f"it was drawn on an image turned by {region['image_rotation']!r:.20} degrees; turn the image back"
        raise UnusableAnnotation("shape-unknown", Severity.ERROR, message)
    if kind == "brush":
        try:
            return masked(decode_brush(value.get("rle", ()), size_hw))
        except ValueError as error:
            raise UnusableAnnotation("rle-malformed", Severity.ERROR, str(error)) from None
    height, width = size_hw
    if kind == "polygon":
        return polygon(corners(value, size_hw), size_hw, repairs)
    if kind == "rectangle":
        x, y, w, h, degrees = _numbers(value, ("x", "y", "width", "height", "rotation"), repairs)
        left, top, right, bottom = (
            v / 100 * side for v, side in zip((x, y, x + w, y + h), (width, height) * 2, strict=True)
        )
        box = turned([(left, top), (right, top), (right, bottom), (left, bottom)], (left, top), degrees)
        return rectangle(box, size_hw, repairs, options, degrees)
    if kind == "ellipse":
        x, y, rx, ry, degrees = _numbers(value, ("x", "y", "radiusX", "radiusY", "rotation"), repairs)
        x, y, rx, ry = (v / 100 * side for v, side in zip((x, y, rx, ry), (width, height) * 2, strict=True))
        return drawn_ellipse((x, y), (rx, ry), size_hw, repairs, degrees)
    raise without_area(kind) if kind in ("keypoint", "vector") else unknown(kind, _KNOWN)


def corners(value: Mapping[str, Any], size_hw: SizeHw) -> list[PointXy]:
    """The points of a polygon in pixels; they are written in percent of the sides.

    Raises:
        Problem: they are no pairs of numbers.
    """
    points = value.get("points")
    pairs = [numbers(p, "a point", []) for p in points] if isinstance(points, list) else [[]]
    if any(len(pair) != 2 for pair in pairs):
        raise UnusableAnnotation("polygon-odd-length", Severity.ERROR, "`points` must be a list of [x, y] in percent")
    return [(x / 100 * size_hw[1], y / 100 * size_hw[0]) for x, y in pairs]


def _numbers(value: Mapping[str, Any], keys: tuple[str, ...], repairs: list[str]) -> list[float]:
    """Percent of the image's sides, and degrees: a rotation that is missing is 0."""
    return numbers([value.get(key, 0 if key == "rotation" else None) for key in keys], "the shape", repairs)
