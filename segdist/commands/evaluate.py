"""`segdist evaluate`: any model over any data, or another tool's results, with every metric."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from segdist.commands.model import Model, load_model
from segdist.commands.read import Read, check_split, is_sweep_file
from segdist.core.errors import DataError, SpecError
from segdist.core.json_values import JsonDict, JsonObject
from segdist.core.records import LabelledImage
from segdist.core.spec import EvaluateSpec
from segdist.core.storage import cache_dir
from segdist.datasets.build import on_all_cores
from segdist.datasets.ingest import find_or_build
from segdist.reading.class_names import ClassNames
from segdist.reading.sources import read_place
from segdist.sweepfile.loading import load

if TYPE_CHECKING:
    from segdist.nets.segmenter import Segmenter

BOXES = ("box_ap", "box_iou", "box_dice")
"""What can be said of results that are boxes alone."""


def evaluate_results(predictions: Path, truth: Path, *, min_score: float, seed: int = 0) -> JsonDict:
    """Every metric of another tool's COCO results, as JSON values.

    Args:
        predictions: see `reading.coco.results.read_results`.
        truth: a COCO annotation file.
        min_score: results scored lower do not count as found in metrics at one threshold.
        seed: of the intervals.

    Raises:
        DataError: a file is malformed; the message says where.
    """
    from segdist.engine.evaluation import EvaluationAccumulator
    from segdist.reading.coco.results import read_results

    results = read_results(predictions, truth)
    evaluate = EvaluateSpec(min_score=min_score)
    chosen = None if results.has_masks or not results.found else BOXES
    accumulator = EvaluationAccumulator(results.classes, evaluate, chosen)
    for sample, prediction in results.pairs():
        accumulator.add(sample, None, prediction)
    notes = [*results.notes]
    notes += [] if chosen is None else ["the results are boxes without masks: only metrics of boxes are defined"]
    return {
        "predictions": str(predictions),
        "truth": str(truth),
        "min_score": min_score,
        "classes": list(results.classes),
        "notes": notes,
        **accumulator.result(seed=seed).to_json(),
    }


class Respelled(Sequence[LabelledImage]):
    """Images with their truth, whose classes are spelled as a model spells them."""

    def __init__(self, rows: Sequence[LabelledImage], spelling: Mapping[str, str]) -> None:
        self._rows, self._spelling = rows, spelling

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...

    @overload
    def __getitem__(self, index: slice) -> list[LabelledImage]: ...

    def __getitem__(self, index: int | slice) -> LabelledImage | list[LabelledImage]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        sample, content = self._rows[index]
        instances = tuple(replace(i, label=self._spelling[i.label]) for i in sample.instances)
        return replace(sample, instances=instances), content


def evaluate(
    model: str | os.PathLike[str] | Model,
    data: str | os.PathLike[str],
    *,
    split: str = "",
    changes: JsonObject | None = None,
    storage: str = "",
    tracking: str = "embedded",
    seed: int = 0,
    further: Callable[["Segmenter", Sequence[LabelledImage]], dict[str, float]] | None = None,
) -> JsonDict:
    """Every metric and the cost of a model over data, as JSON values: `metrics`, and the same by class and group.

    Args:
        model: `NAME@champion`, `NAME@VERSION`, `SWEEP#TRIAL`, a run id, a model folder, or a model that is loaded.
        data: a folder, file or archive in any format that is recognised, or a sweep file.
        split: which part of the data, where they are divided; "" takes test, else val, else everything.
        changes: keys of `evaluate` to score with, instead of those the model was trained with.
        storage: the folder of the sweep that trained the model; "" for `SEGDIST_STORAGE`, else `~/segdist`.
        tracking: its MLflow URI, or "embedded".
        seed: of the intervals.
        further: makes more metrics of the network and the images.

    Raises:
        DataError: the data cannot be read, or have none of the model's classes.
        SegdistError: see `load_model`.
    """
    from segdist.engine.evaluation import evaluate_network

    if not isinstance(model, Model):
        model = load_model(model, changes=changes, storage=storage, tracking=tracking)
    elif changes:
        raise SpecError("`changes` go with a model's name; of a model that is loaded give them to `load_model`.")
    rows, notes = rows_of(os.fspath(data), split, model.classes)
    found = evaluate_network(model.network, rows, model.evaluate, seed=seed).to_json()
    found["metrics"] |= {"model/bytes": float(model.bytes_on_disk)}
    found["metrics"] |= further(model.network, rows) if further else {}
    head = {"model": model.name, "data": os.fspath(data), "images_total": len(rows)}
    settings = {"evaluate": model.evaluate.model_dump(mode="json"), "classes": list(model.classes)}
    return {**head, **settings, "notes": notes + _around(model.evaluate), **found}


_OBJECTS = {"components": "an object for each connected part", "watershed": "objects cut apart at their necks"}
"""What `evaluate.post.instances` makes of a region, in words."""


def _around(evaluate: EvaluateSpec) -> list[str]:
    """What was done around the network, in words."""
    post, notes = evaluate.post, []
    if evaluate.tile:
        notes.append(f"tiles of {evaluate.tile.size} pixels, overlapping by {evaluate.tile.overlap:.1%}")
    if evaluate.tta:
        notes.append(f"views: the image, {', '.join(evaluate.tta)}")
    steps = [post.refine.replace("_", " ")] if post.refine != "none" else []
    steps += [f"parts below {size} removed" for size in _sizes(post.min_area_fraction, post.min_area_pixels)]
    steps += [f"holes below {size} filled" for size in _sizes(post.fill_holes_fraction, post.fill_holes_pixels)]
    steps += [_OBJECTS[post.instances]] if post.instances in _OBJECTS else []
    steps += [f"scores {', '.join(f'{k} {v:g}' for k, v in post.min_scores.items())}"] if post.min_scores else []
    return notes + [f"post-processing: {', '.join(steps)}"] * bool(steps)


def _sizes(fraction: float, pixels: float) -> list[str]:
    return [f"{fraction:.2%} of the image"] * bool(fraction) + [f"{pixels:g} pixels"] * bool(pixels)


def rows_of(place: str, split: str, classes: Sequence[str]) -> tuple[Sequence[LabelledImage], list[str]]:
    """The images to score on, and what was found out about them.

    Args:
        place: a folder, file or archive in any format that is recognised, or a sweep file.
        split: which part; "" takes test, else val, else everything.
        classes: those of the model.

    Raises:
        DataError: the data cannot be read, or have none of the classes.
    """
    if is_sweep_file(place):
        dataset = find_or_build(load(place), on_all_cores)
        names = ClassNames(lambda _: None, classes)
        spelling = {label: names.spelled(label, place) for label in dataset.manifest.classes}
        labels, chosen = set(spelling.values()), _split(place, split, set(dataset.manifest.splits))
        rows: Sequence[LabelledImage] = Respelled(dataset.reader(chosen, cache_dir()), spelling)
    else:
        read = read_place(place, classes)
        chosen = _split(place, split, {sample.split for _, sample in read} - {""})
        rows = Read([(source, sample) for source, sample in read if not chosen or sample.split == chosen])
        labels = {i.label for _, sample in read for i in sample.instances}
    if not labels & set(classes):
        raise DataError(
            f"The model knows {', '.join(classes)}, but {place} has {', '.join(sorted(labels)) or 'no objects'}: "
            "nothing can be scored. Rename classes with `class_map` in a sweep file and name that file."
        )
    unknown = sorted(labels - set(classes))
    notes = [f"split {chosen}" if chosen else "all images"]
    return rows, notes + [f"the model does not know {', '.join(unknown)}: left out"] * bool(unknown)


def _split(place: str, wanted: str, there: set[str]) -> str:
    """The split that is wanted, or test, or val; "" where the data are not divided."""
    check_split(place, wanted, there)
    return wanted or next((name for name in ("test", "val") if name in there), "")
