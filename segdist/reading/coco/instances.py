"""COCO categories and annotations as labels and instances; formats that borrow COCO's fields use it too."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from segdist.core.records import Box, Instance, ReportFinding, Rle, Severity
from segdist.core.text import counted, short
from segdist.reading.class_names import ClassNames
from segdist.reading.coco.index import key_of
from segdist.reading.codes import Noted, finding
from segdist.reading.geometry import (
    UnusableAnnotation,
    box_as_written,
    box_from_xywh,
    box_iou,
    mask_from_segmentation,
    polygons_cross,
)

STALE_BOX = 0.1
"""A box that overlaps the box of its own mask less than this (IoU) is stale."""
FAR_OFF = 20
"""An area is wrong that differs by this factor: one in other units, of another object, or made up."""


class Categories:
    """Class names by category id for each file; matched by name over the files, never by id."""

    def __init__(self, report: ReportFinding) -> None:
        self._report = report
        self._names: dict[str, dict[str, str]] = {}
        self._class_names = ClassNames(report)
        self._id_of: dict[str, str] = {}
        self.groups: set[str] = set()
        """Ids, as text, of categories that only group others and that no annotation names."""

    def names(self, uri: str) -> Mapping[str, str]:
        """Class name by category id (as text) in one file."""
        return self._names[uri]

    def add(self, uri: str, categories: Sequence[dict[str, object]], used: Collection[str]) -> Mapping[str, str]:
        """Read the categories of a file.

        Args:
            uri: of the file.
            categories: its entries.
            used: the category ids that its annotations name, as text.

        Returns:
            The same as `names`.
        """
        found = self._names[uri] = {}
        labels: set[str] = set()
        groups = Counter(_group(category.get("supercategory")) for category in categories)
        for category in categories:
            key, name = str(key_of(category.get("id"))), str("" if (own := category.get("name")) is None else own)
            if _is_placeholder(category, groups) and key not in used:
                self.groups.add(key)
                continue
            if key == "None":
                self._find(uri, "category-malformed", Severity.ERROR, f"a category needs an `id`: {short(category)}")
                continue
            if key in found:
                self._find(uri, "category-id-duplicate", Severity.ERROR, f"duplicate category id {key}")
            spelled = self._class_names(name, uri)
            if spelled in labels and key not in found:
                message = f"two categories are called `{spelled}`; they are read as one class"
                self._find(uri, "category-name-duplicate", Severity.REPAIRED, message)
            else:
                self._check_id(uri, spelled, key)
            found[key] = spelled
            labels.add(spelled)
        return found

    def _check_id(self, uri: str, name: str, key: str) -> None:
        first = self._id_of.setdefault(name, key)
        if key != first:
            message = f"`{name}` has category id {key} here and {first} before; classes are matched by name"
            self._find(uri, "category-id-differs", Severity.REPAIRED, message)

    def _find(self, uri: str, code: str, severity: Severity, message: str) -> None:
        self._report(finding(code, message, file=uri, severity=severity))


def _is_placeholder(category: Mapping[str, object], groups: Counter[str]) -> bool:
    """Whether a category only groups others: it is the supercategory of another one, whose name it bears.

    Roboflow puts such a category at id 0, sometimes under the name of a real class.
    """
    name = _group(category.get("name"))
    return groups[name] > (_group(category.get("supercategory")) == name)


def _group(value: object) -> str:
    """A name by which categories are grouped; "" of something else is that of no other."""
    return value if isinstance(value, str) else f"\0{type(value).__name__}"


def instance_of(
    annotation: Mapping[str, object],
    names: Mapping[str, str],
    *,
    size_hw: tuple[int, int],
    expects_mask: bool,
    fit_boxes: bool = True,
) -> tuple[Instance | None, list[Noted]]:
    """One annotation as an instance, or None where it cannot be used, and what there is to say about it.

    Args:
        annotation: as it is written in the JSON file.
        names: class name by category id.
        size_hw: of its image.
        expects_mask: whether a missing mask is worth a warning: not in a data set of boxes.
        fit_boxes: cut boxes at the image's border, and take one that lies beside its mask from the mask.
    """
    repairs: list[str] = []
    try:
        label = names.get(str(key_of(annotation.get("category_id"))))
        if label is None:
            message = f"there is no category with id {annotation.get('category_id')}"
            raise UnusableAnnotation("category-unknown", Severity.ERROR, message)
        mask = _mask(annotation, size_hw, repairs)
        box_xyxy = _box(annotation, mask, size_hw, repairs) if fit_boxes else _box_as_written(annotation, mask, repairs)
        score = _score(annotation, repairs)
        _check_area(annotation.get("area") if fit_boxes else None, mask, box_xyxy, repairs)
    except UnusableAnnotation as problem:
        return None, [(problem.code, problem.severity, problem.message)]
    is_crowd = str(annotation.get("iscrowd") or 0) not in ("0", "False")
    notes: list[Noted] = (
        [("annotation-repaired", Severity.REPAIRED, "; ".join(dict.fromkeys(repairs)))] if repairs else []
    )
    polygons = annotation.get("segmentation") if mask is not None and not repairs else None
    if isinstance(polygons, list) and polygons_cross(polygons, size_hw):
        message = "a polygon crosses itself; look whether its mask is right"
        notes.append(("polygon-crosses-itself", Severity.WARNING, message))
    if mask is None and expects_mask:
        notes.append(("mask-missing", Severity.WARNING, "it has a box and no mask: it needs a pseudo-label"))
    if is_crowd and isinstance(annotation.get("segmentation"), list):
        notes.append(("crowd-polygon", Severity.WARNING, "it is marked as a crowd but has a polygon; kept as a crowd"))
    return Instance(label, mask, box_xyxy, score, is_crowd=is_crowd), notes


def area_fits(area: float, pixels: int, box_xyxy: Box) -> bool:
    """Whether a stated area may be that of an object: not far from its pixels or, as Roboflow has it, its box.

    Args:
        area: as it is stated.
        pixels: of the mask; 0 where there is none.
        box_xyxy: of the object.
    """
    box = (box_xyxy[2] - box_xyxy[0]) * (box_xyxy[3] - box_xyxy[1])
    return min(pixels or box, box) / FAR_OFF <= area <= max(pixels, box) * FAR_OFF


def _check_area(area: Any, mask: Rle | None, box_xyxy: Box, repairs: list[str]) -> None:
    """COCO's `area` counts for nothing here, but a wrong one says that somebody changed the annotation, not it."""
    if area is None:
        return  # reported once for the file
    pixels = mask.area if mask else 0
    try:
        stated = math.nan if isinstance(area, bool) else float(area)
    except (TypeError, ValueError, OverflowError):
        stated = math.nan
    if not (math.isfinite(stated) and area_fits(stated, pixels, box_xyxy)):
        source = f"{counted(pixels, 'pixel')} of the mask" if mask else "the box"
        repairs.append(f"area {area!r:.40} was replaced by that of {source}")


def _score(annotation: Mapping[str, Any], repairs: list[str]) -> float:
    """The confidence of a pseudo-label; 1 where there is none, or none in 0..1."""
    written = annotation.get("score", 1.0)
    try:
        score = float(written) if written is not None else 1.0
    except (TypeError, ValueError, OverflowError):
        score = -1.0
    if 0 <= score <= 1:
        return score
    repairs.append(f"score {short(written)} is no number in 0..1 and was read as 1")
    return 1.0


def _mask(annotation: Mapping[str, object], size_hw: tuple[int, int], repairs: list[str]) -> Rle | None:
    segmentation = annotation.get("segmentation")
    if segmentation is None or segmentation in ([], {}, [[]], ""):
        return None
    return mask_from_segmentation(segmentation, size_hw=size_hw, repairs=repairs)


def _box_as_written(annotation: Mapping[str, object], mask: Rle | None, repairs: list[str]) -> Box:
    """The annotated box, wherever it lies; the mask's own where there is none."""
    written = annotation.get("bbox")
    return mask.box_xyxy if mask is not None and written in (None, []) else box_as_written(written, repairs=repairs)


def _box(annotation: Mapping[str, object], mask: Rle | None, size_hw: tuple[int, int], repairs: list[str]) -> Box:
    """The annotated box; the mask's own where there is none, or where it lies elsewhere."""
    if mask is None:
        return box_from_xywh(annotation.get("bbox"), size_hw=size_hw, repairs=repairs)
    try:
        box_xyxy = box_from_xywh(annotation.get("bbox"), size_hw=size_hw, repairs=repairs)
    except UnusableAnnotation as problem:
        repairs.append(f"the box was taken from the mask: {problem.message}")
        return mask.box_xyxy
    if box_iou(box_xyxy, mask.box_xyxy) < STALE_BOX:
        repairs.append("bbox lies beside the mask; it was taken from the mask")
        return mask.box_xyxy
    return box_xyxy
