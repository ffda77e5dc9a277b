"""Configurations of several seeds on the same images: how likely each is the best, and which cannot be told apart."""

from collections.abc import Sequence

import numpy as np
import pytest

from segdist.metrics import Evaluator, ranking
from segdist.metrics.evaluator import CountedImage
from segdist.metrics.ranking import _over_seeds
from tests.metrics.drawn import generated
from tests.metrics.test_difference import filled_evaluator, perfect

PIXELS = 1000.0


def seen(overlaps: Sequence[float], metric: str = "iou") -> Evaluator:
    """A model of one class whose true and predicted regions have 1000 pixels in each image, of which so many meet."""
    evaluator = Evaluator(("roof",), min_score=0.3, metrics=[metric])
    evaluator.seen = [
        CountedImage(f"{k}", (np.array([[PIXELS, PIXELS, overlap]]),), ()) for k, overlap in enumerate(overlaps)
    ]
    return evaluator


def trained(
    rng: np.random.Generator, images: np.ndarray[tuple[int], np.dtype[np.float64]], *, level: float, spread: float
) -> Evaluator:
    """One training: images are as hard for each, a seed moves all of them, and each a little."""
    moved = images + level + rng.normal(0, spread) + rng.normal(0, 5, len(images))
    return seen(np.clip(moved, 0, PIXELS).tolist())


def iou(overlaps: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(overlaps.sum() / (2 * PIXELS * len(overlaps) - overlaps.sum()))


def test_images_and_seeds_are_resampled_as_numpy_does_it() -> None:
    rng = np.random.default_rng(5)
    overlaps = [rng.uniform(300, 900, (seeds, 9)) for seeds in (3, 2, 1)]
    ours = ranking([[seen(one.tolist()) for one in seeds] for seeds in overlaps], seed=7, resamples=200)

    draw = np.random.default_rng(7)
    images = draw.multinomial(9, np.full(9, 1 / 9), size=200)
    means = np.zeros((3, 200))
    for place, seeds in enumerate(overlaps):
        drawn = draw.multinomial(max(len(seeds) - 1, 1), np.full(len(seeds), 1 / len(seeds)), size=200)
        for row in range(200):
            chosen = np.repeat(np.arange(9), images[row])
            means[place, row] = np.mean([iou(seeds[seed][chosen]) for seed in np.repeat(range(len(seeds)), drawn[row])])
    wins = np.bincount(means.argmax(axis=0), minlength=3) / 200
    assert np.count_nonzero(wins) > 1
    assert ours.chances == pytest.approx(tuple(wins))
    gaps = [np.percentile(means[0] - other, (2.5, 97.5)) for other in means[1:]]
    assert np.array(ours.gaps) == pytest.approx(np.array(gaps), abs=1e-12)


def test_with_one_seed_each_the_chance_is_the_share_of_resampled_images_in_which_a_model_leads() -> None:
    samples, predictions = generated(5, images=12, crowds=False)
    worse = generated(5, images=12, crowds=False, shake=6)[1]
    pairs = list(zip(predictions, worse, strict=True))
    mixed = [[pair[(k + first) % 3 == 0] for k, pair in enumerate(pairs)] for first in range(3)]
    models = [filled_evaluator(samples, found) for found in mixed]  # each is better on other images
    tables = [model.table(model.metric("iou")) for model in models]
    wins = np.zeros(3)
    for row in np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=1000):
        chosen = np.repeat(np.arange(12), row)
        values = []
        for table in tables:
            true, guess, common = table[chosen].sum(axis=0).T
            with np.errstate(invalid="ignore"):
                values.append(np.nanmean(common / (true + guess - common)))
        leads = np.isclose(values, max(values), rtol=0, atol=1e-12)
        wins += leads / leads.sum()
    assert np.count_nonzero(wins) > 1
    assert ranking([[model] for model in models]).chances == pytest.approx(wins / 1000, abs=1e-9)
    same = filled_evaluator(samples, predictions)
    assert ranking([[same], [same]]).chances == (0.5, 0.5)
    clear = ranking([[filled_evaluator(samples, perfect(samples))], [same]])
    assert (clear.chances, clear.close) == ((1.0, 0.0), ())


def test_a_difference_smaller_than_the_spread_of_seeds_is_none_although_images_alone_would_say_so() -> None:
    rng = np.random.default_rng(1)
    images = rng.uniform(400, 800, 60)
    better, worse = ([trained(rng, images, level=level, spread=40) for _ in range(3)] for level in (10, 0))
    best_first = sorted((better, worse), key=lambda seeds: -np.mean([e.values()["iou"] for e in seeds]))
    lucky = max((e for seeds in best_first for e in seeds), key=lambda e: e.values()["iou"])
    unlucky = min((e for seeds in best_first for e in seeds), key=lambda e: e.values()["iou"])
    assert ranking([[lucky], [unlucky]]).close == (), "to the images they are two models"
    found = ranking(best_first)
    assert found.close == (1,)
    assert 0.5 <= found.chances[0] < 0.95


def test_a_difference_larger_than_the_spread_of_seeds_is_one() -> None:
    rng = np.random.default_rng(2)
    images = rng.uniform(400, 700, 60)
    found = ranking([[trained(rng, images, level=level, spread=10) for _ in range(3)] for level in (100, 50, 0)])
    assert found.close == ()
    assert found.chances == (1.0, 0.0, 0.0)
    assert found.gaps[0] is not None
    assert found.gaps[1] is not None
    assert 0 < found.gaps[0][0] < found.gaps[0][1] < found.gaps[1][1]


def test_equal_configurations_share_the_chance() -> None:
    rng = np.random.default_rng(3)
    images = rng.uniform(400, 800, 20)
    one = [trained(rng, images, level=0, spread=20) for _ in range(4)]
    alike = ranking([one, one, one, one])
    assert alike.chances == pytest.approx((0.25,) * 4, abs=0.05), "their seeds are drawn independently of each other"
    assert alike.close == (1, 2, 3)
    drawn = [
        ranking([[trained(rng, images, level=0, spread=20) for _ in range(3)] for _ in range(3)], resamples=200).chances
        for _ in range(60)
    ]
    assert np.mean(drawn, axis=0) == pytest.approx([1 / 3] * 3, abs=0.12)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_mean_over_seeds_varies_by_the_variance_of_the_sample_over_their_number(seeds: int) -> None:
    """Drawing as many seeds as there are would give (n - 1) / n of it."""
    values = np.random.default_rng(seeds).uniform(0.4, 0.8, seeds)
    means = _over_seeds(np.tile(values[:, None], 20_000), np.random.default_rng(0))
    assert means.mean() == pytest.approx(values.mean(), abs=5e-3)
    expected = np.var(values, ddof=1) / seeds if seeds > 1 else 0.0
    assert np.var(means) == pytest.approx(expected, rel=0.05, abs=1e-12)


def test_of_an_error_the_lower_mean_is_better_and_is_so_by_a_positive_gap() -> None:
    samples, predictions = generated(2, images=12)
    error = "hausdorff_95"
    good, bad = (filled_evaluator(samples, found, error) for found in (perfect(samples), predictions))
    found = ranking([[good, good], [bad, bad]], metric=error)
    assert found.chances == (1.0, 0.0)
    assert found.gaps[0] is not None
    assert found.gaps[0][0] > 0
    assert ranking([[bad], [good]], metric=error).close == (1,)


def test_one_image_tells_nothing_apart_and_other_images_are_refused() -> None:
    assert ranking([[seen([900])], [seen([100])]]).close == (1,)
    with pytest.raises(ValueError, match="on the same images and classes"):
        ranking([[seen([900, 800]), seen([900])], [seen([100, 100])]])
