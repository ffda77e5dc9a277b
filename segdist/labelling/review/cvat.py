"""The queue as "CVAT for images 1.1" (docs.cvat.ai/docs/other/xml_format), and masks and polygons from such files."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from defusedxml import ElementTree as SafeXml
from defusedxml.common import DefusedXmlException

from segdist import masks
from segdist.errors import DataError
from segdist.labelling.review.queue import Doubt, Drawn, Task
from segdist.masks import Mask
from segdist.records import Rle

FILE = "cvat.xml"
_NUMBER = "object"
"""The attribute that keeps an object's number in the queue; the CVAT project's labels must have it."""


def write(folder: Path, tasks: Sequence[Task], classes: Sequence[str]) -> None:
    """Write `cvat.xml`: upload it as annotations of a task made of `images/`."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    labels = ET.SubElement(ET.SubElement(ET.SubElement(root, "meta"), "task"), "labels")
    for name in classes:
        label = ET.SubElement(labels, "label")
        ET.SubElement(label, "name").text = name
        attribute = ET.SubElement(ET.SubElement(label, "attributes"), "attribute")
        for key, value in (("name", _NUMBER), ("mutable", "False"), ("input_type", "text"), ("default_value", "")):
            ET.SubElement(attribute, key).text = value
    for number, task in enumerate(tasks):
        height, width = task.sample.size_hw
        image = ET.SubElement(root, "image", id=str(number), name=task.file_name, width=str(width), height=str(height))
        for doubt in task.doubts:
            _shape(image, doubt)
    ET.ElementTree(root).write(folder / FILE, encoding="utf-8", xml_declaration=True)


def read(file: Path) -> Iterator[Drawn]:
    """The masks and polygons of a file; rectangles say nothing about pixels and are passed over.

    Raises:
        DataError: it is no such XML, or a mask does not fit its image.
    """
    try:
        root = SafeXml.parse(file).getroot()
        for image in root.iter("image"):
            size_hw = int(image.attrib["height"]), int(image.attrib["width"])
            for shape in image:
                if shape.tag in ("mask", "polygon"):
                    rle = _mask(shape, size_hw) if shape.tag == "mask" else _polygon(shape, size_hw)
                    name = PurePosixPath(image.attrib["name"]).name
                    yield Drawn(name, shape.attrib["label"], rle, _number(shape))
    except (KeyError, ValueError, SafeXml.ParseError, DefusedXmlException) as error:
        raise DataError(f"{file} must be XML of the kind `CVAT for images 1.1`, but: {error!r}") from error


def _shape(image: Any, doubt: Doubt) -> None:
    """A mask; a rectangle where the teacher found nothing."""
    common = {"label": doubt.instance.label, "source": "auto", "occluded": "0", "z_order": "0"}
    if doubt.mask is None or not doubt.mask.area:
        sides = zip(("xtl", "ytl", "xbr", "ybr"), doubt.instance.box_xyxy, strict=True)
        shape = ET.SubElement(image, "box", {**common, **{name: f"{v:.2f}" for name, v in sides}})
    else:
        rows, columns = masks.tight_cut(doubt.mask)
        runs = row_runs(masks.decode_cut(doubt.mask, (rows, columns)))
        width, height = columns.stop - columns.start, rows.stop - rows.start
        place = {"left": str(columns.start), "top": str(rows.start), "width": str(width), "height": str(height)}
        shape = ET.SubElement(image, "mask", {**common, "rle": ", ".join(map(str, runs)), **place})
    ET.SubElement(shape, "attribute", name=_NUMBER).text = str(doubt.number)


def row_runs(mask_HW: Mask) -> list[int]:
    """Run lengths row by row, of unset pixels first."""
    flat = np.concatenate([[False], mask_HW.ravel(), [not mask_HW.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(v) for v in np.diff(ends, prepend=0)]


def _mask(shape: Any, size_hw: tuple[int, int]) -> Rle:
    left, top, width, height = (int(float(shape.attrib[k])) for k in ("left", "top", "width", "height"))
    runs = [int(v) for v in shape.attrib["rle"].replace(",", " ").split()]
    inside = min(left, top) >= 0 and left + width <= size_hw[1] and top + height <= size_hw[0]
    if not inside or sum(runs) != width * height or min(runs, default=0) < 0:
        raise ValueError(f"a mask of {width} x {height} at ({left}, {top}) with runs that sum to {sum(runs)}")
    mask_HW = np.zeros(size_hw, np.bool_)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask_HW[top : top + height, left : left + width] = values.reshape(height, width)
    return masks.encode(mask_HW)


def _polygon(shape: Any, size_hw: tuple[int, int]) -> Rle:
    points = [float(v) for point in shape.attrib["points"].split(";") for v in point.split(",")]
    return masks.from_polygons([points], size_hw=size_hw)


def _number(shape: Any) -> int:
    found = [a.text or "" for a in shape.iter("attribute") if a.attrib.get("name") == _NUMBER]
    return int(found[0]) if found and found[0].strip().isdigit() else 0
