"""Metrics on pixels, computed on run lengths, against NumPy on decoded masks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdist.core import masks
from segdist.core.records import Instance, Prediction, Sample
from segdist.metrics import box_fill, evaluate, prompted_iou

SIZE_HW = (7, 9)
CLASSES = ("a", "b", "c")
METRICS = ("iou", "dice", "accuracy", "pixel_accuracy")


@st.composite
def instances(draw: st.DrawFn, *, truth: bool) -> tuple[Instance, ...]:
    found = []
    for _ in range(draw(st.integers(0, 4))):
        y1, x1 = draw(st.integers(0, 6)), draw(st.integers(0, 8))
        y2, x2 = draw(st.integers(y1, 7)), draw(st.integers(x1, 9))
        rle = masks.from_box((x1, y1, x2, y2), size_hw=SIZE_HW)
        bare = truth and draw(st.integers(0, 4)) == 0
        found.append(
            Instance(
                draw(st.sampled_from((*CLASSES, "other"))),
                None if bare else rle,
                (x1, y1, x2, y2),
                score=1.0 if truth else draw(st.sampled_from((0.1, 0.3, 0.9))),
                is_crowd=truth and not bare and draw(st.integers(0, 4)) == 0,
            )
        )
    return tuple(found)


def filled(chosen: list[Instance]) -> np.ndarray:
    canvas = np.zeros(SIZE_HW, bool)
    for i in chosen:
        canvas |= masks.decode(i.mask or masks.from_box(i.box_xyxy, size_hw=SIZE_HW))
    return canvas


def reference(pairs: list[tuple[tuple[Instance, ...], tuple[Instance, ...]]], label: str) -> tuple[float, float, float]:
    """IoU, Dice and accuracy of one class by counting pixels."""
    common = whole = areas = trues = 0
    for truth, guesses in pairs:
        known = [i for i in truth if i.mask is not None and not i.is_crowd]
        counts = ~(filled([i for i in truth if i not in known]) & ~filled(known))
        true = filled([i for i in known if i.label == label])
        found = filled([i for i in guesses if i.label == label and i.score >= 0.3]) & counts
        common += int((true & found).sum())
        whole += int((true | found).sum())
        areas += int(true.sum()) + int(found.sum())
        trues += int(true.sum())
    accuracy = common / trues if trues else math.nan
    return (common / whole, 2 * common / areas, accuracy) if whole else (math.nan, math.nan, accuracy)


def share_of_right_pixels(pairs: list[tuple[tuple[Instance, ...], tuple[Instance, ...]]]) -> float:
    """Pixels at which the set of classes found is the set of true ones, of all that are known."""
    right = total = 0
    for truth, guesses in pairs:
        known = [i for i in truth if i.mask is not None and not i.is_crowd]
        counts = ~(filled([i for i in truth if i not in known]) & ~filled(known))
        same = np.ones(SIZE_HW, bool)
        for label in CLASSES:
            true = filled([i for i in known if i.label == label])
            same &= true == filled([i for i in guesses if i.label == label and i.score >= 0.3])
        right += int((same & counts).sum())
        total += int(counts.sum())
    return right / total if total else math.nan


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(instances(truth=True), instances(truth=False)), max_size=4))
def test_they_equal_counting_pixels(pairs: list[tuple[tuple[Instance, ...], tuple[Instance, ...]]]) -> None:
    samples = [Sample(str(n), "", SIZE_HW, truth) for n, (truth, _) in enumerate(pairs)]
    predictions = [Prediction(str(n), guesses) for n, (_, guesses) in enumerate(pairs)]
    values = evaluate(samples, predictions, classes=CLASSES, min_score=0.3, metrics=METRICS)
    expected = {label: reference(pairs, label) for label in CLASSES}
    for label, (iou_c, dice_c, accuracy_c) in expected.items():
        assert values[f"iou/{label}"] == pytest.approx(iou_c, abs=1e-12, nan_ok=True)
        assert values[f"dice/{label}"] == pytest.approx(dice_c, abs=1e-12, nan_ok=True)
        assert values[f"accuracy/{label}"] == pytest.approx(accuracy_c, abs=1e-12, nan_ok=True)
    assert values["pixel_accuracy"] == pytest.approx(share_of_right_pixels(pairs), abs=1e-12, nan_ok=True)
    defined = [i for i, *_ in expected.values() if not math.isnan(i)]
    assert values["iou"] == pytest.approx(np.mean(defined) if defined else math.nan, nan_ok=True)


def sample_with_square(image_id: str = "a") -> Sample:
    rle = masks.from_box((0, 0, 4, 4), size_hw=SIZE_HW)
    return Sample(image_id, "", SIZE_HW, (Instance("a", rle, rle.box_xyxy),))


def test_a_missing_prediction_counts_as_empty() -> None:
    seen, missed = sample_with_square("a"), sample_with_square("b")
    assert evaluate([seen, missed], [Prediction("a", seen.instances)], classes=("a",), min_score=0.0)["iou"] == 0.5


def test_false_positives_on_images_without_objects_count() -> None:
    seen, bare = sample_with_square("a"), Sample("b", "", SIZE_HW)
    guesses = [Prediction("a", seen.instances), Prediction("b", seen.instances)]
    assert evaluate([seen, bare], guesses, classes=("a",), min_score=0.0)["iou"] == 0.5


def test_a_class_that_is_nowhere_is_nan_and_left_out_of_the_mean() -> None:
    seen = sample_with_square()
    values = evaluate([seen], [Prediction("a", seen.instances)], classes=("a", "b"), min_score=0.0)
    assert values["dice"] == 1
    assert math.isnan(values["dice/b"])


def test_a_class_that_is_only_predicted_is_zero_not_absent() -> None:
    seen = sample_with_square()
    wrong = Instance("b", seen.instances[0].mask, seen.instances[0].box_xyxy)
    assert evaluate([seen], [Prediction("a", (wrong,))], classes=("a", "b"), min_score=0.0)["iou"] == 0


def test_a_prediction_of_an_unknown_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="'z'"):
        evaluate([sample_with_square()], [Prediction("z", ())], classes=("a",), min_score=0.0)


def test_the_box_fill_of_a_diagonal_scores_its_share_of_the_box() -> None:
    rle = masks.encode(np.eye(7, 9, dtype=np.uint8))
    sample = Sample("a", "", SIZE_HW, (Instance("a", rle, rle.box_xyxy),))
    values = prompted_iou([sample], box_fill([sample]))
    assert values == {"prompted_iou": pytest.approx(7 / 49), "prompted_iou/a": pytest.approx(7 / 49)}
