"""Two models on the same images: the difference, its interval, and who wins where."""

import numpy as np
import pytest

from segdist.core.records import Prediction, Sample
from segdist.metrics import Evaluator, difference, per_image
from segdist.metrics.difference import Difference
from tests.metrics.drawn import CLASSES, generated


def filled_evaluator(samples: list[Sample], predictions: list[Prediction], metric: str = "iou") -> Evaluator:
    found = {p.image_id: p for p in predictions}
    evaluator = Evaluator(CLASSES, min_score=0.3, metrics=[metric])
    for sample in samples:
        evaluator.add(sample, found.get(sample.image_id))
    return evaluator


def perfect(samples: list[Sample]) -> list[Prediction]:
    return [Prediction(s.image_id, tuple(i for i in s.instances if not i.is_crowd)) for s in samples]


@pytest.fixture(scope="module")
def found() -> Difference:
    samples, predictions = generated(2, images=30)
    return difference(filled_evaluator(samples, perfect(samples)), filled_evaluator(samples, predictions))


def test_the_difference_is_that_of_the_values_and_a_clear_winner_has_an_interval_above_zero(found: Difference) -> None:
    samples, predictions = generated(2, images=30)
    assert found.first == pytest.approx(filled_evaluator(samples, perfect(samples)).values()["iou"])
    assert found.second == pytest.approx(filled_evaluator(samples, predictions).values()["iou"])
    assert found.interval is not None
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    assert found.winner == 1


def test_the_interval_is_the_paired_bootstrap_of_numpy() -> None:
    samples, predictions = generated(5, images=12, crowds=False)
    shaken = generated(5, images=12, crowds=False, shake=9)[1]
    first, second = filled_evaluator(samples, predictions), filled_evaluator(samples, shaken)
    ours = difference(first, second, seed=3, resamples=200)
    what = first.metric("iou")
    a, b = first.table(what), second.table(what)
    rng = np.random.default_rng(3)
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=200)
    gaps = []
    for row in weights:
        chosen = np.repeat(np.arange(12), row)
        values = []
        for table in (a, b):
            true, guess, common = table[chosen].sum(axis=0).T
            with np.errstate(invalid="ignore"):
                values.append(np.nanmean(common / (true + guess - common)))
        gaps.append(values[0] - values[1])
    assert ours.interval == pytest.approx(tuple(np.percentile(gaps, (2.5, 97.5))), abs=1e-12)


def test_images_are_won_and_lost_by_their_own_values(found: Difference) -> None:
    assert len(found.won) + len(found.lost) <= len(found.images) == 30
    gains = [i.gain for i in found.won]
    assert gains == sorted(gains, reverse=True)
    assert min(gains) > 0
    assert not found.lost, "nothing beats the truth"


def test_a_model_is_no_better_than_itself() -> None:
    samples, predictions = generated(3, images=8)
    same = difference(filled_evaluator(samples, predictions), filled_evaluator(samples, predictions))
    assert (same.difference, same.interval, same.winner, same.won, same.lost) == (0.0, (0.0, 0.0), 0, (), ())


def test_the_smaller_error_wins() -> None:
    samples, predictions = generated(2, images=12)
    error = "hausdorff_95"
    found = difference(
        filled_evaluator(samples, perfect(samples), error), filled_evaluator(samples, predictions, error), metric=error
    )
    assert found.difference < 0
    assert found.winner == 1
    assert len(found.won) > len(found.lost) == 0


def test_other_images_are_refused() -> None:
    samples, predictions = generated(2, images=6)
    with pytest.raises(ValueError, match="on the same images and classes"):
        difference(filled_evaluator(samples, predictions), filled_evaluator(samples[:5], predictions))


def test_classes_and_images_have_the_values_of_each_model_alone(found: Difference) -> None:
    samples, predictions = generated(2, images=30)
    sides = filled_evaluator(samples, perfect(samples)), filled_evaluator(samples, predictions)
    assert list(found.per_class) == list(CLASSES)
    for label, values in found.per_class.items():
        expected = [side.values()[f"iou/{label}"] for side in sides]
        assert [np.nan if v is None else v for v in values] == pytest.approx(expected, nan_ok=True)
    first, second = (per_image(side) for side in sides)
    of_image = {i.image_id: (i.first, i.second) for i in found.images}
    for sample, one, two in zip(samples, first, second, strict=True):
        shown = [np.nan if v is None else v for v in of_image[sample.image_id]]
        assert shown == pytest.approx([one, two], nan_ok=True)
    content = found.to_json()
    assert (content["metric"], content["lower_is_better"], content["winner"]) == ("iou", False, 1)
    assert content["per_class"].keys() == set(CLASSES)


def test_of_an_error_the_image_with_the_clearest_smaller_one_is_first() -> None:
    samples, predictions = generated(2, images=12)
    error = "hausdorff_95"
    found = difference(
        filled_evaluator(samples, perfect(samples), error), filled_evaluator(samples, predictions, error), metric=error
    )
    gaps = [i.second - i.first for i in found.won if i.first is not None and i.second is not None]
    assert len(gaps) > 2
    assert gaps == sorted(gaps, reverse=True)
    assert [i.image_id for i in found.images[: len(found.won)]] == [i.image_id for i in found.won]


def test_two_images_have_an_interval_and_one_has_none() -> None:
    samples, predictions = generated(2, images=2)
    both = difference(filled_evaluator(samples, perfect(samples)), filled_evaluator(samples, predictions))
    assert both.interval is not None
    one = difference(
        filled_evaluator(samples[:1], perfect(samples[:1])), filled_evaluator(samples[:1], predictions[:1])
    )
    assert one.interval is None
    assert one.winner == 0


def test_as_json_the_difference_says_all_that_it_knows() -> None:
    samples, predictions = generated(2, images=5)
    error = "hausdorff_95"
    sides = filled_evaluator(samples, perfect(samples), error), filled_evaluator(samples, predictions, error)
    found = difference(*sides, metric=error)
    first, second = (side.values() for side in sides)
    singles = [per_image(side, error) for side in sides]
    assert found.interval is not None
    assert any(np.isnan(values).any() for values in singles), "an image of no object"

    def shown(value: float) -> float | None:
        return None if np.isnan(value) else value

    content = found.to_json()
    images = {i.pop("image_id"): i for i in content.pop("images")}
    assert images == {
        s.image_id: {"first": shown(a), "second": shown(b)} for s, a, b in zip(samples, *singles, strict=True)
    }
    assert content == {
        "metric": error,
        "first": first[error],
        "second": second[error],
        "difference": first[error] - second[error],
        "interval": list(found.interval),
        "winner": found.winner,
        "lower_is_better": True,
        "per_class": {c: [shown(first[f"{error}/{c}"]), shown(second[f"{error}/{c}"])] for c in CLASSES},
        "images_won": len(found.won),
        "images_lost": len(found.lost),
    }
    lone = difference(*(filled_evaluator(samples[:1], p(samples[:1])) for p in (perfect, perfect)))
    assert lone.to_json()["interval"] is None
    assert difference(Evaluator(CLASSES, min_score=0.3), Evaluator(CLASSES, min_score=0.3)).images == ()


def test_what_is_counted_once_for_all_classes_has_none_of_them() -> None:
    samples, predictions = generated(2, images=5)
    pixels = "pixel_accuracy"
    sides = filled_evaluator(samples, perfect(samples), pixels), filled_evaluator(samples, predictions, pixels)
    found = difference(*sides, metric=pixels)
    assert found.per_class == {}
    assert found.first == sides[0].values()[pixels]


def test_images_are_in_the_order_of_what_the_first_gains_and_equal_ones_by_name(found: Difference) -> None:
    gains = [(-i.gain, i.image_id) for i in found.images]
    assert gains == sorted(gains)
    assert len({i.image_id for i in found.images}) == 30


def test_without_a_seed_the_interval_is_that_of_seed_zero() -> None:
    samples, predictions = generated(5, images=12)
    sides = filled_evaluator(samples, perfect(samples)), filled_evaluator(samples, predictions)
    assert difference(*sides).interval == difference(*sides, seed=0).interval != difference(*sides, seed=1).interval
