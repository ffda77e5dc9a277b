"""CreateML's JSON: a list of images, each with labelled boxes given by their centre, in pixels."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from segdist.core.records import ReportFinding, Severity
from segdist.reading.drawn.listed import DrawnFormat, DrawnImage, DrawnOptions, Shape, SizeHw
from segdist.reading.drawn.shapes import Part, ShapeOptions, rectangle
from segdist.reading.geometry import UnusableAnnotation, numbers
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of
from segdist.reading.text_files import read_json

__all__ = ["Format", "Options", "recognises"]


class Options(DrawnOptions):
    """Where the JSON files are and what their boxes mean."""


class Format(DrawnFormat[Options]):
    """Reads every image that a file lists."""

    tool = "CreateML JSON"

    def annotation_files(self, files: Listing) -> list[str]:
        """JSON files with a list of images and their annotations."""
        return looks_of(files).like("createml", ".json")

    def drawn(self, uri: str, report: ReportFinding) -> Iterable[DrawnImage]:
        """The images of one file."""
        return _images(read_json(uri, report), self.options)


def recognises(files: Listing) -> bool:
    """Whether there is such a file."""
    return bool(looks_of(files).like("createml", ".json"))


def _images(content: object, options: ShapeOptions) -> Iterator[DrawnImage]:
    for number, entry in enumerate(content if isinstance(content, list) else (), 1):
        is_object = isinstance(entry, dict)
        name = (entry.get("image") or entry.get("imagefilename")) if is_object else None
        listed = entry.get("annotations", entry.get("annotation")) if is_object else None
        if not isinstance(name, str) or not isinstance(listed, list):
            raise ValueError(f"entry {number} must have a name `image` and a list `annotations`, but is {entry!r:.60}")
        yield DrawnImage((name,), tuple(_shape(n, one, options) for n, one in enumerate(listed, 1)))


def _shape(number: int, one: Any, options: ShapeOptions) -> Shape:
    label = one.get("label") if isinstance(one, dict) else ""
    return Shape(label if isinstance(label, str) else "", f"box {number}", partial(_box, one, options))


def _box(one: Mapping[str, object], options: ShapeOptions, size_hw: SizeHw, repairs: list[str]) -> Part:
    written = one.get("coordinates")
    if not isinstance(written, dict):
        raise UnusableAnnotation(
            "box-malformed", Severity.ERROR, f"`coordinates` must be an object, but is {written!r:.40}"
        )
    x, y, width, height = numbers([written.get(k) for k in ("x", "y", "width", "height")], "`coordinates`", repairs)
    if min(width, height) < 0:
        raise UnusableAnnotation(
            "box-malformed", Severity.ERROR, f"a box must not have negative sides, but has {width}, {height}"
        )
    corners = [(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)]
    return rectangle(corners, size_hw, repairs, options)
