"""What the numbers in mask images mean: masks.json for the data set, a line of instances.jsonl for each image."""

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import ValidationError

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.spec import Strict
from segdist.core.text import json_lines
from segdist.reading.listing import Listing

KINDS = "masks.json"
INSTANCES = "instances.jsonl"
MaskKind = Literal["binary", "class_id", "instance_id"]
Key = int | str
"""A number in a mask image, or a colour as "#rrggbb"."""


class Kinds(Strict):
    """The content of masks.json."""

    kind: MaskKind
    """What a number in a mask image stands for."""
    classes: dict[Key, str]
    """Class name of each number; of objects where there is no table."""
    divisor: int = 0
    """Objects are numbered class * divisor + n, as Cityscapes does with 1000; 0 where they are not."""


class Listed(Strict):
    """One object of an image."""

    id: int
    """Its number in the mask image; 0 where only a box is known."""
    label: str
    """Class name."""
    box_xyxy: tuple[float, float, float, float]
    """The box as annotated, in pixels."""
    score: float = 1.0
    """Of a pseudo-label."""
    is_crowd: bool = False
    """A region of many objects."""


class ImageTable(Strict):
    """A line of instances.jsonl."""

    image: str
    """Path of the image."""
    masks: tuple[str, ...]
    """Paths of its mask images; objects that overlap lie in different ones."""
    instances: tuple[Listed, ...]
    """Its objects."""


def read_kinds(files: Listing) -> Kinds | None:
    """The content of masks.json, if there is one.

    Raises:
        DataError: it is damaged.
    """
    if KINDS not in files:
        return None
    try:
        return Kinds.model_validate_json(storage.read_bytes(files.uri(KINDS)))
    except ValidationError as error:
        raise DataError(f"{files.uri(KINDS)} must say `kind` and `classes`, but: {error}") from error


def read_instances(files: Listing) -> Mapping[str, ImageTable]:
    """The objects of each image by the image's path; empty where there is no table.

    Raises:
        DataError: a line is damaged.
    """
    if INSTANCES not in files:
        return {}
    found = {}
    for number, line in enumerate(json_lines(storage.read_text(files.uri(INSTANCES))), 1):
        if not line.strip():
            continue
        try:
            table = ImageTable.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"Line {number} of {files.uri(INSTANCES)} is damaged: {error}") from error
        found[table.image] = table
    return found


def number_of(key: Key) -> int:
    """The number that a key of `classes` stands for; colours are 0xRRGGBB.

    Raises:
        ValueError: it is neither a number nor a colour.
    """
    text = str(key)
    return int(text[1:], 16) if text.startswith("#") and len(text) == 7 else int(text)


def dump_line(table: ImageTable) -> str:
    """A line of instances.jsonl; what has its usual value is left out."""
    content: dict[str, object] = table.model_dump(mode="json")
    content["instances"] = [one.model_dump(mode="json", exclude_defaults=True) for one in table.instances]
    return json.dumps(content) + "\n"
