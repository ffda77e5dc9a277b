"""One XML file of Pascal VOC as values; nothing in it is trusted."""

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element


@dataclass(frozen=True)
class XmlObject:
    """One object as it is written.

    Attributes:
        name: of the class; "" where there is none.
        corners: xmin, ymin, xmax, ymax as text; None for one that is missing.
        is_difficult: hard to recognise, and left out of VOC's evaluation.
        polygon: x1, y1, x2, y2, ... as text, as some tools add them; empty where there is none.
    """

    name: str
    corners: tuple[str | None, ...]
    is_difficult: bool
    polygon: tuple[str, ...]


@dataclass(frozen=True)
class XmlFile:
    """One annotated image.

    Attributes:
        filename: of the image; "" where it is not written.
        size_hw: height and width as text; None where they are missing.
        is_segmented: whether a mask image belongs to it.
        objects: in order.
    """

    filename: str
    size_hw: tuple[str | None, str | None]
    is_segmented: bool
    objects: tuple[XmlObject, ...]


def annotation_of(root: Element) -> XmlFile | None:
    """The content of a file by its root element, or None where that is no `annotation`."""
    if root.tag != "annotation":
        return None
    return XmlFile(
        filename=_text(root, "filename") or "",
        size_hw=(_text(root, "size/height"), _text(root, "size/width")),
        is_segmented=_text(root, "segmented") == "1",
        objects=tuple(map(_object, root.findall("object"))),
    )


def _object(element: Element) -> XmlObject:
    corners = tuple(_text(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    return XmlObject(
        _text(element, "name") or "", corners, _text(element, "difficult") == "1", tuple(_polygon(element))
    )


def _polygon(element: Element) -> Iterator[str]:
    """Corners as `<pt><x/><y/></pt>` (LabelMe's XML) or `<x1/><y1/><x2/>...` (Roboflow)."""
    polygon = element.find("polygon")
    if polygon is None:
        return
    points = polygon.findall("pt")
    for point in points:
        yield from (_text(point, "x") or "", _text(point, "y") or "")
    written = {} if points else {child.tag: (child.text or "").strip() for child in polygon}
    number = 1
    while x := written.get(f"x{number}"):
        yield from (x, written.get(f"y{number}", ""))
        number += 1


def _text(element: Element, path: str) -> str | None:
    found = element.findtext(path)
    return found.strip() if found and found.strip() else None
