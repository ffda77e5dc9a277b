"""VGG Image Annotator in: every region is an instance, of the class that one of its attributes names."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from segdist.core.records import ReportFinding, Severity
from segdist.formats.via.entries import ViaEntry, ViaRegion, parsed
from segdist.reading.drawn.listed import DrawnFormat, DrawnImage, DrawnOptions, Shape, SizeHw
from segdist.reading.drawn.shapes import (
    Part,
    ShapeOptions,
    drawn_ellipse,
    drawn_line,
    polygon,
    rectangle,
    unknown,
    without_area,
)
from segdist.reading.geometry import PointXy, UnusableAnnotation, numbers
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of
from segdist.reading.text_files import read_text

SUFFIXES = (".json", ".csv")
_USUAL = ("class", "label", "name", "category", "type", "object", "damage")
"""What people call the attribute that is the class, the likeliest first."""
_KNOWN = "polygon, rect, circle, ellipse, polyline"


class Options(DrawnOptions):
    """Where the JSON or CSV files are and what their shapes and attributes mean."""

    attribute: str = ""
    """Name of the region attribute that is the class; empty takes the only one, or the one called class or the like."""
    label: str = ""
    """The class of regions that no attribute names one for; empty makes each of them an error."""


class Format(DrawnFormat[Options]):
    """Reads projects and exported annotations of VIA 2 and VIA 1."""

    tool = "VIA JSON or CSV"

    def annotation_files(self, files: Listing) -> list[str]:
        """JSON files with images that have `filename` and `regions`, and CSV files with `region_shape_attributes`."""
        return looks_of(files).like("via", *SUFFIXES)

    def drawn(self, uri: str, report: ReportFinding) -> Iterable[DrawnImage]:
        """The images of one file."""
        entries = parsed(read_text(uri, report))
        attribute = self.options.attribute or _class_attribute(entries)
        return [_image(entry, attribute, self.options) for entry in entries]


def _class_attribute(entries: Sequence[ViaEntry]) -> str:
    """The attribute that is the class: the only one, one with a usual name, or the one that most regions have.

    Raises:
        ValueError: several are as likely.
    """
    found = Counter(
        name for e in entries for r in e.regions for name, v in r.attributes.items() if v not in ("", {}, None)
    )
    if len(found) < 2:
        return next(iter(found), "")
    by_name = {name.lower(): name for name in found}
    usual = [by_name[name] for name in _USUAL if name in by_name]
    if usual:
        return usual[0]
    raise ValueError(f"the class may be any of the attributes {', '.join(sorted(found))}: name it in `attribute`")


def _image(entry: ViaEntry, attribute: str, options: Options) -> DrawnImage:
    shapes = (
        Shape(_label(region, attribute) or options.label, f"region {number}", partial(_part, region.shape, options))
        for number, region in enumerate(entry.regions)
    )
    return DrawnImage((entry.filename,), tuple(shapes))


def _label(region: ViaRegion, attribute: str) -> str:
    """What the attribute says: text, or the only box that is ticked; "" where that is no one class."""
    value = region.attributes.get(attribute, "")
    if isinstance(value, dict):
        ticked = [name for name, is_ticked in value.items() if is_ticked]
        return str(ticked[0]) if len(ticked) == 1 else ""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _part(shape: Mapping[str, Any], options: ShapeOptions, size_hw: SizeHw, repairs: list[str]) -> Part:
    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        points = list(_points(shape, repairs))
        is_closed = kind == "polygon"
        return polygon(points, size_hw, repairs) if is_closed else drawn_line(points, size_hw, options, repairs)
    if kind == "rect":
        x, y, width, height = _numbers(shape, ("x", "y", "width", "height"), repairs)
        return rectangle([(x, y), (x + width, y + height)], size_hw, repairs, options)
    if kind == "circle":
        x, y, radius = _numbers(shape, ("cx", "cy", "r"), repairs)
        return drawn_ellipse((x, y), (radius, radius), size_hw, repairs)
    if kind == "ellipse":
        x, y, rx, ry = _numbers(shape, ("cx", "cy", "rx", "ry"), repairs)
        degrees = _numbers({"theta": shape.get("theta") or 0}, ("theta",), repairs)[0]
        return drawn_ellipse((x, y), (rx, ry), size_hw, repairs, degrees)
    raise without_area("point") if kind == "point" else unknown(kind, _KNOWN)


def _points(shape: Mapping[str, object], repairs: list[str]) -> Iterator[PointXy]:
    xs, ys = (numbers(shape.get(key), f"`{key}`", repairs) for key in ("all_points_x", "all_points_y"))
    if len(xs) != len(ys):
        message = f"`all_points_x` and `all_points_y` must be as long, but are {len(xs)} and {len(ys)}"
        raise UnusableAnnotation("polygon-odd-length", Severity.ERROR, message)
    return zip(xs, ys, strict=True)


def _numbers(shape: Mapping[str, Any], keys: tuple[str, ...], repairs: list[str]) -> list[float]:
    return numbers([shape.get(key) for key in keys], "the shape", repairs)
