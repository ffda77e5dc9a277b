"""Panoptic quality, boxes and calibration against their formulas."""

from dataclasses import replace

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.records import Instance, Prediction, Sample
from segdist.metrics import evaluate
from segdist.metrics.calibration import BINS, outcomes
from segdist.metrics.objects import one_to_one
from segdist.metrics.prompted import box_fill, prompted_iou
from tests.metrics.drawn import CLASSES, blob, generated, instance, shaken

SIZE_HW = (60, 80)


def panoptic(seed: int) -> tuple[Sample, Prediction, np.ndarray, np.ndarray, np.ndarray]:
    """Segments that do not overlap, as maps of segment numbers, with some unknown pixels."""
    rng = np.random.default_rng(seed)
    true, found = np.zeros(SIZE_HW, int), np.zeros(SIZE_HW, int)
    for number in range(1, 9):
        mask = blob(rng, SIZE_HW)
        true[mask] = number
        found[shaken(mask, rng, 2)] = number
    void = blob(rng, SIZE_HW) & (true == 0)
    label = np.array([""] + [CLASSES[k % 3] for k in range(8)])
    truths = tuple(instance(str(label[n]), true == n) for n in np.unique(true) if n)
    guesses = tuple(instance(str(label[n]), found == n) for n in np.unique(found) if n)
    crowd = (instance("trim", void, is_crowd=True),) if void.any() else ()
    return Sample("0", "", SIZE_HW, truths + crowd), Prediction("0", guesses), true, found, void


@pytest.mark.parametrize("seed", range(6))
def test_panoptic_quality_is_that_of_the_papers_code(seed: int) -> None:
    """The procedure of panopticapi on maps: union without void, matches above a half, void segments not invented."""
    sample, prediction, true, found, void = panoptic(seed)
    values = evaluate([sample], [prediction], classes=CLASSES, min_score=0.3)
    for k, label in enumerate(CLASSES[:3]):
        true_ids = [n for n in np.unique(true) if n and (n - 1) % 3 == k]
        found_ids = [n for n in np.unique(found) if n and (n - 1) % 3 == k]
        overlap, met, used = 0.0, set(), set()
        for d in found_ids:
            for g in true_ids:
                common = ((found == d) & (true == g)).sum()
                whole = (found == d).sum() + (true == g).sum() - common - ((found == d) & void).sum()
                if common / whole > 0.5:
                    overlap += common / whole
                    met.add(g)
                    used.add(d)
        invented = [d for d in found_ids if d not in used and ((found == d) & void).sum() <= 0.5 * (found == d).sum()]
        whole = len(met) + 0.5 * len(invented) + 0.5 * (len(true_ids) - len(met))
        expected = overlap / whole if whole else np.nan
        assert values[f"panoptic_quality/{label}"] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        if met:
            product = values[f"segmentation_quality/{label}"] * values[f"recognition_quality/{label}"]
            assert product == pytest.approx(expected, abs=1e-12)


def test_calibration_error_and_brier_equal_their_formulas() -> None:
    """Scores and outcomes are known because every object stands alone."""
    rng = np.random.default_rng(1)
    samples, predictions, scores, hits = [], [], [], []
    square = masks.decode(masks.from_box((10, 10, 30, 30), size_hw=SIZE_HW))
    for number in range(300):
        score = float(np.float32(rng.random()))
        hit = rng.random() < score**2
        samples.append(Sample(f"{number}", "", SIZE_HW, (instance("crack", square),) if hit else ()))
        predictions.append(Prediction(f"{number}", (instance("crack", square, score),)))
        scores.append(score)
        hits.append(float(hit))
    values = evaluate(samples, predictions, classes=CLASSES, min_score=0.3, metrics=["calibration_error", "brier"])
    s, h = np.array(scores), np.array(hits)
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (s > low) & (s <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(s[inside].mean() - h[inside].mean())
    assert values["calibration_error"] == pytest.approx(error, abs=1e-9)
    assert values["brier"] == pytest.approx(((s - h) ** 2).mean(), abs=1e-9)
    assert values["brier/crack"] == values["brier"]


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    return masks.decode(masks.from_box((x1, y1, x2, y2), size_hw=SIZE_HW))


def test_every_class_has_a_calibration_of_its_own_and_objects_of_every_size_count_from_a_half_on() -> None:
    """Of 40 x 40 pixels: a hit by 52 of 100, a miss by 48, and one that lies in a crowd by 52 of 100."""
    large = rectangle(0, 0, 50, 40)
    truth = [
        Sample("hit", "", SIZE_HW, (instance("crack", large),)),
        Sample("miss", "", SIZE_HW, (instance("crack", large),)),
        Sample("crowd", "", SIZE_HW, (instance("seam", rectangle(0, 0, 26, 60), is_crowd=True),)),
        Sample("seam", "", SIZE_HW, (instance("seam", large),)),
    ]
    found = [
        Prediction("hit", (instance("crack", rectangle(0, 0, 26, 40), 0.9),)),
        Prediction("miss", (instance("crack", rectangle(0, 0, 24, 40), 0.7),)),
        Prediction("crowd", (instance("seam", large, 0.2),)),
        Prediction("seam", (instance("seam", large, 0.6),)),
    ]
    values = evaluate(truth, found, classes=CLASSES, min_score=0.3, metrics=["calibration_error", "brier"])
    assert values["calibration_error/crack"] == pytest.approx((0.1 + 0.7) / 2)
    assert values["calibration_error/seam"] == pytest.approx(0.4)
    assert values["calibration_error"] == pytest.approx((0.1 + 0.7 + 0.4) / 3)
    assert values["brier/crack"] == pytest.approx((0.01 + 0.49) / 2)
    assert values["brier/seam"] == pytest.approx(0.16)
    assert values["brier"] == pytest.approx((0.01 + 0.49 + 0.16) / 3)


def test_what_lies_in_a_crowd_by_more_than_a_half_is_not_invented_each_time() -> None:
    crowd = instance("crack", rectangle(0, 0, 40, 40), is_crowd=True)
    sample = Sample("a", "", SIZE_HW, (crowd, instance("crack", rectangle(60, 40, 70, 50))))
    within = [instance("crack", rectangle(*box)) for box in ((0, 0, 9, 9), (20, 20, 30, 30), (35, 10, 44, 20))]
    half = instance("crack", rectangle(30, 30, 50, 40))

    def values(*found: Instance) -> dict[str, float]:
        met = instance("crack", rectangle(60, 40, 70, 50))
        return evaluate([sample], [Prediction("a", (met, *found))], classes=("crack",), min_score=0.3)

    assert values(*within)["box_iou"] == values(*within)["panoptic_quality"] == 1
    assert values(*within, half)["box_iou"] == pytest.approx(1 / 2)
    assert values(*within, half)["panoptic_quality"] == pytest.approx(1 / 1.5)


def test_boxes_are_matched_once_and_every_other_one_counts_zero() -> None:
    def box(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        return masks.decode(masks.from_box((x1, y1, x2, y2), size_hw=SIZE_HW))

    truths = (instance("crack", box(0, 0, 10, 10)), instance("crack", box(40, 0, 50, 10)))
    found = (
        instance("crack", box(0, 0, 10, 5)),
        instance("crack", box(0, 0, 10, 4)),
        instance("crack", box(5, 30, 9, 40)),
    )
    values = evaluate([Sample("a", "", SIZE_HW, truths)], [Prediction("a", found)], classes=("crack",), min_score=0.3)
    assert values["box_iou"] == pytest.approx(0.5 / 4)
    assert values["box_dice"] == pytest.approx(2 * 25 / (50 + 25) / 4), "twice the common area over both areas, once"


def test_a_score_below_the_threshold_is_not_found_but_ranks_in_average_precision() -> None:
    square = masks.decode(masks.from_box((10, 10, 30, 30), size_hw=SIZE_HW))
    sample, found = Sample("a", "", SIZE_HW, (instance("crack", square),)), instance("crack", square, 0.2)
    values = evaluate([sample], [Prediction("a", (found,))], classes=("crack",), min_score=0.3)
    assert values["iou"] == values["panoptic_quality"] == values["box_iou"] == 0
    assert values["mask_ap"] == values["box_ap"] == values["boundary_ap"] == 1
    assert values["brier"] == pytest.approx(0.64)


def test_masks_of_another_size_and_unknown_images_are_errors() -> None:
    samples, predictions = generated(0, images=2)
    with pytest.raises(ValueError, match="'9'"):
        evaluate(samples, [*predictions, Prediction("9", ())], classes=CLASSES, min_score=0.3)
    wrong = Prediction("000", (instance("crack", np.ones((3, 4), np.bool_)),))
    with pytest.raises(ValueError, match=r"\(60, 80\), but has \(3, 4\)"):
        evaluate(samples, [wrong], classes=CLASSES, min_score=0.3)


def test_pairs_are_the_best_first_each_once_from_the_least_overlap_on() -> None:
    overlaps = np.array([[0.5, 0.9, 0.2], [0.9, 0.9, 0.1], [0.7, 0.3, 0.5]])
    assert one_to_one(overlaps, at_least=0.5) == [(0, 1), (1, 0), (2, 2)]
    assert one_to_one(overlaps, at_least=0.51) == [(0, 1), (1, 0)]
    assert one_to_one(np.ones((3, 1)), at_least=0.5) == [(0, 0)]
    assert one_to_one(np.ones((1, 3)), at_least=0.5) == [(0, 0)]


def test_scores_fall_into_fifteen_bins_that_end_where_the_next_begins() -> None:
    """Guo et al. (2017): the m-th of M bins is ((m - 1) / M, m / M]; a score of 0 belongs to the first."""
    scores = np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 14 / 15, 1.0])
    counts = outcomes(scores, np.ones(6))[:BINS]
    assert np.flatnonzero(counts).tolist() == [0, 1, 7, 13, 14]
    assert counts[[0, 1, 7, 13, 14]].tolist() == [2, 1, 1, 1, 1]
    assert outcomes(np.array([1 + 1e-9]), np.ones(1))[:BINS].nonzero()[0].tolist() == [14], "what rounding adds"
    assert outcomes(scores, np.ones(6))[-1] == pytest.approx(((scores - 1) ** 2).sum())


def test_masks_made_from_boxes_count_zero_where_there_is_none_and_belong_to_an_object_each() -> None:
    truth = generated(1, images=1, crowds=False)[0][0]
    perfect = Prediction(truth.image_id, truth.instances)
    assert len(truth.instances) > 1
    assert prompted_iou([truth], [perfect])["prompted_iou"] == 1
    first, *rest = truth.instances
    without = Prediction(truth.image_id, (replace(first, mask=None), *rest))
    assert prompted_iou([truth], [without])["prompted_iou"] == pytest.approx(len(rest) / (1 + len(rest)))
    with pytest.raises(ValueError, match="shorter"):
        prompted_iou([truth], [Prediction(truth.image_id, tuple(rest))])
    with pytest.raises(ValueError, match="shorter"):
        prompted_iou([truth], [])
    with pytest.raises(ValueError, match="none named 'unknown'"):
        prompted_iou([truth], [perfect, Prediction("unknown", ())])
    assert np.isnan(prompted_iou([], [])["prompted_iou"])
    (filled,) = box_fill([truth])
    assert [i.label for i in filled.instances] == [i.label for i in truth.instances]
