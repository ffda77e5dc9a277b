"""Matching agrees with an exhaustive search, and its costs with the papers' formulas in float64 NumPy."""

import logging
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from segdist.nets import matching
from segdist.nets.matching import FALLBACKS, SURPLUS, Matcher

Q, N, C, P = 7, 4, 3, 50


def drawn(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def float64(tensor: torch.Tensor) -> Any:
    return tensor.double().numpy()


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def boxes(count: int, seed: int) -> torch.Tensor:
    """Corners in 0..1."""
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(1).values
    return corners.flatten(1)


LABELS = torch.tensor([2, 0, 0, 1])


def test_the_softmax_class_cost_is_minus_the_probability() -> None:
    logits = drawn(Q, C)
    exp = np.exp(float64(logits))
    expected = -(exp / exp.sum(1, keepdims=True))[:, LABELS.numpy()]
    np.testing.assert_allclose(matching.softmax_class_cost(logits, LABELS).numpy(), expected, rtol=1e-5)


def test_the_focal_class_cost_is_the_formula() -> None:
    logits = drawn(Q, C)
    p = sigmoid(float64(logits))[:, LABELS.numpy()]
    expected = -0.25 * (1 - p) ** 2 * np.log(p) + 0.75 * p**2 * np.log(1 - p)
    np.testing.assert_allclose(matching.focal_class_cost(logits, LABELS).numpy(), expected, rtol=1e-5)


def test_the_focal_class_cost_of_a_query_that_is_sure_is_finite() -> None:
    assert torch.isfinite(matching.focal_class_cost(torch.tensor([[200.0], [-200.0]]), torch.tensor([0]))).all()


def test_the_l1_cost_is_the_sum_of_differences() -> None:
    a, b = boxes(Q, 1), boxes(N, 2)
    expected = np.abs(float64(a)[:, None] - float64(b)[None]).sum(2)
    np.testing.assert_allclose(matching.l1_box_cost(a, b).numpy(), expected, rtol=1e-5)


def test_the_giou_cost_is_the_formula() -> None:
    a, b = boxes(Q, 1), boxes(N, 2)
    x, y = float64(a)[:, None], float64(b)[None]

    def area(t: Any) -> Any:
        return np.clip(t[..., 2] - t[..., 0], 0, None) * np.clip(t[..., 3] - t[..., 1], 0, None)

    inside = area(np.concatenate([np.maximum(x[..., :2], y[..., :2]), np.minimum(x[..., 2:], y[..., 2:])], -1))
    hull = area(np.concatenate([np.minimum(x[..., :2], y[..., :2]), np.maximum(x[..., 2:], y[..., 2:])], -1))
    union = area(x) + area(y) - inside
    expected = -(inside / union - (hull - union) / hull)
    np.testing.assert_allclose(matching.giou_box_cost(a, b).numpy(), expected, rtol=1e-5)


def test_the_dice_cost_is_the_formula() -> None:
    logits, truth = drawn(Q, P), drawn(N, P, seed=1) > 0
    p, g = sigmoid(float64(logits))[:, None], float64(truth)[None]
    expected = 1 - (2 * (p * g).sum(2) + 1) / (p.sum(2) + g.sum(2) + 1)
    np.testing.assert_allclose(matching.dice_cost(logits.sigmoid(), truth).numpy(), expected, rtol=1e-5)


def test_the_mask_cost_is_the_mean_binary_cross_entropy() -> None:
    logits, truth = drawn(Q, P), drawn(N, P, seed=1) > 0
    p, g = sigmoid(float64(logits))[:, None], float64(truth)[None]
    expected = -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean(2)
    np.testing.assert_allclose(matching.mask_bce_cost(logits, truth).numpy(), expected, rtol=1e-5)
    one = functional.binary_cross_entropy_with_logits(logits[0], truth[0].float())
    torch.testing.assert_close(matching.mask_bce_cost(logits, truth)[0, 0], one)


def least(cost: torch.Tensor) -> float:
    """The least total cost, by trying every assignment."""
    tall = float64(cost if cost.shape[0] >= cost.shape[1] else cost.T)
    return float(min(sum(tall[q, n] for n, q in enumerate(p)) for p in permutations(range(len(tall)), tall.shape[1])))


@pytest.mark.parametrize("shape", [(6, 4), (3, 5), (4, 4)])
def test_the_total_cost_is_the_least_of_all_assignments(shape: tuple[int, int]) -> None:
    cost = drawn(*shape)
    found = Matcher()([cost])
    assert len(found) == min(shape)
    assert cost[found.query_M, found.object_M].sum().item() == pytest.approx(least(cost), rel=1e-6)
    assert len(set(found.query_M.tolist())) == len(set(found.object_M.tolist())) == min(shape)


def test_objects_are_numbered_through_the_batch_and_an_image_without_any_has_no_pair() -> None:
    costs = [drawn(5, 2), torch.zeros(5, 0), drawn(5, 3, seed=1)]
    found = Matcher()(costs)
    assert found.image_M.tolist() == [0, 0, 2, 2, 2]
    assert sorted(found.object_M.tolist()) == [0, 1, 2, 3, 4]
    alone = Matcher()([costs[2]])
    assert found.query_M[2:].tolist() == alone.query_M.tolist()
    assert found.object_M[2:].tolist() == (alone.object_M + 2).tolist()


def test_a_batch_without_any_object_has_no_pair() -> None:
    found = Matcher()([torch.zeros(5, 0), torch.zeros(5, 0)], groups=5)
    assert len(found) == 0
    assert found.query_M.dtype == torch.int64


def test_each_group_of_queries_is_matched_on_its_own() -> None:
    cost = drawn(6, 2)
    found = Matcher()([cost], groups=3)
    for group in range(3):
        mine = found.query_M // 2 == group
        assert sorted(found.object_M[mine].tolist()) == [0, 1]
        total = cost[found.query_M[mine], found.object_M[mine]].sum().item()
        assert total == pytest.approx(least(cost[group * 2 : group * 2 + 2]), rel=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_costs_that_are_not_finite_are_counted_and_avoided(bad: float, caplog: pytest.LogCaptureFixture) -> None:
    cost = drawn(5, 2)
    cost[1] = bad
    matcher = Matcher()
    with caplog.at_level(logging.WARNING):
        found = matcher([cost, drawn(5, 2)])
        matcher([cost])
    assert 1 not in found.query_M[:2].tolist()
    assert len(caplog.records) == 1
    assert matcher.take_counts() == {FALLBACKS: 2, SURPLUS: 0}
    assert matcher.take_counts() == {FALLBACKS: 0, SURPLUS: 0}


def test_where_no_cost_is_finite_some_match_is_made() -> None:
    assert len(Matcher()([torch.full((3, 2), torch.nan)])) == 2


def test_objects_beyond_the_queries_are_counted() -> None:
    matcher = Matcher()
    matcher.count_surplus([2, 7, 9], queries=5)
    assert matcher.counts[SURPLUS] == 6
