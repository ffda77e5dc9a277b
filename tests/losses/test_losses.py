"""Losses against the papers' formulas in float64 NumPy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segdist.losses import class_dice, cross_entropy, dice, focal, mask_focal, mean_or_zero

Floats = NDArray[np.float64]
Scene = tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]
B, K, H, W = 2, 4, 5, 6


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (B, K, H, W)), rng.integers(0, K, (B, H, W)), rng.random((B, H, W)) < 0.3


def softmax(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def true_class(logits: Floats, target: NDArray[np.int64]) -> Floats:
    return np.take_along_axis(softmax(logits), target[:, None], 1)[:, 0]


def tensors(*arrays: NDArray[np.generic]) -> list[torch.Tensor]:
    return [torch.from_numpy(a) for a in arrays]


def test_cross_entropy_is_the_mean_negative_log_probability(scene: Scene) -> None:
    logits, target, ignore = scene
    expected = -np.log(true_class(logits, target))[~ignore].mean()
    a, b, c = tensors(*scene)
    assert float(cross_entropy(a, b, ignore_BHW=c)) == pytest.approx(expected, rel=1e-5)


def test_focal_is_equation_4(scene: Scene) -> None:
    logits, target, ignore = scene
    p = true_class(logits, target)[~ignore]
    a, b, c = tensors(*scene)
    assert float(focal(a, b, ignore_BHW=c, gamma=2)) == pytest.approx((-((1 - p) ** 2) * np.log(p)).mean(), rel=1e-5)
    assert float(focal(a, b, ignore_BHW=c, gamma=0)) == pytest.approx((-np.log(p)).mean(), rel=1e-5)


def test_mask_focal_is_equation_5() -> None:
    rng = np.random.default_rng(1)
    logits, target, ignore = rng.normal(0, 4, (3, H, W)), rng.random((3, H, W)) < 0.4, rng.random((3, H, W)) < 0.3
    p = 1 / (1 + np.exp(-logits))
    pt, at = np.where(target, p, 1 - p), np.where(target, 0.25, 0.75)
    pixels = -at * (1 - pt) ** 2 * np.log(pt)
    expected = [pixels[n][~ignore[n]].mean() for n in range(3)]
    a, b, c = tensors(logits, target, ignore)
    np.testing.assert_allclose(mask_focal(a, b, ignore_NHW=c).numpy(), expected, rtol=1e-5)


def test_dice_is_the_formula_of_v_net() -> None:
    rng = np.random.default_rng(2)
    p, g, ignore = rng.random((3, H, W)), rng.random((3, H, W)) < 0.4, rng.random((3, H, W)) < 0.3
    p, counted = p * ~ignore, g & ~ignore
    expected = 1 - (2 * (p * counted).sum((1, 2)) + 1) / ((p**2).sum((1, 2)) + counted.sum((1, 2)) + 1)
    a, b, c = tensors(p, g, ignore)
    np.testing.assert_allclose(dice(a, b, ignore_NHW=c).numpy(), expected, rtol=1e-5)


def test_class_dice_is_the_mean_over_images_and_their_classes_without_background(scene: Scene) -> None:
    logits, target, ignore = scene
    target[target == K - 1] = 0  # the last class is nowhere
    target[:, 0, 0], ignore[:, 0, 0] = K - 1, True  # but where nothing counts
    p = softmax(logits) * ~ignore[:, None]
    values = []
    target[0][target[0] == 1] = 0  # of two images one does not show the first class
    for p_KHW, target_HW, ignore_HW in zip(p, target, ignore, strict=True):
        for k in range(1, K - 1):
            g = (target_HW == k) & ~ignore_HW
            if g.any():
                values.append(1 - (2 * (p_KHW[k] * g).sum() + 1) / ((p_KHW[k] ** 2).sum() + g.sum() + 1))
    assert len(values) == len(target) * (K - 2) - 1
    a, b, c = tensors(logits, target, ignore)
    assert float(class_dice(a, b, ignore_BHW=c)) == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, focal, class_dice])
def test_where_everything_is_ignored_the_loss_is_a_connected_zero(loss: Callable[..., torch.Tensor]) -> None:
    logits = torch.randn(B, K, H, W, requires_grad=True)
    value = loss(logits, torch.zeros(B, H, W, dtype=torch.int64), ignore_BHW=torch.ones(B, H, W, dtype=torch.bool))
    torch.autograd.backward(value)
    assert float(value.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", [mask_focal, dice])
def test_without_masks_the_mean_is_a_connected_zero(loss: Callable[..., torch.Tensor]) -> None:
    graph = torch.randn(3, requires_grad=True)
    none = torch.zeros(0, H, W, dtype=torch.bool)
    value = mean_or_zero(loss(graph.sum().expand(0, H, W), none, ignore_NHW=none), graph=graph)
    torch.autograd.backward(value)
    assert float(value.detach()) == 0
    assert graph.grad is not None


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[-1e4, 1e4]]], requires_grad=True)
    wrong, none = torch.tensor([[[True, False]]]), torch.zeros(1, 1, 2, dtype=torch.bool)
    torch.autograd.backward(mask_focal(logits, wrong, ignore_NHW=none).sum())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
