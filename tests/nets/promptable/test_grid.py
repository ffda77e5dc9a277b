"""The mode "everything": which point of the grid stands for which object, and which masks are kept."""

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import build_point_grid, calculate_stability_score

from segdist.models.sam import FAMILY
from segdist.nets.promptable import grid


def square(*areas: tuple[int, int, int, int], size: int = 32) -> torch.Tensor:
    masks = torch.zeros(len(areas), size, size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, areas, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def test_the_grid_is_segment_anythings_own() -> None:
    expected = build_point_grid(4) * np.array([40, 24])
    np.testing.assert_allclose(grid.grid_points((24, 40), 4).numpy(), expected, rtol=1e-6)


def test_an_object_takes_the_point_on_it_that_is_nearest_to_its_centroid() -> None:
    points = grid.grid_points((32, 32), 4)  # at 4, 12, 20, 28
    found = grid.nearest_points(points, square((0, 0, 32, 32), (10, 10, 32, 16)))
    centres = [(16.0, 16.0), (21.0, 13.0)]
    for chosen, (x, y) in zip(points[found].tolist(), centres, strict=True):
        distance = [np.hypot(a - x, b - y) for a, b in points.tolist()]
        assert np.hypot(chosen[0] - x, chosen[1] - y) == pytest.approx(min(distance))


def test_the_point_of_a_ring_lies_on_it_and_not_in_its_hole() -> None:
    ring = square((0, 0, 32, 32)) & ~square((8, 8, 24, 24))
    points = grid.grid_points((32, 32), 4)
    x, y = points[grid.nearest_points(points, ring)][0].long().tolist()
    assert bool(ring[0, y, x])


def test_an_object_between_the_points_takes_the_nearest_one() -> None:
    points = grid.grid_points((32, 32), 4)
    assert points[grid.nearest_points(points, square((14, 13, 15, 14)))].tolist() == [[12.0, 12.0]]


def test_each_object_and_as_many_free_points_are_taught() -> None:
    options = FAMILY.options.model_validate({**FAMILY.debug, "prompt": "everything", "grid_side": 8})
    masks, ignore = square((0, 0, 16, 32)), torch.zeros(32, 32, dtype=torch.bool)
    ignore[:, 24:] = True
    assigned = grid.assign(masks, ignore, (32, 32), options)
    assert sorted(assigned.object_P.tolist()) == [grid.NOTHING, 0]
    free = assigned.points_P2[assigned.object_P == grid.NOTHING]
    assert 16 <= float(free[0, 0]) < 24, "neither on the object nor on what is ignored"


def test_of_two_masks_of_one_object_the_surer_is_kept() -> None:
    masks = square((0, 0, 16, 16), (0, 0, 16, 15), (20, 20, 30, 30))
    assert grid.distinct(masks, torch.tensor([0.5, 0.9, 0.1]), max_overlap=0.7).tolist() == [1, 2]
    assert grid.distinct(masks[:0], torch.zeros(0), max_overlap=0.7).tolist() == []


def test_stability_is_segment_anythings_own() -> None:
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
    torch.testing.assert_close(grid.stability(logits), calculate_stability_score(logits, 0.0, 1.0))
