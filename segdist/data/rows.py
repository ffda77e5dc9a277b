"""One sample as one row of Arrow: encoded image bytes beside run lengths."""

import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa

from segdist.records import Evidence, Instance, Rle, Sample, Verdict

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
        text=row["text"],
    )


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


def _instance_row(instance: Instance) -> dict[str, Any]:
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


def _instance(row: dict[str, Any], size_hw: tuple[int, int]) -> Instance:
    return Instance(
        label=row["label"],
        mask=Rle(size_hw, row["counts"]) if row["counts"] is not None else None,
        box_xyxy=tuple(row["box"]),
        score=row["score"],
        is_crowd=row["is_crowd"],
        evidence=_evidence(row, size_hw),
    )


def _evidence(row: dict[str, Any], size_hw: tuple[int, int]) -> Evidence | None:
    if row["verdict"] is None:
        return None
    proposed, unsure = (Rle(size_hw, row[k]) if row[k] is not None else None for k in ("proposed", "unsure"))
    numbers = {k: row[k] for k in ("predicted_iou", "stability", "agreement")}
    return Evidence(Verdict(row["verdict"]), proposed, unsure, **numbers)
