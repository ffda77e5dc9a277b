"""Panels [image | truth | prediction] of a few validation images: the first ones, the same in every trial."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from segdist.data.examples import decode_image
from segdist.engine.data import Rows
from segdist.panels import encode_jpeg, panel
from segdist.records import Prediction, Sample
from segdist.spec import EvaluateSpec


def save(
    folder: Path,
    rows: Rows,
    pairs: Sequence[tuple[Sample, Prediction]],
    evaluate: EvaluateSpec,
    *,
    classes: Sequence[str],
) -> None:
    """Write `evaluate.pictures` panels as `<number>.jpg`; a class has the same colour in all of them."""
    if not evaluate.pictures:
        return
    folder.mkdir(parents=True)
    found = {sample.image_id: prediction for sample, prediction in pairs}
    shown_rows = ((i, *rows[i]) for i in range(len(rows)) if rows[i][0].image_id in found)
    for number, sample, image_bytes in islice(shown_rows, min(evaluate.pictures, len(found))):
        shown = tuple(i for i in found[sample.image_id].instances if i.score >= evaluate.min_score)
        image = panel(
            decode_image(image_bytes), sample, replace(found[sample.image_id], instances=shown), classes=classes
        )
        (folder / f"{number:03d}.jpg").write_bytes(encode_jpeg(image))
