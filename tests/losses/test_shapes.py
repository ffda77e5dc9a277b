"""Losses of edges, overlaps and centre lines, against the papers' definitions in float64 NumPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from segdist import losses
from tests.losses.test_losses import B, Floats, H, K, Scene, W, scene, softmax, tensors

__all__ = ["scene"]
Bools = NDArray[np.bool_]
ALPHA, BETA = 0.3, 0.8


def blobs(seed: int = 3) -> tuple[Floats, Bools, Bools]:
    """Logits, truth and ignored pixels of three masks, the last of them empty."""
    rng = np.random.default_rng(seed)
    target = rng.random((3, H, W)) < 0.4
    target[2] = False
    return rng.normal(0, 2, (3, H, W)), target, rng.random((3, H, W)) < 0.25


def sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def jaccard_loss(wrong: set[int], truth: set[int]) -> float:
    """The set function of Berman et al., eq. 6: what is wrong, over what is wrong or true."""
    return len(wrong) / len(wrong | truth) if wrong | truth else 0.0


def lovasz_extension(errors: Floats, truth: Bools) -> float:
    """Definition 1: errors from the largest down, each times what its pixel adds to the set function."""
    true_pixels, wrong, value = set(np.flatnonzero(truth).tolist()), set[int](), 0.0
    for pixel in np.argsort(-errors, kind="stable").tolist():
        added = jaccard_loss(wrong | {pixel}, true_pixels) - jaccard_loss(wrong, true_pixels)
        value += float(errors[pixel]) * added
        wrong.add(pixel)
    return value


def distance_by_definition(mask: Bools) -> Floats:
    """Every pixel against every other."""
    result = np.zeros(mask.shape)
    if not mask.any():
        return result
    for y, x in np.ndindex(mask.shape):
        others = np.argwhere(mask != mask[y, x])
        nearest = np.sqrt(((others - (y, x)) ** 2).sum(1)).min() if len(others) else 1.0
        result[y, x] = 1 - nearest if mask[y, x] else nearest
    return result


def test_tversky_is_the_formula_of_salehi() -> None:
    logits, g, ignore = blobs()
    p, counts = sigmoid(logits), ~ignore
    hit = (p * g * counts).sum((1, 2))
    false, missed = (p * ~g * counts).sum((1, 2)), ((1 - p) * g * counts).sum((1, 2))
    expected = 1 - (hit + 1) / (hit + ALPHA * false + BETA * missed + 1)
    a, b, c = tensors(p, g, ignore)
    np.testing.assert_allclose(losses.tversky(a, b, ignore_NHW=c, alpha=ALPHA, beta=BETA), expected, rtol=1e-5)


def test_tversky_of_one_half_each_is_dice_with_probabilities_not_squared() -> None:
    logits, g, ignore = blobs()
    hard = torch.from_numpy(logits > 0)
    _, b, c = tensors(logits, g, ignore)
    by_tversky = losses.tversky(hard, b, ignore_NHW=c, alpha=0.5, beta=0.5, smooth=0.5)
    np.testing.assert_allclose(by_tversky, losses.dice(hard, b, ignore_NHW=c, smooth=1.0), rtol=1e-5)


def test_lovasz_hinge_is_the_extension_of_the_jaccard_loss() -> None:
    logits, target, ignore = blobs()
    expected = []
    for n in range(3):
        kept = ~ignore[n]
        hinge = np.maximum(1 - logits[n] * np.where(target[n], 1, -1), 0)
        expected.append(lovasz_extension(hinge[kept], target[n][kept]))
    a, b, c = tensors(logits, target, ignore)
    np.testing.assert_allclose(losses.lovasz_hinge(a, b, ignore_NHW=c), expected, rtol=1e-5)


def test_lovasz_softmax_is_the_mean_over_images_and_their_classes(scene: Scene) -> None:
    logits, target, ignore = scene
    target[target == K - 1] = 0
    target[0][target[0] == 1] = 0  # of two images one does not show the first class
    values = []
    for p_KHW, target_HW, kept_HW in zip(softmax(logits), target, ~ignore, strict=True):
        for k in range(K):
            truth = (target_HW == k)[kept_HW]
            if truth.any():
                values.append(lovasz_extension(np.abs(truth - p_KHW[k][kept_HW]), truth))
    assert len(values) == len(target) * (K - 1) - 1
    expected = np.mean(values)
    a, b, c = tensors(logits, target, ignore)
    assert float(losses.class_lovasz(a, b, ignore_BHW=c)) == pytest.approx(expected, rel=1e-5)


def test_the_lovasz_hinge_of_hard_errors_is_the_jaccard_loss_itself() -> None:
    truth, guess = np.zeros((1, 4, 4), np.bool_), np.zeros((1, 4, 4), np.bool_)
    truth[0, :2], guess[0, 1:3] = True, True
    errors = torch.from_numpy((truth != guess).astype(np.float64).reshape(1, -1))
    none = torch.zeros(1, 16, dtype=torch.bool)
    (value,) = losses.masks.lovasz_jaccard(errors, torch.from_numpy(truth).flatten(1), ignore_NP=none)
    assert float(value) == pytest.approx(1 - 4 / 12, rel=1e-6)


def test_the_signed_distance_is_that_of_all_pairs_of_pixels() -> None:
    target = ndimage.binary_dilation(np.random.default_rng(4).random((4, 12, 15)) < 0.04, np.ones((1, 3, 3)))
    target[2], target[3] = False, True
    found = losses.signed_distance(torch.from_numpy(target)).numpy()
    for n in range(3):
        np.testing.assert_allclose(found[n], distance_by_definition(target[n]), atol=1e-5)
    assert not found[3].any(), "a mask without an edge is nowhere near one"


def test_boundary_is_the_integral_of_kervadec() -> None:
    logits, target, ignore = blobs()
    distance = np.stack([distance_by_definition(m) for m in target])
    expected = [(sigmoid(logits)[n] * distance[n])[~ignore[n]].mean() for n in range(3)]
    a, d, c = tensors(sigmoid(logits), distance, ignore)
    np.testing.assert_allclose(losses.boundary(a, d, ignore_NHW=c), expected, rtol=1e-5, atol=1e-12)


def by_class(target: NDArray[np.int64]) -> tuple[Bools, Floats]:
    """Masks and distances of the classes without background, images first."""
    masks = np.stack([target == k for k in range(1, K)], axis=1)
    return masks, np.stack([[distance_by_definition(m) for m in image] for image in masks])


def test_class_boundary_is_the_mean_over_images_and_classes(scene: Scene) -> None:
    logits, target, ignore = scene
    target[1][target[1] == 2] = 0  # a class that one image has and the other has not
    _, distance = by_class(target)
    products = softmax(logits)[:, 1:] * distance
    expected = np.mean([products[b, k][~ignore[b]].mean() for b in range(B) for k in range(K - 1)])
    a, d, c = tensors(logits, distance, ignore)
    assert float(losses.class_boundary(a, d, ignore_BHW=c)) == pytest.approx(expected, rel=1e-5)


def weighted_bce(p: Floats, g: Bools, distance: Floats, kept: Bools) -> float:
    weight = 1 + 4.0 * np.exp(-(distance**2) / (2 * 1.5**2))
    pixels = -np.where(g, np.log(p), np.log(1 - p))
    return float((weight * pixels)[kept].sum() / weight[kept].sum())


def test_edge_bce_weighs_pixels_by_a_gaussian_of_their_distance_to_the_edge() -> None:
    logits, target, ignore = blobs()
    distance = np.stack([distance_by_definition(m) for m in target])
    expected = [weighted_bce(sigmoid(logits)[n], target[n], distance[n], ~ignore[n]) for n in range(3)]
    a, b, d, c = tensors(logits, target, distance, ignore)
    found = losses.edge_bce(a, b, d, ignore_NHW=c, edge_weight=4.0, sigma=1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_class_edge_bce_sets_each_class_against_the_rest(scene: Scene) -> None:
    logits, target, ignore = scene
    target[1][target[1] == 2] = 0
    masks, distance = by_class(target)
    p = softmax(logits)[:, 1:]
    pairs = [(b, k) for b in range(B) for k in range(K - 1) if (masks[b, k] & ~ignore[b]).any()]
    expected = np.mean([weighted_bce(p[b, k], masks[b, k], distance[b, k], ~ignore[b]) for b, k in pairs])
    a, b, d, c = tensors(logits, target, distance, ignore)
    found = losses.class_edge_bce(a, b, d, ignore_BHW=c, edge_weight=4.0, sigma=1.5)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def skeleton_by_definition(mask: Floats, iterations: int) -> Floats:
    """Algorithm 1 of clDice on scipy's grey morphology."""
    cross, square = ndimage.generate_binary_structure(2, 1), np.ones((3, 3))

    def eroded(m: Floats) -> Floats:
        return ndimage.grey_erosion(m, footprint=cross, mode="constant", cval=np.inf)

    def lines(m: Floats) -> Floats:
        opened = ndimage.grey_dilation(eroded(m), footprint=square, mode="constant", cval=-np.inf)
        return np.maximum(m - opened, 0)

    skeleton = lines(mask)
    for _ in range(iterations):
        mask = eroded(mask)
        skeleton = skeleton + np.maximum((1 - skeleton) * lines(mask), 0)
    return skeleton


def test_centreline_dice_is_algorithm_2_of_cldice() -> None:
    rng = np.random.default_rng(5)
    p, g = ndimage.gaussian_filter(rng.random((16, 18)), 1), np.zeros((16, 18), np.bool_)
    g[5:10, 2:15], ignore = True, rng.random((16, 18)) < 0.1
    p, counted = np.where(ignore, 0.0, p), (g & ~ignore).astype(np.float64)
    line_p, line_g = skeleton_by_definition(p, 4), skeleton_by_definition(counted, 4)
    precision = ((line_p * counted).sum() + 1) / (line_p.sum() + 1)
    recall = ((line_g * p).sum() + 1) / (line_g.sum() + 1)
    a, b, c = tensors(p[None], g[None], ignore[None])
    (found,) = losses.centreline_dice(a, b, ignore_NHW=c, iterations=4)
    assert float(found) == pytest.approx(1 - 2 * precision * recall / (precision + recall), rel=1e-5)


def test_a_gap_in_a_line_costs_more_centreline_dice_than_the_same_pixels_of_its_width() -> None:
    line = torch.zeros(1, 21, 40, dtype=torch.bool)
    line[:, 8:13] = True
    gap, thin, none = line.clone(), line.clone(), torch.zeros_like(line)
    gap[:, :, 16:24], thin[:, 8] = False, False  # 40 pixels less, both
    cost = [float(losses.centreline_dice(m, line, ignore_NHW=none)) for m in (gap, thin)]
    assert cost[0] > 2 * cost[1]


def test_class_weights_by_effective_number_are_those_of_cui() -> None:
    counts = np.array([1000, 10, 0, 200])
    raw = np.array([(1 - 0.99) / (1 - 0.99**n) for n in (1000, 10, 200)])
    expected = raw / raw.mean()
    found = losses.effective_number(counts, beta=0.99)
    np.testing.assert_allclose(found[[0, 1, 3]], expected, rtol=1e-12)
    assert found[2] == 0
    np.testing.assert_allclose(losses.effective_number(counts, beta=0.0)[[0, 1, 3]], 1.0)


def test_class_weights_by_inverse_frequency_give_every_class_the_same_say() -> None:
    counts = np.array([1000, 10, 0, 200])
    found = losses.inverse_frequency(counts)
    np.testing.assert_allclose((found * counts)[[0, 1, 3]], (found * counts)[0])
    assert found[counts > 0].mean() == pytest.approx(1)
    np.testing.assert_array_equal(losses.inverse_frequency(np.zeros(3, np.int64)), 1.0)


def test_weights_and_smoothing_enter_cross_entropy_as_written(scene: Scene) -> None:
    logits, target, ignore = scene
    rng = np.random.default_rng(6)
    weight, smoothing, by_class_K = rng.random((B, H, W)), rng.random((B, H, W)) * 0.4, np.array([1.0, 0.5, 2.0, 0.3])
    truth = np.eye(K)[target].transpose(0, 3, 1, 2)
    soft = truth * (1 - smoothing[:, None]) + smoothing[:, None] / K
    pixels = -(soft * np.log(softmax(logits))).sum(1)
    counts = weight * by_class_K[target] * ~ignore
    a, b, c, w, s, k = tensors(logits, target, ignore, weight, smoothing, by_class_K)
    found = losses.cross_entropy(a, b, ignore_BHW=c, weight_BHW=w, class_weights_K=k, smoothing_BHW=s)
    assert float(found) == pytest.approx((counts * pixels).sum() / counts.sum(), rel=1e-5)


def test_a_pixel_of_weight_zero_is_an_ignored_pixel(scene: Scene) -> None:
    logits, target, ignore = scene
    a, b, c = tensors(logits, target, ignore)
    none, weight = torch.zeros_like(c), (~c).float()
    for loss in (losses.cross_entropy, losses.focal, losses.class_dice, losses.class_tversky):
        torch.testing.assert_close(loss(a, b, ignore_BHW=none, weight_BHW=weight), loss(a, b, ignore_BHW=c))


def test_the_mean_over_masks_weighs_them_by_score() -> None:
    values, weights = torch.tensor([1.0, 4.0]), torch.tensor([0.9, 0.3])
    found = losses.mean_or_zero(values, graph=values, weights_N=weights)
    assert float(found) == pytest.approx((0.9 + 1.2) / 1.2)


MASK_LOSSES = {
    "mask_focal": lambda z, g, i: losses.mask_focal(z, g, ignore_NHW=i, gamma=0.5),
    "dice": lambda z, g, i: losses.dice(z.sigmoid(), g, ignore_NHW=i),
    "tversky": lambda z, g, i: losses.tversky(z.sigmoid(), g, ignore_NHW=i),
    "lovasz_hinge": lambda z, g, i: losses.lovasz_hinge(z, g, ignore_NHW=i),
    "boundary": lambda z, g, i: losses.boundary(z.sigmoid(), losses.signed_distance(g), ignore_NHW=i),
    "edge_bce": lambda z, g, i: losses.edge_bce(z, g, losses.signed_distance(g), ignore_NHW=i),
    "centreline_dice": lambda z, g, i: losses.centreline_dice(z.sigmoid(), g, ignore_NHW=i),
}


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_gradients_stay_finite_for_masks_that_are_empty_full_sure_or_ignored(name: str) -> None:
    logits = torch.randn(5, H, W, generator=torch.Generator().manual_seed(0))
    logits[3] = torch.where(logits[3] > 0, 1e4, -1e4)
    logits.requires_grad_()
    target = torch.stack([torch.zeros(H, W), torch.ones(H, W), *torch.rand(3, H, W).round()]).bool()
    ignore = torch.zeros(5, H, W, dtype=torch.bool)
    ignore[4] = True
    values = MASK_LOSSES[name](logits, target, ignore)
    torch.autograd.backward(values.sum())
    assert torch.isfinite(values).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[4].any(), "what is ignored moves nothing"


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_without_masks_there_is_a_zero_connected_to_the_graph(name: str) -> None:
    graph = torch.randn(3, requires_grad=True)
    none = torch.zeros(0, H, W, dtype=torch.bool)
    values = MASK_LOSSES[name](graph.sum().expand(0, H, W), none, none)
    value = losses.mean_or_zero(values, graph=graph)
    torch.autograd.backward(value)
    assert float(value.detach()) == 0
    assert graph.grad is not None


CLASS_LOSSES = {
    "tversky": lambda z, t, i: losses.class_tversky(z, t, ignore_BHW=i),
    "lovasz": lambda z, t, i: losses.class_lovasz(z, t, ignore_BHW=i),
    "boundary": lambda z, t, i: losses.class_boundary(z, torch.ones(B, K - 1, H, W), ignore_BHW=i),
    "edge_bce": lambda z, t, i: losses.class_edge_bce(z, t, torch.ones(B, K - 1, H, W), ignore_BHW=i),
}


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_where_everything_is_ignored_a_class_loss_is_a_connected_zero(name: str) -> None:
    logits = torch.randn(B, K, H, W, requires_grad=True)
    everything = torch.ones(B, H, W, dtype=torch.bool)
    value = CLASS_LOSSES[name](logits, torch.ones(B, H, W, dtype=torch.int64), everything)
    torch.autograd.backward(value)
    assert float(value.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
