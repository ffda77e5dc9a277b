"""Average precision and recall equal those of pycocotools and faster-coco-eval, to the last digits."""

import contextlib
import copy
import io
import math
from typing import Any

import faster_coco_eval as faster_coco  # type: ignore[import-untyped]
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segdist.core import masks
from segdist.core.records import Instance, Prediction, Sample
from segdist.metrics import Evaluator, evaluate
from tests.metrics.drawn import CLASSES, coco_results, coco_truth, generated, instance

NAMES = ("ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100",
         "ar_small", "ar_medium", "ar_large")  # fmt: skip
KINDS = {"mask": "segm", "box": "bbox", "boundary": "boundary"}


def reference(
    samples: list[Sample], predictions: list[Prediction], kind: str, *, faster: bool
) -> tuple[dict[str, float], np.ndarray]:
    """The summary of a public evaluator, and its precision (T, R, K, A, M)."""
    truth, results = coco_truth(samples), copy.deepcopy(coco_results(predictions))
    other = {"segmentation"} if kind == "box" else {"bbox", "area"}  # a box's area would decide what is small
    results = [{k: v for k, v in r.items() if k not in other} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation: Any
        if faster:
            data = faster_coco.COCO(truth)
            evaluation = faster_coco.COCOeval_faster(
                data, data.loadRes(results), KINDS[kind], print_function=lambda *_: None
            )
        else:
            data = COCO()
            data.dataset = truth
            data.createIndex()
            evaluation = COCOeval(data, data.loadRes(results), KINDS[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = [math.nan if v == -1 else float(v) for v in evaluation.stats[:12]]
    return dict(zip(NAMES, numbers, strict=True)), np.asarray(evaluation.eval["precision"])


def ours(samples: list[Sample], predictions: list[Prediction], kind: str) -> dict[str, float]:
    return evaluate(samples, predictions, classes=CLASSES, min_score=0.3, metrics=[f"{kind}_ap"])


@pytest.mark.parametrize(("kind", "faster"), [("mask", False), ("box", False), ("mask", True), ("boundary", True)])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_public_evaluators(kind: str, faster: bool, seed: int) -> None:
    samples, predictions = generated(seed, images=24, size_hw=(90, 120), shake=1)
    expected, precision = reference(samples, predictions, kind, faster=faster)
    values = ours(samples, predictions, kind)
    assert 0.05 < expected["ap"] < 0.95
    for name, number in expected.items():
        assert values[f"{kind}_{name}"] == pytest.approx(number, abs=1e-9, nan_ok=True), name
    for k, label in enumerate(CLASSES):
        chosen = precision[:, :, k, 0, 2].reshape(10, 101)
        mean = float(chosen.mean()) if (chosen > -1).any() else math.nan
        assert values[f"{kind}_ap/{label}"] == pytest.approx(mean, abs=1e-9, nan_ok=True), label


def test_equal_scores_and_equal_overlaps_are_resolved_as_pycocotools_does() -> None:
    rng = np.random.default_rng(5)
    samples, predictions = generated(11, images=12, crowds=True)
    tied = [
        Prediction(p.image_id, tuple(Instance(i.label, i.mask, i.box_xyxy, float(rng.choice([0.5, 1.0]))) for i in
                                     (*p.instances, *p.instances[:2])))
        for p in predictions
    ]  # fmt: skip
    expected, _ = reference(samples, tied, "mask", faster=False)
    values = ours(samples, tied, "mask")
    assert {n: values[f"mask_{n}"] for n in NAMES} == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(("kind", "faster"), [("mask", False), ("box", False), ("boundary", True)])
def test_areas_and_overlaps_of_just_the_limits_and_many_objects_count_as_in_the_public_evaluators(
    kind: str, faster: bool
) -> None:
    """Squares of 32 x 32 and 96 x 96 pixels, of which the half is found, more of them than ten, and one invented."""
    size_hw = 160, 400
    truths, found = list[Instance](), list[Instance]()
    corners = [(x, y, 32) for y in (0, 40) for x in range(0, 400, 36)[:10]] + [(x, 60, 96) for x in (0, 100, 200)]
    for n, (x, y, side) in enumerate(corners):
        for box, into, score in (
            ((x, y, x + side, y + side), truths, 1.0),
            ((x, y, x + side, y + side // 2 * (1 + n % 3)), found, 0.99 - 0.03 * n),
        ):
            mask = masks.decode(masks.from_box(box, size_hw=size_hw))
            into.append(instance("crack", mask, score))
    for box, score in (((360, 0, 392, 32), 0.995), ((300, 64, 396, 160), 0.992)):
        found.append(instance("crack", masks.decode(masks.from_box(box, size_hw=size_hw)), score))
    sample, prediction = Sample("1", "", size_hw, tuple(truths)), Prediction("1", tuple(found))
    expected, _ = reference([sample], [prediction], kind, faster=faster)
    values = ours([sample], [prediction], kind)
    assert {n: values[f"{kind}_{n}"] for n in NAMES} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 0 < expected["ar_10"] < expected["ar_100"]


def test_scores_are_reported_apart_by_all_of_their_digits_as_pycocotools_does() -> None:
    left, right = (masks.decode(masks.from_box((x, 10, x + 20, 30), size_hw=(60, 80))) for x in (10, 40))
    samples = [Sample(str(n), "", (60, 80), (instance("crack", left),)) for n in range(2)]
    found = [Prediction("0", (instance("crack", right, 0.5),)), Prediction("1", (instance("crack", left, 0.5 + 1e-9),))]
    expected, _ = reference(samples, found, "mask", faster=False)
    assert ours(samples, found, "mask")["mask_ap"] == pytest.approx(expected["ap"], abs=1e-9)
    assert expected["ap"] > 0.5, "the sure one is right"


def test_a_found_box_without_a_mask_is_wrong_among_masks_and_right_among_boxes() -> None:
    square = masks.decode(masks.from_box((10, 10, 30, 30), size_hw=(60, 80)))
    sample = Sample("0", "", (60, 80), (instance("crack", square),))
    found = Prediction("0", (Instance("crack", None, (10, 10, 30, 30), 0.9), instance("crack", square, 0.5)))
    assert ours([sample], [found], "mask")["mask_ap"] == pytest.approx(0.5)
    assert ours([sample], [found], "boundary")["boundary_ap"] == pytest.approx(0.5)
    assert ours([sample], [found], "box")["box_ap"] == 1


def test_no_predictions_at_all_are_zero_not_undefined() -> None:
    samples, _ = generated(0, images=4)
    values = ours(samples, [], "mask")
    assert values["mask_ap"] == values["mask_ar_100"] == values["mask_ap/crack"] == 0
    assert math.isnan(values["mask_ap/nowhere"])


def test_no_truth_at_all_is_undefined() -> None:
    _, predictions = generated(0, images=4)
    bare = [Sample(p.image_id, "", (60, 80)) for p in predictions]
    assert all(math.isnan(v) for v in ours(bare, predictions, "box").values())


def test_a_true_box_without_a_mask_neither_helps_nor_harms_masks_but_counts_as_a_box() -> None:
    square = masks.decode(masks.from_box((10, 10, 30, 30), size_hw=(60, 80)))
    known, bare = instance("crack", square), Instance("crack", None, (40, 10, 60, 30))
    sample = Sample("0", "", (60, 80), (known, bare))
    inside = masks.decode(masks.from_box((41, 11, 59, 29), size_hw=(60, 80)))
    found = Prediction("0", (instance("crack", square, 0.5), instance("crack", inside, 0.9)))
    assert ours([sample], [found], "mask")["mask_ap"] == 1
    assert ours([sample], [found], "box")["box_ap_50"] == 1
    assert ours([sample], [Prediction("0", found.instances[:1])], "box")["box_ar_100"] == 0.5


def test_images_seen_by_two_evaluators_give_the_values_of_one() -> None:
    samples, predictions = generated(2)
    found = {p.image_id: p for p in predictions}
    whole, parts = (Evaluator(CLASSES, min_score=0.3) for _ in range(2)), []
    one, joined = whole
    for sample in samples:
        one.add(sample, found.get(sample.image_id))
    for half in (samples[::2], samples[1::2]):
        part = Evaluator(CLASSES, min_score=0.3)
        for sample in half:
            part.add(sample, found.get(sample.image_id))
        parts += part.seen
    joined.seen = sorted(parts, key=lambda s: s.image_id)
    assert joined.values() == pytest.approx(one.values(), nan_ok=True)
