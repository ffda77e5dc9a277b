"""What the columns of a table of images mean: class names of the features, and objects in either layout."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from segdist.core.bounded_json import load_json
from segdist.core.errors import DataError
from segdist.core.text import short

FIELDS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "ids", "bbox_id", "annotation_id"),
    "category_id": ("category", "categories", "category_id", "category_ids", "label", "labels", "class", "classes"),
    "bbox": ("bbox", "bboxes", "box", "boxes"),
    "segmentation": ("segmentation", "segmentations", "polygon", "polygons", "mask_rle"),
    "iscrowd": ("iscrowd", "is_crowd", "crowd"),
    "score": ("score", "scores"),
}
"""COCO's field, and the names under which tables hold it; the first that is there counts."""


class Malformed(ValueError):  # noqa: N818 - becomes a finding, never reaches the user as an exception
    """Why the objects of a row cannot be distinguished."""


def class_names(schema: pa.Schema, objects: str) -> tuple[str, ...]:
    """The names of the class label in `objects`, from the features that `datasets` writes into the schema."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = load_json(text, "features").get("info", {}).get("features", {})
    except (DataError, AttributeError):
        return ()
    return tuple(names_in(features.get(objects)))


def names_in(feature: object) -> list[str]:
    """The names of the category's class label, however the feature nests it (`List`, `Sequence`, a list, an object)."""
    if isinstance(feature, list):
        return next(filter(None, map(names_in, feature)), [])
    if not isinstance(feature, dict):
        return []
    for key in FIELDS["category_id"]:
        if names := _label_names(feature.get(key)):
            return names
    return names_in(feature.get("feature"))


def _label_names(feature: object) -> list[str]:
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names") or []
        return [str(names[key]) for key in sorted(names, key=int)] if isinstance(names, dict) else list(map(str, names))
    return _label_names(feature.get("feature"))


def annotations(objects: object) -> Iterator[dict[str, object]]:
    """The objects of one row with COCO's field names.

    Args:
        objects: a list of objects, an object of lists, or None for no objects.

    Raises:
        Malformed: it is something else, or its lists differ in length.
    """
    if objects is None:
        return
    if isinstance(objects, dict):
        objects = list(_transposed(objects))
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise Malformed(f"`objects` must be a list of objects or an object of lists, but is {short(objects)}")
    for one in objects:
        yield {field: value for field, names in FIELDS.items() if (value := _first(one, names)) is not None}


def _transposed(columns: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    used = {key: values for key, values in columns.items() if values is not None}
    lengths = {key: len(values) if isinstance(values, list) else -1 for key, values in used.items()}
    if -1 in lengths.values():
        raise Malformed(
            f"every field of `objects` must be a list, but is not: {[k for k, n in lengths.items() if n < 0]}"
        )
    if len(set(lengths.values())) > 1:
        raise Malformed(f"the lists of `objects` must be of one length, but are {lengths}")
    for number in range(next(iter(lengths.values()), 0)):
        yield {key: values[number] for key, values in used.items()}


def _first(one: Mapping[str, object], names: tuple[str, ...]) -> object:
    return next((one[name] for name in names if one.get(name) is not None), None)
