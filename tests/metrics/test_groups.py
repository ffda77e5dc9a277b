"""The worst group's IoU is the lowest IoU of the groups' images, each evaluated for itself."""

from dataclasses import replace

import numpy as np
import pytest

from segdist.core.records import Prediction, Sample
from segdist.metrics import WORST_GROUP, Evaluator, evaluate
from tests.metrics.drawn import CLASSES, generated


def test_it_is_the_lowest_iou_of_the_groups_each_evaluated_alone() -> None:
    samples, predictions = generated(3, images=9)
    named = [replace(s, group=("night", "", "day")[k % 3]) for k, s in enumerate(samples)]
    whole = evaluate(named, predictions, classes=CLASSES, min_score=0.5)
    alone = [
        evaluate(named[k::3], _of(named[k::3], predictions), classes=CLASSES, min_score=0.5, metrics=["iou"])["iou"]
        for k in range(3)
    ]
    assert whole[WORST_GROUP] == min(alone) < max(alone)
    assert WORST_GROUP not in [name.partition("/")[0] for name in whole if "/" in name]


def _of(samples: list[Sample], predictions: list[Prediction]) -> list[Prediction]:
    ids = {sample.image_id for sample in samples}
    return [one for one in predictions if one.image_id in ids]


def test_it_does_not_depend_on_which_worker_saw_an_image() -> None:
    samples, predictions = generated(4, images=8)
    named = [replace(s, group=str(k % 2)) for k, s in enumerate(samples)]
    first, second = (Evaluator(CLASSES, min_score=0.5, metrics=[WORST_GROUP]) for _ in range(2))
    found = {one.image_id: one for one in predictions}
    for k, sample in enumerate(named):
        (first, second)[k > 4].add(sample, found.get(sample.image_id))
    first.seen += second.seen
    assert first.values() == evaluate(named, predictions, classes=CLASSES, min_score=0.5, metrics=[WORST_GROUP])


@pytest.mark.parametrize("groups", [("", "", "", ""), ("a", "a", "a", "a"), ("a", "b", "c", "c")])
def test_without_groups_it_is_undefined(groups: tuple[str, ...]) -> None:
    samples, predictions = generated(5, images=4)
    named = [replace(s, group=group) for s, group in zip(samples, groups, strict=True)]
    values = evaluate(named, predictions, classes=CLASSES, min_score=0.5, metrics=[WORST_GROUP])
    assert np.isnan(values[WORST_GROUP])
