"""The quality of labels against the evaluator's own metrics and the formulas of calibration."""

from dataclasses import replace

import numpy as np
import pytest

from segdist import masks
from segdist.labelling.quality import summarise
from segdist.labelling.tally import Tally
from segdist.metrics import evaluate
from segdist.records import Evidence, Instance, Prediction, Sample, Verdict

SIZE_HW = (40, 60)


def _sample(image: str, boxes: dict[str, list[tuple[float, float, float, float]]]) -> Sample:
    instances = [
        Instance(label, masks.from_box(box, size_hw=SIZE_HW), box) for label, found in boxes.items() for box in found
    ]
    return Sample(image, "", SIZE_HW, tuple(instances))


TRUTH = [
    _sample("i", {"a": [(2, 2, 12, 12), (20, 2, 30, 12)], "b": [(40, 20, 58, 38)]}),
    _sample("j", {"a": [(5, 5, 25, 25)], "b": [(30, 5, 50, 15)]}),
]
SCORES = [0.9, 0.35, 0.8, 0.6, 0.2]


def _shifted(truth: list[Sample]) -> list[Sample]:
    """Every mask moved to the right by another number of pixels, with a score."""
    made, n = [], 0
    for sample in truth:
        instances = []
        for instance in sample.instances:
            x1, y1, x2, y2 = instance.box_xyxy
            moved = masks.from_box((x1 + 2 * n, y1, x2 + 2 * n, y2), size_hw=SIZE_HW)
            instances.append(replace(instance, mask=moved, score=SCORES[n], evidence=Evidence()))
            n += 1
        made.append(replace(sample, instances=tuple(instances)))
    return made


def _quality(truth: list[Sample], made: list[Sample]) -> dict[str, object]:
    """As shards have it: a tally for each image, added up."""
    notes = []
    for true, guess in zip(truth, made, strict=True):
        tally = Tally()
        tally.add(true, guess, range(len(true.instances)))
        notes.append(tally.notes())
    found = summarise(notes)["quality"]
    assert isinstance(found, dict)
    return found


def test_the_ceiling_is_the_evaluators_iou_of_a_student_that_draws_the_labels() -> None:
    made = _shifted(TRUTH)
    found = _quality(TRUTH, made)
    predictions = [Prediction(s.image_id, s.instances) for s in made]
    values = evaluate(TRUTH, predictions, classes=("a", "b"), min_score=0.0, metrics=["iou"])
    assert found["ceiling_iou"] == pytest.approx(values["iou"])
    assert found["per_class"]["b"]["ceiling_iou"] == pytest.approx(values["iou/b"])  # type: ignore[index]


def test_what_teaches_nothing_does_not_lower_the_ceiling() -> None:
    made = [replace(s, instances=tuple(replace(i, evidence=Evidence()) for i in s.instances)) for s in TRUTH]
    first, *others = made[0].instances
    rejected = replace(first, mask=None, evidence=Evidence(Verdict.REJECT, proposed=first.mask))
    made[0] = replace(made[0], instances=(rejected, *others))
    assert _quality(TRUTH, made)["ceiling_iou"] == 1.0


def test_calibration_takes_scores_for_chances_of_an_iou_of_a_half() -> None:
    made = _shifted(TRUTH)
    found = _quality(TRUTH, made)
    pairs = [(t, g) for a, b in zip(TRUTH, made, strict=True) for t, g in zip(a.instances, b.instances, strict=True)]
    overlaps = np.array([masks.iou(t.mask, g.mask) for t, g in pairs if t.mask and g.mask])
    scores = np.array(SCORES)
    hits = overlaps >= 0.5
    assert 0 < hits.sum() < len(hits)
    assert found["brier"] == pytest.approx(np.mean((scores - hits) ** 2))
    assert found["calibration_error"] == pytest.approx(np.mean(np.abs(scores - hits)))  # each score is alone in its bin
    assert found["score_error"] == pytest.approx(np.mean(np.abs(scores - overlaps)))
