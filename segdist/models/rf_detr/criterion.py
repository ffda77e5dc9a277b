"""The loss of RF-DETR-Seg: IoU-aware classes (LW-DETR, Chen et al. 2024), boxes, and masks on sampled points.

In training the queries come in groups, each of which finds every object (Group DETR, Chen et al. 2022).

Shapes: B images, Q queries of all groups, C classes, N objects of one image, M matched pairs of a batch, P points, H W
pixels of the padded square, h w of the predicted masks. Boxes are parts of the square's side.
"""

from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segdist.nets.matching import Matches, focal_class_cost
from segdist.nets.segmenter import Divisor
from segdist.nets.set_criterion import Layer, SetCriterion, Targets, corners, joined, of_queries, paired_boxes

_ALPHA, _GAMMA = 0.25, 2.0
"""How much a query's own score counts in its target, and how little the sure ones count."""
_LEAST_QUALITY = 0.01


class DetrCriterion(SetCriterion):
    """The terms `class`, `box`, `giou`, `mask` and `dice`.

    Args:
        num_queries: of one group.
        points_ratio: a mask has this many times fewer points than pixels, but one for each of its rows at least.
    """

    costs = MappingProxyType({"class": 2.0, "box": 5.0, "giou": 2.0, "mask": 5.0, "dice": 5.0})  # as published

    def __init__(self, *, num_queries: int, points_ratio: int) -> None:
        super().__init__(num_queries=num_queries)
        self.points_ratio = points_ratio

    def num_points(self, layer: Layer) -> int:
        """By the size of the predicted masks."""
        assert layer.masks_BQhw is not None
        height, width = layer.masks_BQhw.shape[-2:]
        return int(max(height, height * width // self.points_ratio))

    def divisors(self, targets: Targets, *, num_queries: int) -> dict[str, Divisor]:
        """As of every criterion; classes are divided by the objects too, of which there is one at least."""
        objects = sum(self._found_weight(targets, num_queries))
        return {**super().divisors(targets, num_queries=num_queries), "class": Divisor(objects, least=1)}

    def class_cost(self, logits_QC: Tensor, labels_N: Tensor) -> Tensor:
        """(Q, N) by the focal loss."""
        return focal_class_cost(logits_QC, labels_N, alpha=_ALPHA, gamma=_GAMMA)

    def class_terms(self, layer: Layer, targets: Targets, found: Matches, background_BQ: Tensor) -> dict[str, Tensor]:
        """Cross-entropy with the quality p^a IoU^(1-a) of a matched query as its truth, per object and group."""
        assert layer.boxes_BQ4 is not None
        boxes_M4, truth_M4 = paired_boxes(layer.boxes_BQ4.detach(), targets, found)
        iou_M, logits_BQC = _paired_iou(boxes_M4, truth_M4), layer.classes_BQC
        p_BQC = logits_BQC.sigmoid()
        place = (found.image_M, found.query_M, torch.cat(list(targets.labels))[found.object_M])
        quality_M = (p_BQC[place] ** _ALPHA * iou_M ** (1 - _ALPHA)).clamp(min=_LEAST_QUALITY).detach()
        smoothing_N, weights_N = joined(targets.smoothing), joined(targets.weights)
        if smoothing_N is not None:
            quality_M = quality_M * (1 - smoothing_N[found.object_M])
        positive_BQC = torch.zeros_like(logits_BQC).index_put(place, quality_M)
        negative_BQC = (p_BQC**_GAMMA).index_put(place, 1 - quality_M)
        negative_BQC = negative_BQC * (background_BQ[..., None] | (positive_BQC > 0))
        loss_BQC = -(positive_BQC * logsigmoid(logits_BQC) + negative_BQC * logsigmoid(-logits_BQC))
        groups = logits_BQC.shape[1] // self._group_size(layer)
        if weights_N is None:
            return {"class": loss_BQC.sum() / max(len(found), groups)}
        weight_BQ = of_queries(weights_N, found, like_BQ=logits_BQC[..., 0], otherwise=1.0)
        counted = weights_N[found.object_M].sum().clamp(min=groups)
        return {"class": (loss_BQC * weight_BQ[..., None]).sum() / counted}


def _paired_iou(boxes_M4: Tensor, truth_M4: Tensor) -> Tensor:
    """(M,) IoU of each pair."""
    a_M4, b_M4 = corners(boxes_M4), corners(truth_M4)
    sides_M2 = (torch.minimum(a_M4[:, 2:], b_M4[:, 2:]) - torch.maximum(a_M4[:, :2], b_M4[:, :2])).clamp(min=0)
    common_M = sides_M2.prod(1)
    both_M = boxes_M4[:, 2:].prod(1) + truth_M4[:, 2:].prod(1)
    return common_M / (both_M - common_M).clamp(min=1e-9)
