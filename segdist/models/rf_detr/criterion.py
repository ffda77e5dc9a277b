"""The loss of RF-DETR-Seg: IoU-aware classes (LW-DETR, Chen et al. 2024), boxes, and masks on sampled points.

In training the queries come in groups, each of which finds every object (Group DETR, Chen et al. 2022).

Shapes: B images, Q queries of all groups, C classes, N objects of one image, M matched pairs of a batch, P points, H W
pixels of the padded square, h w of the predicted masks. Boxes are parts of the square's side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, logsigmoid
from torchvision.ops import box_convert, generalized_box_iou_loss

from segdist.nets.matching import (
    Matcher,
    Matches,
    dice_cost,
    focal_class_cost,
    giou_box_cost,
    l1_box_cost,
    mask_bce_cost,
)
from segdist.nets.points import ValidPixels, mask_losses, share_on, weighted_mean
from segdist.nets.set_criterion import joined, of_queries

TERMS = ("class", "box", "giou", "mask", "dice")
_COSTS = {"class": 2.0, "box": 5.0, "giou": 2.0, "mask": 5.0, "dice": 5.0}
"""Weights of the matching costs, those of the published training."""
_ALPHA, _GAMMA = 0.25, 2.0
"""How much a query's own score counts in its target, and how little the sure ones count."""
_LEAST_QUALITY = 0.01


@dataclass(frozen=True)
class DetrTargets:
    """What a batch teaches.

    Attributes:
        labels: for each image, its objects' classes (N,).
        boxes_cxcywh: for each image, its objects' boxes (N, 4).
        masks: for each image, its objects' masks (N, H, W), boolean, none of them empty.
        valid_BHW: pixels that teach something: inside the image, not of a crowd.
        crowd_BHW: pixels of crowds and of boxes without a mask.
        weights: for each image, how much each of its objects counts (N,); empty counts all equally.
        smoothing: for each image, the share of each object's truth that is spread (N,); empty spreads nothing.
    """

    labels: Sequence[Tensor]
    boxes_cxcywh: Sequence[Tensor]
    masks: Sequence[Tensor]
    valid_BHW: Tensor
    crowd_BHW: Tensor
    weights: Sequence[Tensor] = ()
    smoothing: Sequence[Tensor] = ()


@dataclass(frozen=True)
class DetrLayer:
    """What one layer predicts: (B, Q, C) class logits, (B, Q, 4) boxes as cx cy w h, (B, Q, h, w) mask logits."""

    classes_BQC: Tensor
    boxes_BQ4: Tensor
    masks_BQhw: Tensor


class DetrCriterion:
    """Loss terms as a mean over the layers, so that they do not grow with the decoder's depth.

    Attributes:
        matcher: counts what could not be used in training: see `Matcher.counts`.
    """

    def __init__(self, *, num_queries: int, points_ratio: int) -> None:
        self.num_queries = num_queries
        self.points_ratio = points_ratio
        self.matcher = Matcher()

    def __call__(self, layers: Sequence[DetrLayer], targets: DetrTargets) -> dict[str, Tensor]:
        """The terms `TERMS`, unweighted; those of boxes and masks are zeros connected to the graph without objects."""
        pixels = ValidPixels(targets.valid_BHW)
        truth_NK = torch.cat([m.flatten(1) for m in targets.masks])
        self.matcher.count_surplus([len(labels) for labels in targets.labels], queries=self.num_queries)
        terms = [self._layer(layer, targets, pixels, truth_NK) for layer in layers]
        return {name: torch.stack([t[name] for t in terms]).mean() for name in TERMS}

    def _layer(
        self, layer: DetrLayer, targets: DetrTargets, pixels: ValidPixels, truth_NK: Tensor
    ) -> dict[str, Tensor]:
        costs_QN = [self._costs(layer, targets, pixels, image) for image in range(len(targets.labels))]
        found = self.matcher(costs_QN, groups=layer.classes_BQC.shape[1] // self.num_queries)
        boxes_M4 = layer.boxes_BQ4[found.image_M, found.query_M]
        truth_M4 = torch.cat(list(targets.boxes_cxcywh))[found.object_M]
        weights_N = joined(targets.weights)
        return {
            "class": self._class_loss(layer, targets, found, _paired_iou(boxes_M4.detach(), truth_M4)),
            **_box_losses(boxes_M4, truth_M4, None if weights_N is None else weights_N[found.object_M]),
            **mask_losses(
                layer.masks_BQhw[found.image_M, found.query_M],
                found.image_M,
                found.object_M,
                truth_NK=truth_NK,
                pixels=pixels,
                num_points=self._num_points(layer),
                weights_N=weights_N,
                smoothing_N=joined(targets.smoothing),
            ),
        }

    def _num_points(self, layer: DetrLayer) -> int:
        height, width = layer.masks_BQhw.shape[-2:]
        return int(max(height, height * width // self.points_ratio))

    @torch.no_grad()
    def _costs(self, layer: DetrLayer, targets: DetrTargets, pixels: ValidPixels, image: int) -> Tensor:
        """(Q, N) the cost of each query with each object of one image, all on the same points."""
        labels_N, boxes_N4 = targets.labels[image], targets.boxes_cxcywh[image]
        logits_Qhw, boxes_Q4 = layer.masks_BQhw[image], layer.boxes_BQ4[image]
        if not len(labels_N):
            return logits_Qhw.new_zeros(len(logits_Qhw), 0)
        points_P = pixels.draw(torch.tensor([image], device=labels_N.device), self._num_points(layer))[0]
        logits_QP = pixels.values(logits_Qhw[None], points_P[None])[0]
        truth_NP = targets.masks[image].flatten(1)[:, points_P].float()
        return (
            _COSTS["class"] * focal_class_cost(layer.classes_BQC[image], labels_N, alpha=_ALPHA, gamma=_GAMMA)
            + _COSTS["box"] * l1_box_cost(boxes_Q4, boxes_N4)
            + _COSTS["giou"] * giou_box_cost(_corners(boxes_Q4), _corners(boxes_N4))
            + _COSTS["mask"] * mask_bce_cost(logits_QP, truth_NP)
            + _COSTS["dice"] * dice_cost(logits_QP.sigmoid(), truth_NP)
        )

    def _class_loss(self, layer: DetrLayer, targets: DetrTargets, found: Matches, iou_M: Tensor) -> Tensor:
        """Cross-entropy with the quality p^a IoU^(1-a) of a matched query as its truth, per object and group.

        Queries on crowds, where nobody knows what is there, do not learn that it is background.
        """
        logits_BQC = layer.classes_BQC
        p_BQC = logits_BQC.sigmoid()
        place = (found.image_M, found.query_M, torch.cat(list(targets.labels))[found.object_M])
        quality_M = (p_BQC[place] ** _ALPHA * iou_M ** (1 - _ALPHA)).clamp(min=_LEAST_QUALITY).detach()
        smoothing_N, weights_N = joined(targets.smoothing), joined(targets.weights)
        if smoothing_N is not None:
            quality_M = quality_M * (1 - smoothing_N[found.object_M])
        positive_BQC = torch.zeros_like(logits_BQC).index_put(place, quality_M)
        negative_BQC = (p_BQC**_GAMMA).index_put(place, 1 - quality_M)
        if targets.crowd_BHW.any():
            elsewhere_BQ = share_on(layer.masks_BQhw.detach(), targets.crowd_BHW) <= 0.5
            negative_BQC = negative_BQC * (elsewhere_BQ[..., None] | (positive_BQC > 0))
        loss_BQC = -(positive_BQC * logsigmoid(logits_BQC) + negative_BQC * logsigmoid(-logits_BQC))
        groups = logits_BQC.shape[1] // self.num_queries
        if weights_N is None:
            return loss_BQC.sum() / max(len(found), groups)
        weight_BQ = of_queries(weights_N, found, like_BQ=logits_BQC[..., 0], otherwise=1.0)
        return (loss_BQC * weight_BQ[..., None]).sum() / weights_N[found.object_M].sum().clamp(min=groups)


def _box_losses(boxes_M4: Tensor, truth_M4: Tensor, weights_M: Tensor | None) -> dict[str, Tensor]:
    """`box`, the sum of absolute differences, and `giou`, one minus the generalised IoU: means over the pairs."""
    if not len(boxes_M4):
        return {"box": boxes_M4.sum(), "giou": boxes_M4.sum()}
    return {
        "box": weighted_mean(l1_loss(boxes_M4, truth_M4, reduction="none").sum(1), weights_M),
        "giou": weighted_mean(
            generalized_box_iou_loss(_corners(boxes_M4), _corners(truth_M4), reduction="none"), weights_M
        ),
    }


def _paired_iou(boxes_M4: Tensor, truth_M4: Tensor) -> Tensor:
    """(M,) IoU of each pair."""
    a_M4, b_M4 = _corners(boxes_M4), _corners(truth_M4)
    sides_M2 = (torch.minimum(a_M4[:, 2:], b_M4[:, 2:]) - torch.maximum(a_M4[:, :2], b_M4[:, :2])).clamp(min=0)
    common_M = sides_M2.prod(1)
    both_M = boxes_M4[:, 2:].prod(1) + truth_M4[:, 2:].prod(1)
    return common_M / (both_M - common_M).clamp(min=1e-9)


def _corners(boxes_cxcywh: Tensor) -> Tensor:
    corners: Tensor = box_convert(boxes_cxcywh, "cxcywh", "xyxy")
    return corners
