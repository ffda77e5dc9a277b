"""Losses: one function each, with its paper.

Every function takes a mask of pixels that teach nothing, and gives a zero that is connected to the graph where nothing
is left to teach: no objects in the batch, everything ignored.

Shapes: B images, K classes with background, N masks, H and W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits_BKHW: Tensor, target_BHW: Tensor, *, ignore_BHW: Tensor) -> Tensor:
    """Mean cross-entropy of the pixels that are not ignored.

    Args:
        logits_BKHW: one logit a class.
        target_BHW: class index of each pixel, int64.
        ignore_BHW: True where a pixel teaches nothing.
    """
    pixels_BHW = functional.cross_entropy(logits_BKHW.float(), target_BHW, reduction="none")
    return _mean_where(pixels_BHW, ~ignore_BHW)


def focal(logits_BKHW: Tensor, target_BHW: Tensor, *, ignore_BHW: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean of -(1 - p)^gamma log p over the pixels, p the probability of the true class (Lin et al. 2017, eq. 4).

    Args:
        logits_BKHW: one logit a class.
        target_BHW: class index of each pixel, int64.
        ignore_BHW: True where a pixel teaches nothing.
        gamma: how little the pixels count that are right already; 0 is cross-entropy.
    """
    negative_log_p_BHW = functional.cross_entropy(logits_BKHW.float(), target_BHW, reduction="none")
    return _mean_where((1 - torch.exp(-negative_log_p_BHW)) ** gamma * negative_log_p_BHW, ~ignore_BHW)


def mask_focal(
    logits_NHW: Tensor, target_NHW: Tensor, *, ignore_NHW: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of each binary mask, balanced between object and rest (Lin et al. 2017, eq. 5).

    Args:
        logits_NHW: one logit a pixel.
        target_NHW: True on the object.
        ignore_NHW: True where a pixel teaches nothing.
        alpha: weight of the object's pixels; the others weigh `1 - alpha`.
        gamma: how little the pixels count that are right already.

    Returns:
        (N,) the mean over the pixels of each mask.
    """
    logits_NHW, truth_NHW = logits_NHW.float(), target_NHW.float()
    negative_log_p_NHW = functional.binary_cross_entropy_with_logits(logits_NHW, truth_NHW, reduction="none")
    balance_NHW = alpha * truth_NHW + (1 - alpha) * (1 - truth_NHW)
    pixels_NHW = balance_NHW * (1 - torch.exp(-negative_log_p_NHW)) ** gamma * negative_log_p_NHW
    return _mean_of_each(pixels_NHW, ~ignore_NHW)


def dice(probabilities_NHW: Tensor, target_NHW: Tensor, *, ignore_NHW: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice coefficient 2 sum(p g) / (sum(p^2) + sum(g^2)) of each mask (Milletari et al. 2016).

    Args:
        probabilities_NHW: between 0 and 1.
        target_NHW: True on the object.
        ignore_NHW: True where a pixel teaches nothing.
        smooth: added above and below, so that an empty mask predicted empty costs nothing.

    Returns:
        (N,) one value a mask.
    """
    counts_NHW = (~ignore_NHW).float()
    p_NHW, g_NHW = probabilities_NHW.float() * counts_NHW, target_NHW.float() * counts_NHW
    common_N = (p_NHW * g_NHW).flatten(1).sum(1)
    total_N = (p_NHW**2).flatten(1).sum(1) + (g_NHW**2).flatten(1).sum(1)
    return 1 - (2 * common_N + smooth) / (total_N + smooth)


def class_dice(logits_BKHW: Tensor, target_BHW: Tensor, *, ignore_BHW: Tensor) -> Tensor:
    """Mean `dice` of the classes that occur in the batch, background left out, each over all images at once.

    A class that does not occur teaches nothing here: its Dice loss is 1 whatever small probability is left, and with
    small batches the rare classes would be unlearned at most steps. Cross-entropy sees its false positives.

    Args:
        logits_BKHW: one logit a class, background first.
        target_BHW: class index of each pixel, int64.
        ignore_BHW: True where a pixel teaches nothing.
    """
    probabilities_KBHW = logits_BKHW.float().softmax(1)[:, 1:].transpose(0, 1)
    target_KBHW = torch.stack([target_BHW == k for k in range(1, logits_BKHW.shape[1])])
    ignore_KBHW = ignore_BHW.expand_as(target_KBHW)
    occurs_K = (target_KBHW & ~ignore_KBHW).flatten(1).any(1)
    return mean_or_zero(
        dice(probabilities_KBHW, target_KBHW, ignore_NHW=ignore_KBHW)[occurs_K], graph=probabilities_KBHW
    )


def mean_or_zero(values_N: Tensor, *, graph: Tensor) -> Tensor:
    """The mean, or without values a zero that is connected to `graph`."""
    return values_N.mean() if len(values_N) else graph.float().sum() * 0


def _mean_where(pixels: Tensor, counts: Tensor) -> Tensor:
    """The mean of the pixels that count; a connected zero where none does."""
    return torch.where(counts, pixels, 0).sum() / counts.sum().clamp(min=1)


def _mean_of_each(pixels_NHW: Tensor, counts_NHW: Tensor) -> Tensor:
    """(N,) the mean over the pixels that count."""
    total_N = torch.where(counts_NHW, pixels_NHW, 0).flatten(1).sum(1)
    return total_N / counts_NHW.flatten(1).sum(1).clamp(min=1)
