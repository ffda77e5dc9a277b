"""Spread, groups and intervals say how far a mean can be trusted."""

import numpy as np
import pytest

from segdist.core.errors import SpecError
from segdist.core.records import Prediction, Sample
from segdist.metrics import Evaluator, Spread, consistency, family_of, lower_is_better, per_image
from tests.metrics.drawn import CLASSES, generated, instance

SIZE_HW = (20, 20)


def square(side: int) -> np.ndarray:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[:side, :side] = True
    return mask


def seen(sides: list[int]) -> Evaluator:
    """Images with a square of 10, of which one of another side was found."""
    evaluator = Evaluator(("crack",), min_score=0.3, metrics=["iou", "hausdorff_95"])
    for number, side in enumerate(sides):
        sample = Sample(f"{number}", "", SIZE_HW, (instance("crack", square(10)),))
        evaluator.add(sample, Prediction(sample.image_id, (instance("crack", square(side)),) if side else ()))
    return evaluator


def test_the_spread_is_that_of_numpy_over_single_images() -> None:
    evaluator = seen([10, 5, 0, 8, 10, 9])
    values = np.array([min(s, 10) ** 2 / 100 for s in (10, 5, 0, 8, 10, 9)])
    assert per_image(evaluator) == pytest.approx(values)
    spread = consistency(evaluator, {}).whole.spread
    assert spread is not None
    assert (spread.mean, spread.std) == pytest.approx((values.mean(), values.std()))
    assert (spread.low, spread.high, spread.p50) == pytest.approx((0, 1, np.median(values)))
    assert (spread.p10, spread.p90) == pytest.approx(tuple(np.percentile(values, (10, 90))))
    assert Spread.of(np.array([np.nan])) is None


def test_the_worst_group_comes_first_and_for_errors_the_highest_is_the_worst() -> None:
    evaluator = seen([10, 5, 8, 9])
    found = consistency(evaluator, {"room": ["bath", "hall", "hall", "bath"]})
    assert [p.name for p in found.of("room")] == ["hall", "bath"]
    assert [p.value for p in found.of("room")] == pytest.approx([(25 + 64) / 200, (100 + 81) / 200])
    far = consistency(evaluator, {"room": ["bath", "hall", "hall", "bath"]}, metric="hausdorff_95")
    assert [p.name for p in far.of("room")] == ["hall", "bath"]
    assert far.of("room")[0].value > far.of("room")[1].value
    assert [p.name for p in found.of("class")] == ["crack"]
    assert found.to_json()["parts"]["room"][0]["name"] == "hall"


def test_the_interval_is_seeded_holds_the_value_and_covers_as_often_as_it_says() -> None:
    evaluator = seen([int(s) for s in np.random.default_rng(0).integers(3, 11, 40)])
    one, same, other = (consistency(evaluator, {}, seed=seed).whole.interval for seed in (1, 1, 2))
    assert one == same != other
    assert one is not None
    assert one[0] < consistency(evaluator, {}).whole.value < one[1]
    rng = np.random.default_rng(3)
    truth = np.mean([s**2 / 100 for s in range(3, 11)])
    covered: int = 0
    for _ in range(60):
        interval = consistency(seen([int(s) for s in rng.integers(3, 11, 30)]), {}, resamples=200).whole.interval
        covered += int(interval is not None and interval[0] <= truth <= interval[1])
    assert covered >= 50, "of 60; 57 are expected"


def test_one_image_has_no_interval_and_a_group_without_objects_no_value() -> None:
    assert consistency(seen([5]), {}).whole.interval is None
    evaluator = seen([5, 6])
    evaluator.add(Sample("bare", "", SIZE_HW), None)
    found = consistency(evaluator, {"room": ["a", "a", "b"]}).of("room")
    assert [p.name for p in found] == ["a", "b"]
    assert np.isnan(found[1].value)
    assert found[1].spread is None


def test_every_metric_that_adds_up_has_groups() -> None:
    samples, predictions = generated(1, images=8)
    found = {p.image_id: p for p in predictions}
    evaluator = Evaluator(CLASSES, min_score=0.3)
    for sample in samples:
        evaluator.add(sample, found.get(sample.image_id))
    values = evaluator.values()
    for metric in evaluator.metrics:
        whole = consistency(evaluator, {"half": ["a", "b"] * 4}, metric=metric.name, resamples=20).whole
        assert whole.value == pytest.approx(values[metric.name], nan_ok=True)


def test_names_lead_back_to_their_metric() -> None:
    assert family_of("boundary_ap_50/wall crack") == "boundary_ap"
    assert family_of("iou/crack") == "iou"
    assert family_of("mask_ar_100") == "mask_ap"
    assert family_of("loss") == ""
    assert lower_is_better("hausdorff_95/crack")
    assert not lower_is_better("mask_ap")
    with pytest.raises(SpecError, match="Did you mean `dice`"):
        Evaluator(("a",), min_score=0.3, metrics=["dise"])


def test_the_interval_is_the_bootstrap_of_numpy_and_two_images_are_enough() -> None:
    sides = [10, 5, 0, 8, 10, 9, 3, 7]
    found = consistency(seen(sides), {}, seed=4, resamples=500)
    areas = np.array([(100, side**2, min(side, 10) ** 2) for side in sides], np.float64)
    weights = np.random.default_rng(4).multinomial(8, np.full(8, 1 / 8), size=500)
    true, guess, common = (weights @ areas).T
    shares = common / (true + guess - common)
    assert found.of("class")[0].interval == pytest.approx(tuple(np.percentile(shares, (2.5, 97.5))))
    assert consistency(seen([10, 5]), {}).whole.interval is not None
    unseeded, zero, one = consistency(seen(sides), {}), *(consistency(seen(sides), {}, seed=s) for s in (0, 1))
    assert unseeded.whole.interval == zero.whole.interval != one.whole.interval
    rooms = consistency(seen(sides), {"room": ["a", "b"] * 4}).of("room")
    assert all(r.interval is not None and r.interval[0] < r.value < r.interval[1] for r in rooms)
    assert found.metric == "iou"
    assert (found.whole.of, found.whole.name) == ("all", "all")
    assert list(found.to_json()) == ["metric", "whole", "parts"]
    assert found.to_json()["metric"] == "iou"
    assert found.to_json()["whole"]["spread"]["images"] == 8


def test_the_ninetieth_percentile_is_numpys() -> None:
    values = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    spread = Spread.of(values)
    assert spread is not None
    assert spread.images == 5
    assert spread.p90 == pytest.approx(np.percentile(values, 90))


def test_groups_without_a_value_come_last_and_equal_ones_by_name() -> None:
    evaluator = Evaluator(("crack",), min_score=0.3, metrics=["iou"])
    for number, side in enumerate([10, 10, 0]):
        truth = (instance("crack", square(10)),) if side else ()
        sample = Sample(f"{number}", "", SIZE_HW, truth)
        evaluator.add(sample, Prediction(sample.image_id, truth))
    found = consistency(evaluator, {"room": ["hall", "bath", "attic"]})
    assert [p.name for p in found.of("room")] == ["bath", "hall", "attic"]
    assert np.isnan(found.of("room")[-1].value)
    bare = Evaluator(("seam", "crack"), min_score=0.3, metrics=["iou"])
    bare.add(Sample("0", "", SIZE_HW), None)
    assert [p.name for p in consistency(bare, {}).of("class")] == ["crack", "seam"]
