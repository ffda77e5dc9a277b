"""Thin structures from boxes alone: on drawn lines with noise, and on photographs of cracks with human masks."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse.csgraph import dijkstra

from segdist.labelling import thin as module
from segdist.labelling.estimates import blob
from segdist.labelling.thin import thin
from segdist.reading.geometry import cut_out

MASONRY = Path(__file__).parents[3] / "shared" / "data" / "masonry"
Box = tuple[int, int, int, int]


def crack(
    size_hw: tuple[int, int], *, contrast: float, noise: float, width: int, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Box]:
    """A wandering line on rough ground, its mask, and the box around it."""
    rng = np.random.default_rng(seed)
    height, length = size_hw
    steps = np.cumsum(rng.normal(0, 1.2, length - 20))
    ys = np.clip(height / 2 + steps - np.linspace(0, steps[-1], len(steps)), 8, height - 8) + np.linspace(
        -15, 15, length - 20
    )
    points = np.stack([np.arange(10, length - 10), ys], 1).astype(np.int32)
    drawn = np.zeros(size_hw, np.uint8)
    cv2.polylines(drawn, [points], isClosed=False, color=1, thickness=width)
    rough = cv2.GaussianBlur(rng.normal(0, 1, size_hw), (0, 0), 1.2)
    grey = 140 + noise * rough / rough.std() - contrast * cv2.GaussianBlur(drawn.astype(float), (0, 0), 0.6)
    image = np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    rows, columns = np.nonzero(drawn)
    return image, drawn > 0, (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def placed(image: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.bool_], float]:
    whole = np.zeros(image.shape[:2], np.bool_)
    found = thin(image, box)
    whole[cut_out(box, image.shape[:2])] = found.mask_HW
    return whole, found.score


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("is_dark", [True, False])
@pytest.mark.parametrize("width", [2, 5, 9])
def test_a_line_is_found_at_its_width_whether_dark_or_bright(width: int, is_dark: bool) -> None:
    image, truth, box = crack((120, 160), contrast=70, noise=6, width=width)
    mask, score = placed(image if is_dark else 255 - image, box)
    assert iou(mask, truth) > 0.75
    assert score > 0.5


def test_a_hairline_in_rough_ground_is_followed_where_a_threshold_finds_noise() -> None:
    ours, threshold = [], []
    for seed in range(4):
        image, truth, box = crack((160, 220), contrast=50, noise=18, width=2, seed=seed)
        ours.append(iou(placed(image, box)[0], truth))
        by_colour = np.zeros_like(truth)
        by_colour[cut_out(box, truth.shape)] = blob(image[cut_out(box, truth.shape)])
        threshold.append(iou(by_colour, truth))
    assert np.mean(ours) > 0.65
    assert np.mean(ours) > np.mean(threshold) + 0.2


def test_no_short_cut_through_noise_leads_to_a_side_that_the_line_reaches_elsewhere() -> None:
    strays, overlaps = [], []
    for seed in range(4):
        image, truth, box = slanting(seed)
        mask, _ = placed(image, box)
        away = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 5)
        strays.append(np.count_nonzero(mask & (away > 4)))
        overlaps.append(iou(mask, truth))
    assert np.mean(strays) < 6
    assert np.mean(overlaps) > 0.7


def slanting(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Box]:
    """A hairline from the lower left to the upper right corner of a long box, on ground as rough as it is dark."""
    rng = np.random.default_rng(seed)
    height, width = 70, 260
    xs = np.arange(12, width - 12)
    steps = np.cumsum(rng.normal(0, 0.8, len(xs)))
    ys = np.linspace(height - 12, 12, len(xs)) + steps - np.linspace(steps[0], steps[-1], len(xs))
    drawn = np.zeros((height, width), np.uint8)
    points = np.stack([xs, np.clip(ys, 4, height - 4)], 1).astype(np.int32)
    cv2.polylines(drawn, [points], isClosed=False, color=1, thickness=2)
    rough = cv2.GaussianBlur(rng.normal(0, 1, drawn.shape), (0, 0), 1.2)
    grey = 140 + 18 * rough / rough.std() - 50 * cv2.GaussianBlur(drawn.astype(float), (0, 0), 0.6)
    rows, columns = np.nonzero(drawn)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2), drawn > 0, box


@pytest.mark.parametrize("is_dark", [True, False])
def test_stones_that_stand_out_more_than_the_line_are_not_taken_for_it(is_dark: bool) -> None:
    for seed in range(2, 6):
        image, truth, box = crack((120, 160), contrast=35, noise=5, width=2, seed=seed)
        rng = np.random.default_rng(seed)
        stones = np.zeros(truth.shape, np.float32)
        for _ in range(60):
            centre = int(rng.integers(160)), int(rng.integers(120))
            axes = int(rng.integers(2, 7)), int(rng.integers(1, 4))
            cv2.ellipse(stones, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        stones[cv2.dilate(truth.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0] = 0
        strewn = np.clip(image + 70 * cv2.GaussianBlur(stones, (0, 0), 0.8)[..., None], 0, 255).astype(np.uint8)
        mask, _ = placed(strewn if is_dark else 255 - strewn, box)
        assert iou(mask, truth) > 0.6


def test_the_score_falls_as_the_line_fades() -> None:
    scores = [placed(*crack((120, 160), contrast=c, noise=12, width=3)[::2])[1] for c in (90.0, 45.0, 15.0)]
    assert scores[0] > scores[1] > scores[2]


@pytest.mark.parametrize("box", [(20, 30, 24, 90), (0, 0, 160, 120), (150, 110, 170, 130), (40, 40, 42, 42)], ids=str)
def test_any_box_with_pixels_has_an_answer_of_its_size(box: Box) -> None:
    image, _, _ = crack((120, 160), contrast=60, noise=6, width=3)
    rows, columns = cut_out(box, (120, 160))
    for picture in (image, np.full_like(image, 90)):
        found = thin(picture, box)
        assert found.mask_HW.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert 0 <= found.score <= 1


def test_a_large_box_is_looked_at_smaller_and_answered_at_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    image, truth, box = crack((120, 160), contrast=70, noise=6, width=3)
    large = np.asarray(cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR), np.uint8)
    large_truth = cv2.resize(truth.astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST) > 0
    monkeypatch.setattr(module, "_LARGEST_SIDE", 160)
    mask, _ = placed(large, (box[0] * 4, box[1] * 4, box[2] * 4, box[3] * 4))
    assert iou(mask, large_truth) > 0.7


def test_the_path_is_the_cheapest_one_through_eight_neighbours() -> None:
    costs = np.random.default_rng(3).uniform(0.1, 1, (7, 9))
    graph, index = module._grid_graph(costs)
    found = dijkstra(graph, directed=False, indices=index[:, 0], min_only=True)[index[:, -1]].min()
    assert found == pytest.approx(_cheapest(costs), rel=1e-9)


def _cheapest(costs: NDArray[np.float64]) -> float:
    """From the left side to the right one, by relaxing every step until nothing changes (Bellman 1958)."""
    best = np.full(costs.shape, np.inf)
    best[:, 0] = 0
    for _ in range(costs.size):
        before = best.copy()
        for y, x in np.ndindex(costs.shape):
            for v, u in np.ndindex(3, 3):
                other = y + v - 1, x + u - 1
                if other != (y, x) and 0 <= other[0] < costs.shape[0] and 0 <= other[1] < costs.shape[1]:
                    step = (costs[y, x] + costs[other]) / 2 * np.hypot(v - 1, u - 1)
                    best[y, x] = min(best[y, x], best[other] + step)
        if np.array_equal(before, best):
            break
    return float(best[:, -1].min())


@pytest.mark.skipif(not MASONRY.is_dir(), reason="no photographs of masonry beside the checkout")
def test_cracks_in_photographs_of_masonry_are_drawn_better_than_by_their_boxes_or_a_threshold() -> None:
    ours, boxes, thresholds, scores = [], [], [], []
    for file in sorted((MASONRY / "crack_detection_224_images").glob("*.png"))[::8]:
        image = np.asarray(Image.open(file).convert("RGB"))
        truth = np.asarray(Image.open(MASONRY / "crack_detection_224_masks" / file.name).convert("L")) > 127
        count, labels, stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8), connectivity=8)
        for part in range(1, count):
            x, y, width, height, area = (int(v) for v in stats[part])
            if area < 20 or min(width, height) < 4:
                continue
            box, own = (x, y, x + width, y + height), labels == part
            mask, score = placed(image, box)
            by_threshold = np.zeros_like(own)
            by_threshold[cut_out(box, own.shape)] = blob(image[cut_out(box, own.shape)])
            ours.append(iou(mask, own))
            scores.append(score)
            thresholds.append(iou(by_threshold, own))
            boxes.append(area / (width * height))
    assert len(ours) > 40
    assert np.mean(ours) > 0.63 > np.mean(thresholds) + 0.08
    assert np.mean(ours) > np.mean(boxes) + 0.15
    assert abs(np.mean(scores) - np.mean(ours)) < 0.1
