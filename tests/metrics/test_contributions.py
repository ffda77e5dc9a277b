"""What each image does for a model's score: against evaluations without the image, and against the paired interval."""

import numpy as np
import pytest

from segdist.metrics import difference, per_image
from segdist.metrics.contributions import contributions
from segdist.metrics.difference import percentiles
from tests.metrics.drawn import generated
from tests.metrics.test_difference import filled_evaluator, perfect

SAMPLES, PREDICTIONS = generated(3, images=15)


def test_the_influence_of_an_image_is_the_score_less_that_of_all_other_images() -> None:
    found = contributions(filled_evaluator(SAMPLES, PREDICTIONS))
    whole = filled_evaluator(SAMPLES, PREDICTIONS)
    assert found.overall == pytest.approx(whole.values()["iou"])
    assert found.single_N == pytest.approx(per_image(whole, "iou"), nan_ok=True)
    for place, influence in enumerate(found.influence_N):
        others = SAMPLES[:place] + SAMPLES[place + 1 :]
        assert influence == pytest.approx(found.overall - filled_evaluator(others, PREDICTIONS).values()["iou"])


def test_two_models_resampled_alike_have_the_interval_of_their_difference() -> None:
    first, second = filled_evaluator(SAMPLES, perfect(SAMPLES)), filled_evaluator(SAMPLES, PREDICTIONS)
    a, b = contributions(first), contributions(second)
    assert percentiles(a.resampled_R - b.resampled_R) == pytest.approx(difference(first, second).interval)


def test_without_an_image_there_is_nothing_and_with_one_nothing_is_left_without_it() -> None:
    nothing = contributions(filled_evaluator([], []))
    assert np.isnan(nothing.overall)
    assert len(nothing.single_N) == len(nothing.resampled_R) == 0
    one = contributions(filled_evaluator(SAMPLES[:1], PREDICTIONS[:1]))
    assert np.isnan(one.influence_N).all()
