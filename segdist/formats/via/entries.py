"""What files of VGG Image Annotator hold: images with regions, each with a shape and attributes."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from segdist.core.bounded_json import parse_json
from segdist.core.text import lines

_MOST = 1 << 27
"""Characters of one cell: a polygon of many points is longer than the 131,072 that `csv` takes by itself."""
_COLUMNS = ("filename", "region_count", "region_shape_attributes", "region_attributes")


@dataclass(frozen=True)
class ViaRegion:
    """One region as it is written.

    Attributes:
        shape: its kind under `name`, and its numbers.
        attributes: what was filled in about it.
    """

    shape: dict[str, object]
    attributes: dict[str, object]


@dataclass(frozen=True)
class ViaEntry:
    """One image: its name, or a URL of it, and its regions."""

    filename: str
    regions: tuple[ViaRegion, ...]


def from_json(content: object) -> list[ViaEntry]:
    """The images of a project or of exported annotations.

    Raises:
        ValueError: it is neither.
    """
    listed = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(listed, dict):
        raise ValueError(f"it must be an object of images, but is {type(content).__name__}")
    return [_entry(key, one) for key, one in listed.items() if not str(key).startswith("_via_")]


def from_csv(text: str) -> list[ViaEntry]:
    """The images of annotations that were exported as CSV, a line for each region.

    Raises:
        ValueError: a column is missing, or a line does not fit.
    """
    csv.field_size_limit(_MOST)
    rows = csv.DictReader(lines(text.lstrip("#")), strict=True)
    try:
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(f"it must have the columns {', '.join(_COLUMNS)}, but lacks {', '.join(missing)}")
        found: dict[str, list[ViaRegion]] = {}
        for row in rows:
            regions = found.setdefault(str(row["filename"]), [])
            regions += _of_row(row, rows.line_num)
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num} is no CSV: {error}") from None
    return [ViaEntry(name, tuple(regions)) for name, regions in found.items()]


def _of_row(row: dict[str, Any], number: int) -> Iterator[ViaRegion]:
    """The region of a line; a line of an image without any has none."""
    if str(row["region_count"]).strip() == "0":
        return
    try:
        values = [json.loads(row[key] or "{}") for key in _COLUMNS[2:]]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"line {number} must hold shape and attributes as JSON, but: {error}") from None
    yield _region(*values)


def _entry(key: str, one: object) -> ViaEntry:
    if not isinstance(one, dict) or not isinstance(one.get("filename"), str):
        raise ValueError(f"`{key:.80}` must be an object with a `filename`, but is {one!r:.60}")
    regions = one.get("regions") or []
    listed = list(regions.values()) if isinstance(regions, dict) else regions if isinstance(regions, list) else None
    if listed is None or not all(isinstance(region, dict) for region in listed):
        raise ValueError(f"`regions` of `{key:.80}` must be a list of objects, but is {regions!r:.60}")
    return ViaEntry(
        one["filename"], tuple(_region(r.get("shape_attributes"), r.get("region_attributes")) for r in listed)
    )


def _region(shape: object, attributes: object) -> ViaRegion:
    return ViaRegion(shape if isinstance(shape, dict) else {}, attributes if isinstance(attributes, dict) else {})


def parsed(text: str) -> list[ViaEntry]:
    """The images of a file, JSON or CSV.

    Raises:
        ValueError: it is neither.
    """
    return from_json(parse_json(text)) if text.lstrip()[:1] == "{" else from_csv(text)
