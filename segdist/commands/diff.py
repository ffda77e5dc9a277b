"""`segdist diff A B`: on which images one model beats another, by how much, and whether that is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segdist.commands.evaluate import rows_of
from segdist.commands.model import load_model, place_of
from segdist.commands.recalled import dataset_of, recall, rows_of_sweep
from segdist.core.errors import DataError
from segdist.core.json_values import JsonDict
from segdist.core.panels import encode_jpeg, versus
from segdist.core.records import LabelledImages, Prediction
from segdist.core.spec import EvaluateSpec
from segdist.metrics import Difference, Evaluator, OneImage, Ranking, difference, evaluator_of, ranking
from segdist.reading.examples import decode_image
from segdist.tracking import Tracker


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        first, second: what they are called.
        images: how many.
        notes: what to know about the comparison.
        found: the difference.
        won, lost: JPEG panels of the images that the first wins and loses most clearly, by image id.
    """

    first: str
    second: str
    images: int
    notes: tuple[str, ...]
    found: Difference
    won: dict[str, bytes]
    lost: dict[str, bytes]

    def to_json(self) -> JsonDict:
        """JSON values, without the pictures."""
        head = {"first_model": self.first, "second_model": self.second, "notes": list(self.notes)}
        return {**head, "images_total": self.images, **self.found.to_json()}


def diff(
    first: str,
    second: str,
    data: str = "",
    *,
    split: str = "",
    metric: str = "iou",
    storage: str,
    tracking: str,
    pictures: int = 3,
    seed: int = 0,
) -> Comparison:
    """Compare two models image by image.

    Args:
        first: `NAME@champion`, `NAME@VERSION`, `SWEEP#TRIAL`, a run id, or a model folder.
        second: the same.
        data: what to compare them on; "" takes the predictions that trials left of their sweep's images.
        split: which part of the data; "" takes val of a sweep, and of other data test, else val, else everything.
        metric: a metric that is a formula over sums.
        storage: of the sweeps.
        tracking: their MLflow URI, or "embedded".
        pictures: panels of images won, and as many of images lost.
        seed: of the interval.

    Raises:
        DataError: the models have no images or classes in common, or their predictions are not there.
    """
    names = first, second
    if data:
        sides = [_asked(name, data, split, storage, tracking) for name in names]
        notes = sides[0].notes
    else:
        tracker = Tracker.at(storage, tracking)
        sides = [_recalled(tracker, name, split or "val") for name in names]
        notes = [f"split {split or 'val'} of {sides[0].origin}"]
    a, b = sides
    if a.classes != b.classes or [s.image_id for s, _ in a.rows] != [s.image_id for s, _ in b.rows]:
        raise DataError(
            f"{first} and {second} were not scored on the same images and classes. "
            "Name data that both can be shown: segdist diff A B DATA"
        )
    evaluators = [side.filled_evaluator(metric) for side in sides]
    found = difference(*evaluators, metric=metric, seed=seed)
    shown = {
        label: _panels(images[:pictures], names, sides) for label, images in (("won", found.won), ("lost", found.lost))
    }
    return Comparison(first, second, len(a.rows), tuple(notes), found, shown["won"], shown["lost"])


def standing(tracker: Tracker, configurations: Sequence[Sequence[str]], *, metric: str) -> Ranking:
    """Compare configurations of a sweep by the predictions that their evaluation kept of the validation images.

    Args:
        tracker: where the sweep is recorded.
        configurations: of each the runs of its seeds, the best configuration first.
        metric: a metric that is a formula over sums.

    Raises:
        DataError: a run kept no predictions.
    """
    filled = [[_recalled(tracker, run, "val").filled_evaluator(metric) for run in runs] for runs in configurations]
    return ranking(filled, metric=metric)


@dataclass(frozen=True)
class _Side:
    """One model's predictions."""

    classes: tuple[str, ...]
    rows: LabelledImages
    predictions: Mapping[str, Prediction]
    evaluate: EvaluateSpec
    origin: str
    notes: list[str]

    def filled_evaluator(self, metric: str) -> Evaluator:
        """The evaluator that saw everything."""
        evaluator = evaluator_of(self.classes, self.evaluate, [metric])
        for sample, _ in self.rows:
            evaluator.add(sample, self.predictions.get(sample.image_id))
        return evaluator


def _asked(model: str, data: str, split: str, storage: str, tracking: str) -> _Side:
    """A model that is shown the data now."""
    from segdist.engine.predict import predict

    loaded = load_model(model, storage=storage, tracking=tracking)
    rows, notes = rows_of(data, split, loaded.classes)
    found = {p.image_id: p for _, _, p in predict(loaded.network, (rows[k] for k in range(len(rows))), loaded.evaluate)}
    return _Side(loaded.classes, rows, found, loaded.evaluate, data, notes)


def _recalled(tracker: Tracker, model: str, split: str) -> _Side:
    """What a trial's model found when its sweep was evaluated."""
    if place_of(model):
        raise DataError(f"{model} is a folder, which keeps no predictions. Name data: segdist diff A B DATA")
    run_id = tracker.run_of(model)
    found = recall(tracker, run_id, split)
    if found is None:
        raise DataError(
            f"{model} has no predictions of the split `{split}`: every trial has those of val, the winner those of "
            "test. Name data that it can be shown: segdist diff A B DATA"
        )
    sweep = tracker.sweep(tracker.parent_of(run_id))
    rows = rows_of_sweep(sweep, dataset_of(sweep), split)
    return _Side(found.classes, rows, found.predictions, found.evaluate, sweep.name, [])


def _panels(images: Sequence[OneImage], names: tuple[str, str], sides: Sequence[_Side]) -> dict[str, bytes]:
    """[truth | first | its error | second | its error] of each image."""
    place = {sample.image_id: k for k, (sample, _) in enumerate(sides[0].rows)} if images else {}
    drawn = {}
    for image in images:
        sample, image_bytes = sides[0].rows[place[image.image_id]]
        found = {}
        for name, side in zip(_captions(names), sides, strict=True):
            prediction = side.predictions.get(image.image_id)
            instances = prediction.instances if prediction else ()
            found[name] = [i for i in instances if side.evaluate.accepts(i.label, i.score)]
        picture = versus(decode_image(image_bytes, name=image.image_id), sample, found, classes=sides[0].classes)
        drawn[image.image_id] = encode_jpeg(picture)
    return drawn


def _captions(names: tuple[str, str]) -> tuple[str, str]:
    """Short, and never the same."""
    short = [Path(name).name if len(name) > 24 else name for name in names]
    short = [name if len(name) <= 24 else f"{name[:8]}..." for name in short]
    return (short[0], short[1]) if short[0] != short[1] else (f"A {short[0]}", f"B {short[1]}")
