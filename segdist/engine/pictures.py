"""Panels of a few images: the first ones, the same in every trial; and the worst, median and best of a model."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from segdist.data.examples import decode_image
from segdist.engine.appraise import Appraisal, telling
from segdist.engine.data import Rows
from segdist.panels import ImageHWC, encode_jpeg, panel
from segdist.records import Prediction, Sample
from segdist.spec import EvaluateSpec


def save(
    folder: Path, rows: Rows, found: Iterable[Prediction], evaluate: EvaluateSpec, *, classes: Sequence[str]
) -> None:
    """Write `evaluate.pictures` panels as `<number>.jpg`; a class has the same colour in all of them."""
    if not evaluate.pictures:
        return
    folder.mkdir(parents=True)
    by_image = {prediction.image_id: prediction for prediction in found}
    shown = ((i, *rows[i]) for i in range(len(rows)) if rows[i][0].image_id in by_image)
    for number, sample, image_bytes in islice(shown, min(evaluate.pictures, len(by_image))):
        picture = _panel(sample, image_bytes, by_image[sample.image_id], evaluate, classes)
        (folder / f"{number:03d}.jpg").write_bytes(encode_jpeg(picture))


def save_telling(folder: Path, rows: Rows, found: Appraisal, evaluate: EvaluateSpec, *, classes: Sequence[str]) -> None:
    """Write panels with edge maps as `worst-0.jpg`, `median-0.jpg`, `best-0.jpg`, ..., ranked by the image's IoU."""
    if not evaluate.pictures:
        return
    folder.mkdir(parents=True)
    place = {image["image_id"]: k for k, image in enumerate(found.images)}
    for rank, image_ids in telling(found).items():
        for number, image_id in enumerate(image_ids):
            sample, image_bytes = rows[place[image_id]]
            picture = _panel(sample, image_bytes, found.predictions[place[image_id]], evaluate, classes, bleed=True)
            (folder / f"{rank}-{number}.jpg").write_bytes(encode_jpeg(picture))


def _panel(
    sample: Sample,
    image_bytes: bytes,
    prediction: Prediction,
    evaluate: EvaluateSpec,
    classes: Sequence[str],
    *,
    bleed: bool = False,
) -> ImageHWC:
    """A panel of what counts as found."""
    shown = tuple(i for i in prediction.instances if evaluate.accepts(i.label, i.score))
    image = decode_image(image_bytes, name=sample.image_id)
    return panel(image, sample, replace(prediction, instances=shown), classes=classes, bleed=bleed)
