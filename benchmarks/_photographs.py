"""The photographs of `../shared/data`, as students get them: split once, masks from people or from boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segdist.core.records import LabelledImage
from segdist.core.spec import DataSpec, LabelSpec
from segdist.datasets.build import build, here
from segdist.datasets.rows import without_masks
from segdist.datasets.shards import Dataset
from segdist.pipeline.label_rows import LabelJob, label_samples
from segdist.pipeline.teacher import Teacher

DATA = Path("../shared/data")
_COCO: dict[str, Any] = {"format": "coco"}
SETS: Mapping[str, dict[str, Any]] = {
    "masonry": {
        "sources": [
            {
                "format": "png_masks",
                "path": str(DATA / "masonry"),
                "images": "crack_detection_224_images",
                "masks": "crack_detection_224_masks",
                "kind": "binary",
                "classes": {1: "crack"},
                "components": True,
            }
        ],
    },
    "facades": {"sources": [{**_COCO, "path": str(DATA / "facades")}], "on_error": "skip"},
    "potholes": {
        "sources": [{**_COCO, "path": str(DATA / "potholes")}],
        "on_error": "skip",
        "split": {"given": "redo", "val": 0.1, "test": 0.3},  # five photographs are held out by their author
    },
    "buildings": {"sources": [{**_COCO, "path": str(DATA / "buildings")}], "on_error": "skip"},
}
"""What each set is, as a sweep file has it."""
IMAGE_SIZE = {"masonry": 224, "facades": 256, "potholes": 224, "buildings": 64}
"""Pixels of the longest side that networks see."""


@dataclass(frozen=True)
class Photographs:
    """One set.

    Attributes:
        classes: in order.
        train: to learn from.
        val: for choosing settings; never in a table.
        held_out: seen once, when a student has learned. The facades have two splits, and there these are all of `val`.
    """

    classes: tuple[str, ...]
    train: Sequence[LabelledImage]
    val: Sequence[LabelledImage]
    held_out: Sequence[LabelledImage]


@cache
def photographs(name: str) -> Photographs:
    """A set with the masks that people drew."""
    with TemporaryDirectory(prefix="segdist-real-") as folder:
        dataset = build(folder, DataSpec.model_validate(SETS[name]), here)
        train, val, test = (_rows(dataset, split) for split in ("train", "val", "test"))
    return Photographs(tuple(dataset.manifest.classes), train, val, test or val)


def from_boxes(rows: Sequence[LabelledImage], classes: tuple[str, ...], policy: LabelSpec) -> list[LabelledImage]:
    """The same photographs with the masks that a teacher draws into their boxes; people's are hidden from it.

    Args:
        rows: with people's masks.
        classes: in order.
        policy: of `sweeps/photos.yaml`; of several teachers the first one labels, because there are no masks of
            people to choose by.
    """
    of_one = policy.model_copy(update={"teachers": (), "policy": "vote"})
    job = LabelJob(of_one, classes, hidden=("train",), source="teacher")
    boxes = [(without_masks(replace(sample, split="train")), image) for sample, image in rows]
    made, _, _ = label_samples(boxes, job, Teacher(of_one, classes))
    images = {sample.image_id: image for sample, image in rows}
    return [(sample, images[sample.image_id]) for sample in made]


def _rows(dataset: Dataset, split: str) -> list[LabelledImage]:
    return [(sample, image) for sample, image in dataset.rows(split) if image is not None]
