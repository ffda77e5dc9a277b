"""SAM's "everything" mode before and after `sweeps/recipes/saom_rooms.yaml`: whole objects, and the time of an image.

Set `SEGDIST_SAOM` to the model folder that the recipe wrote, and `SEGDIST_SAOM_DATA` to the data set whose test images
it has not seen, where those are not drawn rooms: STORAGE/datasets/KEY of its sweep, or any annotated folder. SAM itself
knows no classes, so each mask is given the class of the true object that it overlaps best, both before and after; the
last line uses the classes that the model says itself. Rooms are drawn with a seed that no recipe uses.
"""

import os
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from segdist.core import masks
from segdist.core.records import Instance, Prediction, Sample
from segdist.core.registry import load, load_network
from segdist.core.spec import EvaluateSpec
from segdist.engine import checkpoint
from segdist.engine.predict import predict
from segdist.formats.synthetic import Format, Options
from segdist.metrics import evaluate
from segdist.reading.sources import read_place

SEED, IMAGES, SIZE, GRID_SIDE = 990, 24, 128, 16
Row = tuple[Sample, bytes]


def main() -> None:
    """Print mIoU and mAcc over the classes, and the median time of an image."""
    rows = _held_out(os.environ.get("SEGDIST_SAOM_DATA", ""))
    classes = sorted({i.label for sample, _ in rows for i in sample.instances})
    print(f"{len(rows)} images of {', '.join(classes)}\n{'':34}{'mIoU':>8}{'mAcc':>8}{'ms an image':>13}")
    _line("before, best overlap", rows, classes, _before(classes), by_overlap=True)
    folder = os.environ.get("SEGDIST_SAOM")
    if not folder:
        print("after: not measured; set SEGDIST_SAOM to what sweeps/recipes/saom_rooms.yaml wrote")
        return
    after = checkpoint.load(Path(folder))
    _line("after, best overlap", rows, classes, after, by_overlap=True)
    _line("after, its own classes", rows, classes, after, by_overlap=False)


def _held_out(place: str) -> list[Row]:
    """Test images of a data set where it has such, else all; or drawn rooms."""
    if not place:
        drawn = Format(Options(scene="rooms", count=IMAGES, size=SIZE, seed=SEED))
        return [(sample, drawn.image_bytes(sample)) for sample in drawn.read(lambda _: None)]
    read = read_place(place)
    test = [row for row in read if row[1].split == "test"]
    return [(sample, source.image_bytes(sample)) for source, sample in (test or read)[:IMAGES]]


def _before(classes: list[str]) -> Any:
    """The shipped weights under the same grid of points; its classes are untrained and count for nothing here."""
    options = load("models", "sam").FAMILY.options(prompt="everything", grid_side=GRID_SIDE)
    return load_network("sam").build(options, tuple(classes))


def _line(name: str, rows: list[Row], classes: list[str], network: Any, *, by_overlap: bool) -> None:
    found = [(sample, prediction) for sample, _, prediction in predict(network, rows, EvaluateSpec(batch_size=1))]
    predictions = [replace(p, instances=_named(s, p)) if by_overlap else p for s, p in found]
    values = evaluate([s for s, _ in found], predictions, classes=classes, min_score=0.2, metrics=["iou", "accuracy"])
    milliseconds = 1000 * statistics.median(p.seconds for _, p in found)
    print(f"{name:34}{values['iou']:8.3f}{values['accuracy']:8.3f}{milliseconds:13.0f}", flush=True)


def _named(sample: Sample, prediction: Prediction) -> tuple[Instance, ...]:
    """Each mask with the class of the true object that it overlaps best; those that overlap none are left out."""
    return tuple(_best(sample.instances, prediction.instances))


def _best(truth: Iterable[Instance], found: Iterable[Instance]) -> Iterator[Instance]:
    known = [i for i in truth if i.mask is not None]
    for instance in found:
        overlaps = [masks.iou(i.mask, instance.mask) for i in known if i.mask and instance.mask]
        if overlaps and max(overlaps) > 0:
            yield replace(instance, label=known[overlaps.index(max(overlaps))].label, score=1.0)
