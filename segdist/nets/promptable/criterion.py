"""The loss terms of promptable families (Kirillov et al. 2023, appendix A).

Shapes: N prompts over all images of a batch, M masks a prompt, K classes, h x w mask logits, S x S pixels.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from segdist import losses
from segdist.nets.points import spread


def mask_losses(
    logits_NMSS: Tensor,
    iou_NM: Tensor,
    truth_NSS: Tensor,
    ignore_NSS: Tensor,
    *,
    is_object_N: Tensor,
    weights_N: Tensor,
    smoothing_N: Tensor,
) -> dict[str, Tensor]:
    """The terms `focal`, `dice` and `iou`, as means over the prompts; of M masks the best learns its shape.

    Args:
        logits_NMSS: mask logits at the size of the truth.
        iou_NM: predicted IoU of each mask.
        truth_NSS: the true mask of each prompt; empty for a prompt on nothing.
        ignore_NSS: True where a pixel is ignored.
        is_object_N: whether a prompt's mask teaches a shape; those on nothing teach only that their IoU is 0.
        weights_N: how much each prompt counts.
        smoothing_N: share of each mask's truth that is spread over yes and no.
    """
    truth, ignore = (t[:, None].expand_as(logits_NMSS).flatten(0, 1) for t in (truth_NSS, ignore_NSS))
    logits = logits_NMSS.flatten(0, 1)
    targets = spread(truth.float(), smoothing_N.repeat_interleave(iou_NM.shape[1])[:, None, None])
    focal_NM = losses.mask_focal(logits, targets, ignore_NHW=ignore).view_as(iou_NM)
    dice_NM = losses.dice(logits.sigmoid(), targets, ignore_NHW=ignore).view_as(iou_NM)
    best_N1 = (20 * focal_NM + dice_NM).argmin(1, keepdim=True)
    with torch.no_grad():
        guess = (logits > 0) & ~ignore
        common = (guess & truth).flatten(1).sum(1)
        true_iou_NM = (common / (guess | (truth & ~ignore)).flatten(1).sum(1).clamp(min=1)).view_as(iou_NM)
    own_N = weights_N[is_object_N]
    return {
        "focal": losses.mean_or_zero(focal_NM.gather(1, best_N1)[is_object_N, 0], graph=focal_NM, weights_N=own_N),
        "dice": losses.mean_or_zero(dice_NM.gather(1, best_N1)[is_object_N, 0], graph=dice_NM, weights_N=own_N),
        "iou": losses.mean_or_zero(((iou_NM.float() - true_iou_NM) ** 2).mean(1), graph=iou_NM, weights_N=weights_N),
    }


def class_loss(logits_NMK: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy of the class of each prompt's object, of all its masks; "nothing" is the last class."""
    masks = logits_NMK.shape[1]
    return cross_entropy(logits_NMK.flatten(0, 1).float(), labels_N.repeat_interleave(masks))
