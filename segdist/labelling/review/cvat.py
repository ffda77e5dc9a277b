"""The queue as "CVAT for images 1.1" (docs.cvat.ai/docs/other/xml_format), and masks and polygons from such files."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

import numpy as np

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.labelling.review.queue import Doubt, Task
from segdist.labelling.review.returned import Returned, drawn_mask
from segdist.reading.drawn.cvat import corners_of, mask_of
from segdist.reading.xml_files import read_xml

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


def read(file: Path, returned: Returned) -> None:
    """The masks and polygons of a file.

    Raises:
        DataError: it is no such XML, or a mask does not fit its image.
    """
    with returned.naming("XML of the kind `CVAT for images 1.1`"):
        root = read_xml(str(file), returned.note)
    for child in root:
        if child.tag == "image":
            with returned.naming(f"image {child.attrib.get('name')}"):
                found = returned.image(child.attrib["name"], (child.attrib.get("height"), child.attrib.get("width")))
            for number, shape in enumerate(child if found else (), 1):
                assert found
                with returned.naming(f"{shape.tag} {number} of {found[0]}"):
                    _read_shape(shape, *found, returned)
        elif child.tag not in ("version", "meta"):
            returned.others[f"element `{child.tag}`"] += 1  # `track` in CVAT for video


def _read_shape(shape: Element, file_name: str, size_hw: tuple[int, int], returned: Returned) -> None:
    if shape.tag in ("mask", "polygon"):
        rle = mask_of(shape, size_hw) if shape.tag == "mask" else drawn_mask([corners_of(shape)], size_hw=size_hw)
        returned.add(file_name, shape.attrib["label"], rle, _number(shape))
    else:
        kind = {"box": "rectangle"}.get(shape.tag, shape.tag)
        returned.skip_shape(kind, file_name, shape.attrib.get("label", ""), _number(shape))


def _shape(image: Element, doubt: Doubt) -> None:
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


def _number(shape: Element) -> str:
    return next((a.text or "" for a in shape.iter("attribute") if a.attrib.get("name") == _NUMBER), "")
