"""The paired bootstrap: against a float64 loop, and where the answer is known."""

import numpy as np
import pytest

from segdist import masks
from segdist.metrics import Evaluator
from segdist.metrics.paired import difference
from segdist.records import Instance, Prediction, Sample

SIZE = (16, 16)


def instance(columns: int) -> Instance:
    rle = masks.from_box((0, 0, columns, 16), size_hw=SIZE)
    return Instance("roof", rle, rle.box_xyxy)


def seen(columns: list[int]) -> Evaluator:
    """An evaluator of truth 8 columns wide and predictions of so many columns."""
    evaluator = Evaluator(("roof",), min_score=0.5, metrics=("iou",))
    for k, width in enumerate(columns):
        evaluator.add(Sample(f"{k}", "", SIZE, (instance(8),)), Prediction(f"{k}", (instance(width),)))
    return evaluator


def test_the_interval_is_that_of_a_plain_loop_over_resampled_images() -> None:
    rng = np.random.default_rng(3)
    new, old = rng.integers(4, 13, 30).tolist(), rng.integers(4, 13, 30).tolist()
    found = difference(seen(new), seen(old), seed=5, resamples=400)

    draws = np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), size=400)

    def iou(widths: list[int], draw: np.ndarray) -> float:
        common = sum(n * min(w, 8) for n, w in zip(draw, widths, strict=True))
        return common / sum(n * max(w, 8) for n, w in zip(draw, widths, strict=True))

    values = [iou(new, d) - iou(old, d) for d in draws]
    assert found.interval == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))), abs=1e-12)
    assert found.new - found.old == pytest.approx(iou(new, np.ones(30)) - iou(old, np.ones(30)))


def test_a_model_that_is_a_little_better_on_every_image_is_better_and_an_equal_one_is_not() -> None:
    old = [4, 5, 6, 7] * 5
    assert difference(seen([w + 1 for w in old]), seen(old)).is_better
    assert not difference(seen(old), seen(old)).is_better
    assert not difference(seen([w - 1 for w in old]), seen(old)).is_better


def test_a_gain_on_one_image_alone_is_not_beyond_the_interval() -> None:
    old = [6] * 20
    assert not difference(seen([8, *old[1:]]), seen(old)).is_better


def test_models_that_saw_other_images_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same images"):
        difference(seen([4, 5]), seen([4]))
