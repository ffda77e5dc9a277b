"""Post-processing does what it says, agrees with the references, and is part of prediction."""

import importlib.util
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import remove_small_holes, remove_small_objects

from segdist.core import masks
from segdist.core.errors import SpecError
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prediction, Prompt, Sample
from segdist.core.spec import EvaluateSpec, PostSpec
from segdist.engine.post import cleaned, dense_crf, guided_filter, without_small_holes, without_small_parts
from segdist.engine.predict import segment
from segdist.engine.thresholds import tuned
from segdist.metrics import evaluate, evaluator_of
from tests.engine.test_tiles import drawn, objects
from tests.metrics.drawn import CLASSES, generated
from tests.stand_in import StandIn

HAS_CRF = importlib.util.find_spec("pydensecrf") is not None
Grey = NDArray[np.float64]
RNG = np.random.default_rng(3)


def speckled(height: int = 40, width: int = 50) -> masks.Mask:
    return np.asarray(ndimage.gaussian_filter(np.random.default_rng(1).random((height, width)), 1.2) > 0.5)


@pytest.mark.parametrize("least", [2, 9, 40])
def test_small_parts_and_holes_are_those_of_scikit_image(least: int) -> None:
    mask = speckled()
    expected = remove_small_objects(mask, max_size=least - 1, connectivity=2)
    assert np.array_equal(without_small_parts(mask, least), expected)
    framed = np.pad(mask, 1)  # in scikit-image what touches the frame is a hole too
    filled = remove_small_holes(framed, max_size=least - 1, connectivity=1)[1:-1, 1:-1]
    inside = without_small_holes(np.pad(mask, 1), least)[1:-1, 1:-1]
    assert np.array_equal(inside, filled)


def formula(
    guide: NDArray[np.float64], values: NDArray[np.float64], radius: int, epsilon: float
) -> NDArray[np.float64]:
    """He et al. (2013), window by window."""
    height, width = guide.shape
    slope, offset = np.zeros_like(guide), np.zeros_like(guide)

    def window(a: Grey, y: int, x: int) -> Grey:
        return a[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]

    for y in range(height):
        for x in range(width):
            g, v = window(guide, y, x), window(values, y, x)
            slope[y, x] = ((g * v).mean() - g.mean() * v.mean()) / (g.var() + epsilon)
            offset[y, x] = v.mean() - slope[y, x] * g.mean()
    return np.array(
        [
            [window(slope, y, x).mean() * guide[y, x] + window(offset, y, x).mean() for x in range(width)]
            for y in range(height)
        ]
    )


def test_the_guided_filter_agrees_with_the_papers_equations() -> None:
    guide, values = RNG.random((15, 19)), (RNG.random((15, 19)) > 0.5).astype(np.float64)
    ours = guided_filter(guide.astype(np.float32), values.astype(np.float32), radius=3, epsilon=0.01)
    expected = formula(guide.astype(np.float32).astype(np.float64), values, 3, 0.01)
    assert ours == pytest.approx(expected, abs=1e-5)


def square(found: tuple[int, int, int, int], score: float = 0.9) -> Instance:
    rle = masks.from_box(found, size_hw=(60, 60))
    return Instance("a", rle, rle.box_xyxy, score)


def picture() -> NDArray[np.uint8]:
    image = np.full((60, 60, 3), 40, np.uint8)
    image[20:40, 20:40] = 220
    return image


@pytest.mark.parametrize(
    "refine",
    ["guided_filter", pytest.param("crf", marks=pytest.mark.skipif(not HAS_CRF, reason="the extra crf is missing"))],
)
def test_refining_moves_an_edge_to_that_of_the_image(refine: str) -> None:
    post = PostSpec.model_validate({"refine": refine, "radius": 6, "contrast": 0.05})
    truth = masks.from_box((20, 20, 40, 40), size_hw=(60, 60))
    before = square((22, 19, 42, 41))
    (after,) = cleaned(picture(), [before], post)
    assert after.mask is not None
    assert before.mask is not None
    assert masks.iou(after.mask, truth) > masks.iou(before.mask, truth) + 0.1
    assert after.box_xyxy == after.mask.box_xyxy
    image = picture()
    image.flags.writeable = False  # as Pillow's are; the radius makes the cut the whole image
    (same,) = cleaned(image, [before], post.model_copy(update={"radius": 40}))
    assert same.mask is not None


def test_a_missing_library_is_an_error_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(SpecError, match=r"pip install 'segdist\[crf\]'"):
        dense_crf(picture(), np.ones((60, 60), np.bool_), score=0.5, radius=3, contrast=0.1)


def test_sizes_are_fractions_of_the_image_or_pixels_and_the_larger_of_both() -> None:
    small, large = square((5, 5, 8, 8)), square((20, 20, 50, 50))
    for least in ({"min_area_pixels": 10.0}, {"min_area_fraction": 10 / 3600}):
        for other in ({}, {"min_area_pixels": 2.0}, {"min_area_fraction": 2 / 3600}):
            kept = cleaned(picture(), [small, large], PostSpec.model_validate({**other, **least}))
            assert [i.mask for i in kept] == [large.mask]
    assert len(cleaned(picture(), [small, large], PostSpec(min_area_pixels=9.0))) == 2


def test_an_answer_to_a_box_stays_though_nothing_is_left_of_it() -> None:
    (left,) = cleaned(picture(), [square((5, 5, 8, 8))], PostSpec(min_area_pixels=10.0), keep_all=True)
    assert left.mask is not None
    assert left.mask.area == 0
    assert left.box_xyxy == (5, 5, 8, 8)


def test_a_hole_at_the_frame_is_none_and_one_inside_is_filled() -> None:
    ring = np.ones((60, 60), np.bool_)
    ring[10:13, 10:13] = False
    ring[0:3, 30:33] = False
    rle = masks.encode(ring)
    (filled,) = cleaned(picture(), [Instance("a", rle, rle.box_xyxy)], PostSpec(fill_holes_pixels=20.0))
    assert filled.mask is not None
    assert filled.mask.area == 3600 - 9


class Network(StandIn):
    """Finds coloured blobs."""

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        return objects(images, prompts)


def test_tiles_views_and_post_processing_are_one_prediction() -> None:
    image = drawn(150, 170, blobs=20)
    (plain,) = segment(Network(), [image], [Prompt()], EvaluateSpec())
    settings = {"tile": {"overlap": 0.5}, "tta": ["flip"], "post": {"min_area": 150, "fill_holes": 5}}
    (found,) = segment(Network(), [image], [Prompt()], EvaluateSpec.model_validate(settings))
    expected = {(i.label, i.mask) for i in plain if i.mask and i.mask.area >= 150}
    assert {(i.label, i.mask) for i in found} == expected
    assert 0 < len(found) < len(plain)


def test_tuned_scores_give_the_best_iou_of_each_class_and_ties_keep_the_usual_one() -> None:
    samples, predictions = generated(11, images=20)
    by_id = {p.image_id: p for p in predictions}
    answers = [by_id.get(s.image_id, Prediction(s.image_id, ())) for s in samples]
    chosen = tuned(samples, answers, CLASSES, usual=0.3)
    assert set(chosen) == set(CLASSES)
    assert chosen["nowhere"] == 0.3
    for label in CLASSES[:3]:
        tried = {
            t: evaluate(samples, answers, classes=CLASSES, min_score=t, metrics=["iou"])[f"iou/{label}"]
            for t in (0.3, *np.round(np.arange(0.05, 1, 0.05), 2))
        }
        assert tried[chosen[label]] == pytest.approx(max(tried.values()), abs=1e-9)


def test_scores_of_classes_decide_what_is_found() -> None:
    truth = square((0, 0, 10, 10))
    sample = Sample("1", "", (60, 60), (truth,))
    spec = EvaluateSpec.model_validate({"min_score": 0.3, "post": {"min_scores": {"a": 0.95}}})
    assert not spec.accepts("a", 0.9)
    assert spec.accepts("b", 0.3)

    for evaluate_spec, iou in ((EvaluateSpec(min_score=0.3), 1.0), (spec, 0.0)):
        evaluator = evaluator_of(["a"], evaluate_spec, ["iou"])
        evaluator.add(sample, Prediction("1", (square((0, 0, 10, 10), 0.9),)))
        assert evaluator.values()["iou"] == iou


def test_a_score_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1, but got a=1\.5"):
        PostSpec(min_scores={"a": 1.5})
