"""One sample as one row of Arrow: encoded image bytes beside run lengths."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa

from segdist.core.records import Evidence, Instance, Rle, Sample, Verdict
from segdist.core.run_lengths import measure

INSTANCE = pa.struct(
    [
        pa.field("label", pa.string(), nullable=False),
        pa.field("counts", pa.binary()),
        pa.field("box", pa.list_(pa.float64()), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("is_crowd", pa.bool_(), nullable=False),
        pa.field("verdict", pa.string()),
        pa.field("proposed", pa.binary()),
        pa.field("unsure", pa.binary()),
        pa.field("predicted_iou", pa.float64()),
        pa.field("stability", pa.float64()),
        pa.field("agreement", pa.float64()),
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
        pa.field("text", pa.string(), nullable=False),
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
        "text": sample.text,
        "instances": [_instance_row(i) for i in sample.instances],
        "digest": sample_digest(sample, image_sha256),
        "image_sha256": image_sha256,
        "image": image_bytes,
    }


def samples_of(batch: pa.RecordBatch) -> list[Sample]:
    """The samples of some rows; the image column need not be there.

    Columns are turned into Python values whole: a row at a time costs an Arrow scalar for every number in it.
    """
    names = ("image_id", "image_uri", "height", "width", "split", "group", "source", "text")
    rows = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    objects = batch.column("instances")
    ends = np.cumsum(objects.value_lengths().to_numpy(zero_copy_only=False)).tolist()
    columns = _columns(objects.flatten())
    found, start = [], 0
    for (image_id, image_uri, height, width, *rest), end in zip(rows, ends, strict=True):
        instances = tuple(_instance((height, width), *(column[n] for column in columns)) for n in range(start, end))
        found.append(Sample(image_id, image_uri, (height, width), instances, *rest))
        start = end
    return found


def checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows that somebody else may have written, before they become samples: with the columns of a shard.

    Run lengths fill their image: whoever reads them later trusts them.

    Raises:
        ValueError, TypeError, KeyError: columns are missing or of another type, or a mask does not fill its image.
    """
    batch = batch.replace_schema_metadata(None).cast(SCHEMA.empty_table().select(batch.schema.names).schema)
    heights, widths = (batch.column(name).to_numpy().astype(np.int64) for name in ("height", "width"))
    objects = batch.column("instances")
    owners = np.repeat(np.arange(batch.num_rows), objects.value_lengths().to_numpy())
    for name in ("counts", "proposed", "unsure"):
        counts = objects.flatten().field(name).to_pylist()
        there = np.array([n for n, written in enumerate(counts) if written is not None], np.int64)
        pixels = measure([counts[n] for n in there.tolist()]).pixels
        wrong = owners[there[pixels != (heights * widths)[owners[there]]]]
        if len(wrong):
            raise ValueError(f"the masks of {batch.column('image_id')[int(wrong[0])]} must fill their image")
    return batch


def with_images(batch: pa.RecordBatch) -> Iterator[tuple[Sample, bytes | None]]:
    """The samples of some rows with their encoded images; None in a set of labels."""
    return zip(samples_of(batch), batch.column("image").to_pylist(), strict=True)


def sample_digest(sample: Sample, image_sha256: str) -> str:
    """Names what can be learned from a sample: pixels, truth and split, but not where the file lay."""
    content = [
        sample.image_id,
        image_sha256,
        sample.size_hw,
        sample.split,
        sample.source,
        [(i.label, _text(i.mask), i.box_xyxy, i.score, i.is_crowd, *_unsure(i)) for i in sample.instances],
        *([sample.text] if sample.text else []),
    ]
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def without_masks(sample: Sample) -> Sample:
    """The sample as a data set of boxes shows it."""
    return replace(sample, instances=tuple(replace(i, mask=None, evidence=None) for i in sample.instances))


def _text(rle: Rle | None) -> str | None:
    return rle.counts.decode("ascii") if rle else None


def _unsure(instance: Instance) -> list[str | None]:
    """The part of the evidence that training sees; nothing where there is none."""
    return [_text(instance.evidence.unsure)] if instance.evidence and instance.evidence.unsure else []


def _instance_row(instance: Instance) -> dict[str, object]:
    evidence = instance.evidence
    return {
        "label": instance.label,
        "counts": instance.mask.counts if instance.mask else None,
        "box": list(instance.box_xyxy),
        "score": instance.score,
        "is_crowd": instance.is_crowd,
        "verdict": str(evidence.verdict) if evidence else None,
        "proposed": evidence.proposed.counts if evidence and evidence.proposed else None,
        "unsure": evidence.unsure.counts if evidence and evidence.unsure else None,
        "predicted_iou": evidence.predicted_iou if evidence else None,
        "stability": evidence.stability if evidence else None,
        "agreement": evidence.agreement if evidence else None,
    }


def _columns(objects: pa.StructArray) -> list[list[object]]:
    """The fields of INSTANCE as lists, in its order."""
    return [_values(objects.field(n)) for n in range(INSTANCE.num_fields)]


def _values(column: pa.Array) -> list[object]:
    if column.null_count == len(column):
        return [None] * len(column)  # most data sets have no evidence at all
    if pa.types.is_list(column.type):
        return [tuple(box) for box in column.flatten().to_numpy().reshape(-1, 4).tolist()]
    if pa.types.is_floating(column.type) and not column.null_count:
        values: list[Any] = column.to_numpy().tolist()
        return values
    return cast("list[Any]", column.to_pylist())


def _instance(size_hw: tuple[int, int], *fields: Any) -> Instance:
    label, counts, box_xyxy, score, is_crowd, verdict, *evidence = fields
    mask = None if counts is None else Rle(size_hw, counts)
    return Instance(label, mask, box_xyxy, score, is_crowd, _evidence(size_hw, verdict, *evidence) if verdict else None)


def _evidence(
    size_hw: tuple[int, int], verdict: str, proposed: bytes | None, unsure: bytes | None, *numbers: float | None
) -> Evidence:
    masks = [None if counts is None else Rle(size_hw, counts) for counts in (proposed, unsure)]
    return Evidence(Verdict(verdict), masks[0], masks[1], *numbers)
