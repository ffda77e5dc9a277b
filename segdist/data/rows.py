"""One sample as one row of Arrow: encoded image bytes beside run lengths."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pyarrow as pa

from segdist.records import Instance, Rle, Sample

INSTANCE = pa.struct(
    [
        pa.field("label", pa.string(), nullable=False),
        pa.field("counts", pa.binary()),
        pa.field("box", pa.list_(pa.float64()), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("is_crowd", pa.bool_(), nullable=False),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("instances", pa.list_(INSTANCE), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("image", pa.large_binary()),  # 64-bit offsets: a batch of large photos passes 2 GiB
    ]
)
"""Columns of a shard; `counts` are compressed COCO run lengths of the image's size, null where only a box is known."""


def to_row(sample: Sample, image_bytes: bytes | None) -> dict[str, Any]:
    """The row of a sample; a label shard has no image bytes."""
    image_sha256 = hashlib.sha256(image_bytes).hexdigest() if image_bytes is not None else ""
    return {
        "image_id": sample.image_id,
        "image_uri": sample.image_uri,
        "height": sample.size_hw[0],
        "width": sample.size_hw[1],
        "split": sample.split,
        "group": sample.group,
        "source": sample.source,
        "instances": [_instance_row(i) for i in sample.instances],
        "digest": sample_digest(sample, image_sha256),
        "image_sha256": image_sha256,
        "image": image_bytes,
    }


def from_row(row: dict[str, Any]) -> Sample:
    """The sample of a row; the image column need not be there."""
    size_hw = (row["height"], row["width"])
    return Sample(
        image_id=row["image_id"],
        image_uri=row["image_uri"],
        size_hw=size_hw,
        instances=tuple(_instance(i, size_hw) for i in row["instances"]),
        split=row["split"],
        group=row["group"],
        source=row["source"],
    )


def sample_digest(sample: Sample, image_sha256: str) -> str:
    """Names what can be learned from a sample: pixels, truth and split, but not where the file lay."""
    content = [
        sample.image_id,
        image_sha256,
        sample.size_hw,
        sample.split,
        sample.source,
        [
            (i.label, i.mask.counts.decode("ascii") if i.mask else None, i.box_xyxy, i.score, i.is_crowd)
            for i in sample.instances
        ],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def without_masks(sample: Sample) -> Sample:
    """The sample as a data set of boxes shows it."""
    return replace(sample, instances=tuple(replace(i, mask=None) for i in sample.instances))


def _instance_row(instance: Instance) -> dict[str, Any]:
    return {
        "label": instance.label,
        "counts": instance.mask.counts if instance.mask else None,
        "box": list(instance.box_xyxy),
        "score": instance.score,
        "is_crowd": instance.is_crowd,
    }


def _instance(row: dict[str, Any], size_hw: tuple[int, int]) -> Instance:
    return Instance(
        label=row["label"],
        mask=Rle(size_hw, row["counts"]) if row["counts"] is not None else None,
        box_xyxy=tuple(row["box"]),
        score=row["score"],
        is_crowd=row["is_crowd"],
    )
