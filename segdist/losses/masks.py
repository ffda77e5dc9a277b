"""Losses of single binary masks: one value for each.

Shapes: N masks, H and W pixels, P = H W.
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def mask_focal(
    logits_NHW: Tensor, target_NHW: Tensor, *, ignore_NHW: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of each binary mask, balanced between object and rest (Lin et al. 2017, eq. 5).

    Args:
        logits_NHW: one logit a pixel.
        target_NHW: True on the object.
        ignore_NHW: True where a pixel is ignored.
        alpha: weight of the object's pixels; the others weigh `1 - alpha`.
        gamma: how little the pixels count that are right already.

    Returns:
        (N,) the mean over the pixels of each mask.
    """
    logits_NHW, truth_NHW = logits_NHW.float(), target_NHW.float()
    negative_log_p_NHW = functional.binary_cross_entropy_with_logits(logits_NHW, truth_NHW, reduction="none")
    balance_NHW = alpha * truth_NHW + (1 - alpha) * (1 - truth_NHW)
    wrong_NHW = (1 - torch.exp(-negative_log_p_NHW)).clamp(min=1e-12)  # 0 ** gamma has no slope for gamma < 1
    pixels_NHW = balance_NHW * wrong_NHW**gamma * negative_log_p_NHW
    return mean_of_each(pixels_NHW, ~ignore_NHW)


def edge_bce(
    logits_NHW: Tensor,
    target_NHW: Tensor,
    distance_NHW: Tensor,
    *,
    ignore_NHW: Tensor,
    edge_weight: float = 5.0,
    sigma: float = 3.0,
) -> Tensor:
    """Binary cross-entropy in which pixels near the mask's edge count more (after Ronneberger et al. 2015, eq. 2).

    The weight is 1 + `edge_weight` exp(-d^2 / (2 sigma^2)), d the distance to the edge of this mask; the paper adds the
    distance to the second nearest cell. Weights are normalised to a mean, so that the scale does not depend on them.

    Args:
        logits_NHW: one logit a pixel.
        target_NHW: True on the object.
        distance_NHW: of the target, from `signed_distance`, in pixels.
        ignore_NHW: True where a pixel is ignored.
        edge_weight: how much more a pixel on the edge counts than one far from it.
        sigma: how far that reaches, in pixels.

    Returns:
        (N,) the weighted mean over the pixels of each mask.
    """
    pixels_NHW = functional.binary_cross_entropy_with_logits(logits_NHW.float(), target_NHW.float(), reduction="none")
    weight_NHW = 1 + edge_weight * torch.exp(-(distance_NHW.float() ** 2) / (2 * sigma**2))
    return mean_of_each(pixels_NHW, ~ignore_NHW, weight_NHW=weight_NHW)


def boundary(probabilities_NHW: Tensor, distance_NHW: Tensor, *, ignore_NHW: Tensor) -> Tensor:
    """Probability times signed distance to the true edge, as a mean over the pixels (Kervadec et al. 2019, eq. 5).

    It is least, and negative, where the mask is exact; it says how far off an edge is, which overlap does not. It
    stands beside an overlap loss, because an empty prediction also costs nothing.

    Args:
        probabilities_NHW: between 0 and 1.
        distance_NHW: of the target, from `signed_distance`, in pixels.
        ignore_NHW: True where a pixel is ignored.

    Returns:
        (N,) in pixels.
    """
    return mean_of_each(probabilities_NHW.float() * distance_NHW.float(), ~ignore_NHW)


def signed_distance(target_NHW: Tensor) -> Tensor:
    """(N, H, W) distance to the edge in pixels: positive outside, 0 or negative inside, 0 for an empty mask.

    Outside it is the distance to the nearest pixel of the object; inside, one less than the distance to the nearest
    pixel off it, with the sign turned (as the code of Kervadec et al. 2019 has it). float32, on the target's device.
    """
    target = target_NHW.detach().cpu().numpy().astype(np.uint8)
    distance = np.zeros(target.shape, np.float32)
    for distance_HW, mask_HW in zip(distance, target, strict=True):
        if mask_HW.any():
            outside_HW = cv2.distanceTransform(1 - mask_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            # Of a mask without a pixel off it, OpenCV gives the largest float there is.
            inside_HW = 0 if mask_HW.all() else cv2.distanceTransform(mask_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 1
            distance_HW[...] = np.where(mask_HW, -inside_HW, outside_HW)
    return torch.from_numpy(distance).to(target_NHW.device)


def dice(
    probabilities_NHW: Tensor,
    target_NHW: Tensor,
    *,
    ignore_NHW: Tensor,
    smooth: float = 1.0,
    weight_NHW: Tensor | None = None,
) -> Tensor:
    """One minus the soft Dice coefficient 2 sum(p g) / (sum(p^2) + sum(g^2)) of each mask (Milletari et al. 2016).

    Args:
        probabilities_NHW: between 0 and 1.
        target_NHW: True on the object.
        ignore_NHW: True where a pixel is ignored.
        smooth: added above and below, so that an empty mask predicted empty costs nothing.
        weight_NHW: how much each pixel counts in all sums; None counts them equally.

    Returns:
        (N,) one value a mask.
    """
    counts_NHW = _counting(ignore_NHW, weight_NHW)
    p_NHW, g_NHW = probabilities_NHW.float(), target_NHW.float()
    counted_NHW = counts_NHW * p_NHW
    common_N = (counted_NHW * g_NHW).flatten(1).sum(1)
    total_N = (counted_NHW * p_NHW).flatten(1).sum(1) + (counts_NHW * g_NHW).flatten(1).sum(1)
    return 1 - (2 * common_N + smooth) / (total_N + smooth)


def tversky(
    probabilities_NHW: Tensor,
    target_NHW: Tensor,
    *,
    ignore_NHW: Tensor,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    weight_NHW: Tensor | None = None,
) -> Tensor:
    """One minus the Tversky index TP / (TP + alpha FP + beta FN) of each mask (Salehi et al. 2017, eq. 3).

    Args:
        probabilities_NHW: between 0 and 1.
        target_NHW: True on the object.
        ignore_NHW: True where a pixel is ignored.
        alpha: what a false positive costs.
        beta: what a false negative costs.
        smooth: added above and below, so that an empty mask predicted empty costs nothing.
        weight_NHW: how much each pixel counts in all sums; None counts them equally.

    Returns:
        (N,) one value a mask.
    """
    counts_NHW = _counting(ignore_NHW, weight_NHW)
    p_NHW, g_NHW = probabilities_NHW.float(), target_NHW.float()
    hit_N = (counts_NHW * p_NHW * g_NHW).flatten(1).sum(1)
    false_N = (counts_NHW * p_NHW * (1 - g_NHW)).flatten(1).sum(1)
    missed_N = (counts_NHW * (1 - p_NHW) * g_NHW).flatten(1).sum(1)
    return 1 - (hit_N + smooth) / (hit_N + alpha * false_N + beta * missed_N + smooth)


def lovasz_hinge(logits_NHW: Tensor, target_NHW: Tensor, *, ignore_NHW: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss at the hinge errors of each mask (Berman et al. 2018, eq. 8 to 10).

    Args:
        logits_NHW: one logit a pixel.
        target_NHW: True on the object.
        ignore_NHW: True where a pixel is ignored.

    Returns:
        (N,) one value a mask.
    """
    signs_NHW = target_NHW.float() * 2 - 1
    errors_NHW = functional.relu(1 - logits_NHW.float() * signs_NHW)
    return lovasz_jaccard(errors_NHW.flatten(1), target_NHW.flatten(1), ignore_NP=ignore_NHW.flatten(1))


def lovasz_jaccard(errors_NP: Tensor, truth_NP: Tensor, *, ignore_NP: Tensor) -> Tensor:
    """(N,) the Lovász extension of the Jaccard loss (Berman et al. 2018, algorithm 1).

    Args:
        errors_NP: how wrong each pixel is, 0 or more.
        truth_NP: True on the object.
        ignore_NP: True where a pixel is ignored: it counts as right and as off the object, which changes nothing,
            because right pixels come last and have no weight.
    """
    errors_NP = errors_NP.masked_fill(ignore_NP, 0.0)
    sorted_NP, order_NP = errors_NP.sort(dim=1, descending=True)
    truth_NP = (truth_NP & ~ignore_NP).gather(1, order_NP).float()
    total_N1 = truth_NP.sum(1, keepdim=True)
    common_NP = total_N1 - truth_NP.cumsum(1)
    either_NP = total_N1 + (1 - truth_NP).cumsum(1)
    jaccard_NP = 1 - common_NP / either_NP
    steps_NP = torch.cat([jaccard_NP[:, :1], jaccard_NP[:, 1:] - jaccard_NP[:, :-1]], dim=1)
    return (sorted_NP * steps_NP).sum(1)


def centreline_dice(
    probabilities_NHW: Tensor, target_NHW: Tensor, *, ignore_NHW: Tensor, iterations: int = 5, smooth: float = 1.0
) -> Tensor:
    """One minus soft clDice of each mask: do centre lines lie in the other mask? (Shit et al. 2021, algorithms 1, 2).

    For cracks, cables and roads, where a gap matters and a pixel of width does not.

    Args:
        probabilities_NHW: between 0 and 1.
        target_NHW: True on the object.
        ignore_NHW: True where a pixel is ignored.
        iterations: at least half the width of the widest object, in pixels.
        smooth: added above and below, so that an empty mask predicted empty costs nothing.

    Returns:
        (N,) one value a mask.
    """
    counts_NHW = (~ignore_NHW).float()
    p_NHW, g_NHW = probabilities_NHW.float() * counts_NHW, target_NHW.float() * counts_NHW
    line_p_NHW, line_g_NHW = soft_skeleton(p_NHW, iterations), soft_skeleton(g_NHW, iterations)
    precision_N = _share(line_p_NHW * g_NHW, line_p_NHW, smooth)
    recall_N = _share(line_g_NHW * p_NHW, line_g_NHW, smooth)
    return 1 - 2 * precision_N * recall_N / (precision_N + recall_N)


def soft_skeleton(mask_NHW: Tensor, iterations: int) -> Tensor:
    """(N, H, W) the centre line of masks with values from 0 to 1 (Shit et al. 2021, algorithm 1)."""
    line_NHW = functional.relu(mask_NHW - _opened(mask_NHW))
    for _ in range(iterations):
        mask_NHW = _eroded(mask_NHW)
        line_NHW = line_NHW + functional.relu((1 - line_NHW) * functional.relu(mask_NHW - _opened(mask_NHW)))
    return line_NHW


def mean_or_zero(values_N: Tensor, *, graph: Tensor, weights_N: Tensor | None = None) -> Tensor:
    """The mean, or without values (or weights) a zero that is connected to `graph`.

    Args:
        values_N: one value a mask.
        graph: any tensor that depends on the network.
        weights_N: how much each value counts, as an instance's score; None counts them equally.
    """
    if not len(values_N):
        return graph.float().sum() * 0
    if weights_N is None:
        return values_N.mean()
    return (values_N * weights_N).sum() / weights_N.sum().clamp(min=1e-6)


def mean_of_each(pixels_NHW: Tensor, counts_NHW: Tensor, *, weight_NHW: Tensor | None = None) -> Tensor:
    """(N,) the mean over the pixels that count; a connected zero where none does."""
    weights_NHW = _counting(~counts_NHW, weight_NHW)
    total_N = (torch.where(counts_NHW, pixels_NHW, 0) * weights_NHW).flatten(1).sum(1)
    weight_N = weights_NHW.flatten(1).sum(1)
    return total_N / torch.where(weight_N > 0, weight_N, 1)


def _counting(ignore_NHW: Tensor, weight_NHW: Tensor | None) -> Tensor:
    """How much each pixel counts; nothing where it is ignored."""
    counts_NHW = (~ignore_NHW).float()
    return counts_NHW if weight_NHW is None else counts_NHW * weight_NHW


def _share(part_NHW: Tensor, whole_NHW: Tensor, smooth: float) -> Tensor:
    return (part_NHW.flatten(1).sum(1) + smooth) / (whole_NHW.flatten(1).sum(1) + smooth)


def _eroded(mask_NHW: Tensor) -> Tensor:
    """The least of each pixel and its four neighbours."""
    upright = -functional.max_pool2d(-mask_NHW[:, None], (3, 1), stride=1, padding=(1, 0))
    level = -functional.max_pool2d(-mask_NHW[:, None], (1, 3), stride=1, padding=(0, 1))
    return torch.minimum(upright, level)[:, 0]


def _opened(mask_NHW: Tensor) -> Tensor:
    return functional.max_pool2d(_eroded(mask_NHW)[:, None], 3, stride=1, padding=1)[:, 0]
