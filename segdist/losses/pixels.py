"""Losses of a class map: one class, or background, for each pixel.

Shapes: B images, K classes with background first, H and W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional

from segdist.losses.masks import boundary, dice, edge_bce, lovasz_jaccard, mean_or_zero, tversky


def cross_entropy(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    *,
    ignore_BHW: Tensor,
    weight_BHW: Tensor | None = None,
    class_weights_K: Tensor | None = None,
    smoothing_BHW: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of the pixels that are not ignored.

    Args:
        logits_BKHW: one logit a class.
        target_BHW: class index of each pixel, int64.
        ignore_BHW: True where a pixel is ignored.
        weight_BHW: how much each pixel counts; None counts them equally.
        class_weights_K: how much the pixels of each true class count; None counts them equally.
        smoothing_BHW: share of each pixel's truth that is spread over all classes (Szegedy et al. 2016, eq. 7).
    """
    logs_BKHW = logits_BKHW.float().log_softmax(1)
    pixels_BHW = functional.nll_loss(logs_BKHW, target_BHW, reduction="none")
    if smoothing_BHW is not None:
        pixels_BHW = (1 - smoothing_BHW) * pixels_BHW - smoothing_BHW * logs_BKHW.mean(1)
    return _mean_where(pixels_BHW, ~ignore_BHW, _weights(target_BHW, weight_BHW, class_weights_K))


def focal(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    *,
    ignore_BHW: Tensor,
    gamma: float = 2.0,
    weight_BHW: Tensor | None = None,
    class_weights_K: Tensor | None = None,
) -> Tensor:
    """Mean of -(1 - p)^gamma log p over the pixels, p the probability of the true class (Lin et al. 2017, eq. 4).

    Args:
        logits_BKHW: one logit a class.
        target_BHW: class index of each pixel, int64.
        ignore_BHW: True where a pixel is ignored.
        gamma: how little the pixels count that are right already; 0 is cross-entropy.
        weight_BHW: how much each pixel counts; None counts them equally.
        class_weights_K: how much the pixels of each true class count; None counts them equally.
    """
    negative_log_p_BHW = functional.cross_entropy(logits_BKHW.float(), target_BHW, reduction="none")
    wrong_BHW = (1 - torch.exp(-negative_log_p_BHW)).clamp(min=1e-12)  # 0 ** gamma has no slope for gamma < 1
    pixels_BHW = wrong_BHW**gamma * negative_log_p_BHW
    return _mean_where(pixels_BHW, ~ignore_BHW, _weights(target_BHW, weight_BHW, class_weights_K))


def class_dice(
    logits_BKHW: Tensor, target_BHW: Tensor, *, ignore_BHW: Tensor, weight_BHW: Tensor | None = None
) -> Tensor:
    """Mean `dice` over images and the classes that they show, background left out.

    A class that an image does not show adds nothing here: its Dice loss is 1 whatever small probability is left, and
    the rare classes would be unlearned at most steps. Cross-entropy sees its false positives.

    Args:
        logits_BKHW: one logit a class, background first.
        target_BHW: class index of each pixel, int64.
        ignore_BHW: True where a pixel is ignored.
        weight_BHW: how much each pixel counts; None counts them equally.
    """
    shown_NHW, target_NHW, ignore_NHW, weight_NHW = _of_shown_classes(logits_BKHW, target_BHW, ignore_BHW, weight_BHW)
    values_N = dice(shown_NHW, target_NHW, ignore_NHW=ignore_NHW, weight_NHW=weight_NHW)
    return mean_or_zero(values_N, graph=logits_BKHW)


def class_tversky(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    *,
    ignore_BHW: Tensor,
    alpha: float = 0.3,
    beta: float = 0.7,
    weight_BHW: Tensor | None = None,
) -> Tensor:
    """Mean `tversky` over images and the classes that they show, background left out.

    Args:
        logits_BKHW: one logit a class, background first.
        target_BHW: class index of each pixel, int64.
        ignore_BHW: True where a pixel is ignored.
        alpha: what a false positive costs.
        beta: what a false negative costs.
        weight_BHW: how much each pixel counts; None counts them equally.
    """
    shown_NHW, target_NHW, ignore_NHW, weight_NHW = _of_shown_classes(logits_BKHW, target_BHW, ignore_BHW, weight_BHW)
    values_N = tversky(shown_NHW, target_NHW, ignore_NHW=ignore_NHW, alpha=alpha, beta=beta, weight_NHW=weight_NHW)
    return mean_or_zero(values_N, graph=logits_BKHW)


def class_lovasz(logits_BKHW: Tensor, target_BHW: Tensor, *, ignore_BHW: Tensor) -> Tensor:
    """Lovász-Softmax: the Jaccard loss of the classes that occur, made smooth (Berman et al. 2018, eq. 11 and 12).

    A mean over images and the classes that they show, as their code has it with `per_image`.

    Args:
        logits_BKHW: one logit a class; background is a class like the others.
        target_BHW: class index of each pixel, int64.
        ignore_BHW: True where a pixel is ignored.
    """
    probabilities_NP = logits_BKHW.float().softmax(1).flatten(0, 1).flatten(1)
    truth_NP = torch.stack([target_BHW == k for k in range(logits_BKHW.shape[1])], dim=1).flatten(0, 1).flatten(1)
    ignore_NP = ignore_BHW[:, None].expand_as(logits_BKHW).flatten(0, 1).flatten(1)
    values_N = lovasz_jaccard((truth_NP.float() - probabilities_NP).abs(), truth_NP, ignore_NP=ignore_NP)
    return mean_or_zero(values_N[(truth_NP & ~ignore_NP).any(1)], graph=probabilities_NP)


def class_boundary(logits_BKHW: Tensor, distance_BCHW: Tensor, *, ignore_BHW: Tensor) -> Tensor:
    """Mean `boundary` over images and classes without background; a class that an image has not adds nothing.

    Args:
        logits_BKHW: one logit a class, background first.
        distance_BCHW: `signed_distance` of each class but background, in pixels.
        ignore_BHW: True where a pixel is ignored.
    """
    probabilities_NHW = logits_BKHW.float().softmax(1)[:, 1:].flatten(0, 1)
    ignore_NHW = ignore_BHW[:, None].expand_as(distance_BCHW).flatten(0, 1)
    return boundary(probabilities_NHW, distance_BCHW.flatten(0, 1), ignore_NHW=ignore_NHW).mean()


def class_edge_bce(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    distance_BCHW: Tensor,
    *,
    ignore_BHW: Tensor,
    edge_weight: float = 5.0,
    sigma: float = 3.0,
) -> Tensor:
    """Mean `edge_bce` of each class but background against all others, over images and the classes they have.

    Args:
        logits_BKHW: one logit a class, background first.
        target_BHW: class index of each pixel, int64.
        distance_BCHW: `signed_distance` of each class but background, in pixels.
        ignore_BHW: True where a pixel is ignored.
        edge_weight: how much more a pixel on the edge counts than one far from it.
        sigma: how far that reaches, in pixels.
    """
    logits_BKHW = logits_BKHW.float()
    target_BCHW = torch.stack([target_BHW == k for k in range(1, logits_BKHW.shape[1])], dim=1)
    values_N = edge_bce(
        _one_vs_rest(logits_BKHW)[:, 1:].flatten(0, 1),
        target_BCHW.flatten(0, 1),
        distance_BCHW.flatten(0, 1),
        ignore_NHW=ignore_BHW[:, None].expand_as(target_BCHW).flatten(0, 1),
        edge_weight=edge_weight,
        sigma=sigma,
    )
    occurs_N = (target_BCHW & ~ignore_BHW[:, None]).flatten(2).any(2).flatten()
    return mean_or_zero(values_N[occurs_N], graph=logits_BKHW)


def _one_vs_rest(logits_BKHW: Tensor) -> Tensor:
    """(B, K, H, W) the logit of each class's softmax probability: its own less the log-sum-exp of the others."""
    others = []
    for k in range(logits_BKHW.shape[1]):
        rest = torch.cat([logits_BKHW[:, :k], logits_BKHW[:, k + 1 :]], dim=1)
        others.append(rest.logsumexp(1))
    return logits_BKHW - torch.stack(others, dim=1)


def _of_shown_classes(
    logits_BKHW: Tensor, target_BHW: Tensor, ignore_BHW: Tensor, weight_BHW: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(N, H, W) of each image and each class but background that it shows: probabilities, truth, ignored, weights.

    Of ten classes an image shows few; to compute all would take a tenth of a training step.
    """
    shows = [((target_BHW == k) & ~ignore_BHW).flatten(1).any(1) for k in range(1, logits_BKHW.shape[1])]
    image_N, class_N = torch.stack(shows, dim=1).nonzero(as_tuple=True)
    class_N = class_N + 1
    probabilities = logits_BKHW.float().softmax(1).flatten(0, 1)
    return (
        probabilities.index_select(0, image_N * logits_BKHW.shape[1] + class_N),
        target_BHW[image_N] == class_N[:, None, None],
        ignore_BHW[image_N],
        None if weight_BHW is None else weight_BHW[image_N],
    )


def _weights(target_BHW: Tensor, weight_BHW: Tensor | None, class_weights_K: Tensor | None) -> Tensor | None:
    """(B, H, W) how much each pixel counts; None where all count equally."""
    if class_weights_K is None:
        return weight_BHW
    by_class_BHW = class_weights_K[target_BHW]
    return by_class_BHW if weight_BHW is None else by_class_BHW * weight_BHW


def _mean_where(pixels: Tensor, counts: Tensor, weights: Tensor | None) -> Tensor:
    """The weighted mean of the pixels that count; a connected zero where none does."""
    if weights is None:
        return torch.where(counts, pixels, 0).sum() / counts.sum().clamp(min=1)
    weights = torch.where(counts, weights, 0)
    total = weights.sum()
    return (torch.where(counts, pixels, 0) * weights).sum() / torch.where(total > 0, total, 1)
