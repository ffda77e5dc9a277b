"""Panels of a few images: the first ones, the same in every trial; and the worst, median and best of a model."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from segdist.core.panels import ImageHWC, encode_jpeg, panel
from segdist.core.records import LabelledImages, Prediction, Sample
from segdist.core.spec import EvaluateSpec
from segdist.engine.evaluation import EvaluationReport
from segdist.engine.ranked_examples import ranked_examples
from segdist.reading.examples import decode_image

INDEX = "index.json"
"""Says of each ranked picture its rank, among which images, and the value."""


def save(
    folder: Path, rows: LabelledImages, found: Iterable[Prediction], evaluate: EvaluateSpec, *, classes: Sequence[str]
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


def save_ranked_examples(
    folder: Path, rows: LabelledImages, found: EvaluationReport, evaluate: EvaluateSpec, *, classes: Sequence[str]
) -> None:
    """Write panels with edge maps: `worst-0.jpg`, `median-0.jpg`, `best-0.jpg`, ... by the image's IoU.

    Those of groups of images are there too; an image is drawn once, and `index.json` lists which file is what.
    """
    if not evaluate.pictures:
        return
    folder.mkdir(parents=True)
    place = {image["image_id"]: k for k, image in enumerate(found.images)}
    files: dict[str, str] = {}
    index = []
    for one in ranked_examples(found):
        if one.image_id not in files:
            files[one.image_id] = f"{one.rank}-{len(files)}.jpg"
            sample, image_bytes = rows[place[one.image_id]]
            picture = _panel(sample, image_bytes, found.predictions[place[one.image_id]], evaluate, classes, bleed=True)
            (folder / files[one.image_id]).write_bytes(encode_jpeg(picture))
        index.append({"file": files[one.image_id], **asdict(one)})
    (folder / INDEX).write_text(json.dumps(index), "utf-8")


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
