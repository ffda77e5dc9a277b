"""Boundary metrics against the papers' formulas on whole, decoded masks."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_erosion as erode
from scipy.ndimage import distance_transform_edt, generate_binary_structure
from scipy.spatial import cKDTree
from skimage.metrics import hausdorff_distance
from skimage.morphology import skeletonize

from segdist.core import masks
from segdist.core.records import Instance, Prediction, Sample
from segdist.metrics import Evaluator, evaluate
from segdist.metrics.boundaries import line
from segdist.metrics.counting import f_score
from segdist.metrics.matching import band_iou
from segdist.metrics.pair import Pair
from tests.metrics.drawn import CLASSES, blob, generated, instance

CROSS = generate_binary_structure(2, 1)


def unions(samples: list[Sample], predictions: list[Prediction], label: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """True and found pixels of a class in every image."""
    found = {p.image_id: p.instances for p in predictions}

    def union(instances: tuple[Instance, ...]) -> np.ndarray:
        chosen = [i.mask for i in instances if i.label == label and i.score >= 0.3 and i.mask is not None]
        return masks.decode(masks.union(chosen, size_hw=(60, 80)))

    return [(union(s.instances), union(found.get(s.image_id, ()))) for s in samples]


def paper_band(mask: np.ndarray, ratio: float) -> np.ndarray:
    """Listing of Cheng et al. (2021), appendix: erosions of the image with a frame of zeros."""
    height, width = mask.shape
    dilation = max(1, round(ratio * math.sqrt(height**2 + width**2)))
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    for _ in range(dilation):
        framed = cv2.erode(framed, np.ones((3, 3), np.uint8))
    return mask & (framed[1:-1, 1:-1] == 0)


@pytest.fixture(scope="module")
def drawn() -> tuple[list[Sample], list[Prediction]]:
    return generated(3, images=14, crowds=False, shake=2)


WIDTHS: list[tuple[dict[str, float], int]] = [
    ({}, 2), ({"fraction": 0.02}, 2), ({"fraction": 0.5}, 50), ({"fraction": 0.001}, 1),
    ({"pixels": 1}, 1), ({"pixels": 1.6}, 2), ({"pixels": 3}, 3), ({"pixels": 0.4}, 1),
]  # fmt: skip


def _width(value: dict[str, float]) -> dict[str, Any]:
    return {f"boundary_width_{unit}": size for unit, size in value.items()}


@pytest.fixture(scope="module")
def values(drawn: tuple[list[Sample], list[Prediction]]) -> dict[str, float]:
    return evaluate(*drawn, classes=CLASSES, min_score=0.3)


@pytest.mark.parametrize(
    ("width", "ratio"), [({"fraction": 0.02}, 0.02), ({"fraction": 0.05}, 0.05), ({"pixels": 3}, 0.03)]
)
def test_boundary_iou_is_that_of_the_paper(
    drawn: tuple[list[Sample], list[Prediction]], width: dict[str, float], ratio: float
) -> None:
    """Three pixels are the ratio 0.03 of this diagonal."""
    values = evaluate(*drawn, classes=CLASSES, min_score=0.3, metrics=["boundary_iou"], **_width(width))
    for label in CLASSES[:3]:
        bands = [(paper_band(t, ratio), paper_band(g, ratio)) for t, g in unions(*drawn, label)]
        common, whole = sum((t & g).sum() for t, g in bands), sum((t | g).sum() for t, g in bands)
        assert values[f"boundary_iou/{label}"] == pytest.approx(common / whole, abs=1e-12)


def test_precision_of_a_boundary_is_of_what_was_found_and_recall_of_what_is_there() -> None:
    """Found much longer than true, and two pixels beside it: nearly all is met, and most of what was found is wrong."""
    truth, guess = np.zeros((40, 80), np.bool_), np.zeros((40, 80), np.bool_)
    truth[10:20, 10:20], guess[12:22, 10:75] = True, True
    lines = [m & ~erode(m, CROSS) for m in (truth, guess)]
    apart = [distance_transform_edt(~m) for m in lines]
    sample = Sample("a", "", truth.shape, (instance("crack", truth),))
    values = evaluate([sample], [Prediction("a", (instance("crack", guess),))], classes=("crack",), min_score=0.3)
    for tolerance in (1, 2, 3):
        precision, recall = ((a[m] <= tolerance).mean() for a, m in zip(apart, reversed(lines), strict=True))
        assert precision < 0.6 * recall
        expected = 2 * precision * recall / (precision + recall)
        assert values[f"boundary_f_{tolerance}px"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tolerance", [1, 2, 3])
def test_boundary_f_score_equals_the_formula_with_scipy_distances(
    drawn: tuple[list[Sample], list[Prediction]], values: dict[str, float], tolerance: int
) -> None:
    for label in CLASSES[:3]:
        right = found = met = true = 0
        for t, g in unions(*drawn, label):
            lines = [m & ~erode(m, CROSS) for m in (t, g)]
            apart = [distance_transform_edt(~m) if m.any() else np.full(m.shape, np.inf) for m in lines]
            found, true = found + lines[1].sum(), true + lines[0].sum()
            right += (apart[0][lines[1]] <= tolerance).sum()
            met += (apart[1][lines[0]] <= tolerance).sum()
        precision, recall = right / found, met / true
        expected = 2 * precision * recall / (precision + recall)
        assert values[f"boundary_f_{tolerance}px/{label}"] == pytest.approx(expected, abs=1e-12)


def test_hausdorff_95_equals_scipys_nearest_neighbours(
    drawn: tuple[list[Sample], list[Prediction]], values: dict[str, float]
) -> None:
    for label in CLASSES[:3]:
        distances = []
        for t, g in unions(*drawn, label):
            points = [np.argwhere(m & ~erode(m, CROSS)) for m in (t, g)]
            if all(len(p) for p in points):
                apart = [cKDTree(points[k]).query(points[1 - k])[0] for k in (0, 1)]
                distances.append(max(np.percentile(d, 95) for d in apart))
            elif any(len(p) for p in points):
                distances.append(100.0)  # the diagonal of 60 x 80
        assert values[f"hausdorff_95/{label}"] == pytest.approx(np.mean(distances), rel=1e-6)


def test_our_lines_have_the_hausdorff_distance_that_skimage_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        pair = [line(np.pad(blob(rng, (40, 50)), 1)) for _ in range(2)]
        apart = [distance_transform_edt(~pair[k])[pair[1 - k]] for k in (0, 1)]
        assert max(d.max() for d in apart) == pytest.approx(hausdorff_distance(*pair))


def test_cldice_and_skeleton_recall_are_those_of_the_paper(
    drawn: tuple[list[Sample], list[Prediction]], values: dict[str, float]
) -> None:
    for label in CLASSES[:3]:
        sums = np.zeros(4)
        for t, g in unions(*drawn, label):
            thin_t, thin_g = (skeletonize(np.pad(m, 1))[1:-1, 1:-1] for m in (t, g))
            sums += (thin_g & t).sum(), thin_g.sum(), (thin_t & g).sum(), thin_t.sum()
        precision, recall = sums[0] / sums[1], sums[2] / sums[3]
        assert values[f"skeleton_recall/{label}"] == pytest.approx(recall, abs=1e-12)
        assert values[f"cldice/{label}"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)


def crack(shift: int) -> np.ndarray:
    mask = np.zeros((60, 80), np.bool_)
    mask[30 + shift : 32 + shift, 5:75] = True
    return mask


def test_a_crack_found_beside_itself_has_no_iou_but_a_boundary_within_three_pixels() -> None:
    sample = Sample("a", "", (60, 80), (instance("crack", crack(0)),))
    values = evaluate([sample], [Prediction("a", (instance("crack", crack(3)),))], classes=("crack",), min_score=0.3)
    assert values["iou"] == values["skeleton_recall"] == values["boundary_f_1px"] == 0
    assert (values["boundary_f_2px"], values["boundary_f_3px"]) == (0.5, 1)
    assert values["hausdorff_95"] == 3


def test_what_is_invented_or_missed_costs_every_metric() -> None:
    """Half the images right, half with nothing found or nothing there."""
    right = Prediction("a", (instance("crack", crack(0)),))
    seen = Sample("a", "", (60, 80), right.instances)
    for other, found in (
        (Sample("b", "", (60, 80), right.instances), ()),
        (Sample("b", "", (60, 80)), right.instances),
    ):
        values = evaluate([seen, other], [right, Prediction("b", found)], classes=("crack",), min_score=0.3)
        assert values["iou"] == values["boundary_iou"] == values["box_iou"] == 0.5
        assert values["panoptic_quality"] == values["cldice"] == values["boundary_f_1px"] == pytest.approx(2 / 3)
        assert values["hausdorff_95"] == 50


def test_what_is_found_in_a_crowd_costs_nothing() -> None:
    crowd = np.zeros((60, 80), np.bool_)
    crowd[:20] = True
    sample = Sample("a", "", (60, 80), (instance("crack", crack(0)), instance("crack", crowd, is_crowd=True)))
    inside = np.zeros((60, 80), np.bool_)
    inside[3:15, 10:30] = True
    found = Prediction("a", (instance("crack", crack(0), 0.9), instance("crack", inside, 0.95)))
    evaluator = Evaluator(("crack",), min_score=0.3)
    evaluator.add(sample, found)
    values = evaluator.values()
    perfect = ("iou", "dice", "boundary_iou", "boundary_f_1px", "cldice", "panoptic_quality", "box_iou", "mask_ap")
    assert {name: values[name] for name in perfect} == dict.fromkeys(perfect, 1.0)
    assert values["hausdorff_95"] == 0
    assert values["brier"] == pytest.approx(0.01)


def test_an_image_whose_objects_are_all_crowds_has_no_distance() -> None:
    crowd = Sample("a", "", (60, 80), (instance("crack", crack(0), is_crowd=True),))
    shifted = Sample("b", "", (60, 80), (instance("crack", crack(0)),))
    found = [Prediction("b", (instance("crack", crack(3)),))]
    alone = evaluate([crowd], [], classes=("crack",), min_score=0.3, metrics=["hausdorff_95", "boundary_f_1px"])
    assert all(math.isnan(v) for v in alone.values())
    both = evaluate([crowd, shifted], found, classes=("crack",), min_score=0.3, metrics=["hausdorff_95"])
    assert both["hausdorff_95"] == 3


def test_the_boundary_iou_of_two_masks_is_that_of_their_bands_and_undefined_for_nothing() -> None:
    boxes = [(2, 2, 20, 20), (4, 3, 22, 18), (20, 2, 38, 20), (30, 25, 44, 39), (0, 0, 0, 0)]
    rles = [masks.from_box(box, size_hw=(40, 45)) for box in boxes]
    bands = [paper_band(masks.decode(rle), 2 / math.hypot(40, 45)) for rle in rles]
    for a, one in zip(rles, bands, strict=True):
        for b, other in zip(rles, bands, strict=True):
            whole = (one | other).sum()
            expected = (one & other).sum() / whole if whole else math.nan
            assert band_iou(a, b, pixels=2) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("width", "pixels"), WIDTHS)
def test_a_width_is_a_fraction_of_the_diagonal_or_in_pixels(width: dict[str, float], pixels: int) -> None:
    sample = Sample("i", "", (60, 80))
    assert Pair(sample, [], CLASSES, min_scores={}, **_width(width)).boundary_pixels() == pixels


def test_the_f_score_is_zero_where_one_side_is_empty_and_undefined_where_both_are() -> None:
    right, found, met, true = np.array([[0, 0, 0, 1], [1, 0, 0, 2], [0, 0, 0, 3], [0, 1, 0, 4]], float)
    precision, recall = 1 / 2, 3 / 4
    expected = [0, 0, math.nan, 2 * precision * recall / (precision + recall)]
    assert f_score(right, found, met, true).tolist() == pytest.approx(expected, nan_ok=True)


def test_the_width_is_two_hundredths_of_the_diagonal_by_default(drawn: tuple[list[Sample], list[Prediction]]) -> None:
    plain = Evaluator(CLASSES, min_score=0.3, metrics=["boundary_iou"])
    found = {p.image_id: p for p in drawn[1]}
    for sample in drawn[0]:
        plain.add(sample, found.get(sample.image_id))
    stated = evaluate(*drawn, classes=CLASSES, min_score=0.3, metrics=["boundary_iou"], **_width({"fraction": 0.02}))
    assert plain.values() == pytest.approx(stated, nan_ok=True)
