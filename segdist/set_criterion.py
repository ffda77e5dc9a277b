"""The set-prediction loss of MaskFormer and its heirs (Cheng et al. 2021, 2022; OneFormer), blind to ignored pixels.

Every object is matched to one query; matched queries learn its class and mask, the others to be "no object".

Shapes: B images, Q queries, C classes, N objects of one image, M matched pairs of a batch, P points, H W pixels of the
padded square, h w of the predicted masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from segdist.matching import Matcher, Matches, dice_cost, mask_bce_cost, softmax_class_cost
from segdist.points import TaughtPixels, mask_losses, share_on

NOT_TAUGHT = -100
"""The class of a query that is neither right nor wrong."""
_COSTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}
"""Weights of the matching costs (Cheng et al. 2022, section 4.1)."""


@dataclass(frozen=True)
class Targets:
    """What a batch teaches.

    Attributes:
        labels: for each image, its objects' classes (N,).
        masks: for each image, its objects' masks (N, H, W), boolean, none of them empty.
        valid_BHW: pixels that teach something: inside the image, not of a crowd.
        crowd_BHW: pixels of crowds and of boxes without a mask.
    """

    labels: Sequence[Tensor]
    masks: Sequence[Tensor]
    valid_BHW: Tensor
    crowd_BHW: Tensor


@dataclass(frozen=True)
class Layer:
    """What one decoder layer predicts: (B, Q, C + 1) class logits, no object last, and (B, Q, h, w) mask logits."""

    classes_BQC: Tensor
    masks_BQhw: Tensor


class SetCriterion:
    """Loss terms as a mean over the decoder's layers, so that they do not grow with its depth.

    Args:
        num_points: points of each mask on which costs and losses are computed.
        no_object_weight: weight of "no object" in the class loss.

    Attributes:
        matcher: counts what could not be taught as it should: see `Matcher.counts`.
    """

    def __init__(self, *, num_points: int, no_object_weight: float) -> None:
        self.num_points = num_points
        self.no_object_weight = no_object_weight
        self.matcher = Matcher()

    def __call__(self, layers: Sequence[Layer], targets: Targets) -> dict[str, Tensor]:
        """The terms `class`, `mask` and `dice`, unweighted; zeros connected to the graph without objects."""
        pixels = TaughtPixels(targets.valid_BHW)
        truth_NK = torch.cat([m.flatten(1) for m in targets.masks])
        queries = layers[0].classes_BQC.shape[1]
        self.matcher.count_surplus([len(labels) for labels in targets.labels], queries=queries)
        terms = [self._layer(layer, targets, pixels, truth_NK) for layer in layers]
        return {name: torch.stack([t[name] for t in terms]).mean() for name in ("class", "mask", "dice")}

    def _layer(self, layer: Layer, targets: Targets, pixels: TaughtPixels, truth_NK: Tensor) -> dict[str, Tensor]:
        images = range(len(targets.labels))
        found = self.matcher([self._costs(layer, targets, pixels, image) for image in images])
        return {
            "class": self._class_loss(layer.classes_BQC, self._classes(layer, targets, found)),
            **mask_losses(
                layer.masks_BQhw[found.image_M, found.query_M],
                found.image_M,
                found.object_M,
                truth_NK=truth_NK,
                pixels=pixels,
                num_points=self.num_points,
            ),
        }

    @torch.no_grad()
    def _costs(self, layer: Layer, targets: Targets, pixels: TaughtPixels, image: int) -> Tensor:
        """(Q, N) the cost of each query with each object of one image, all on the same points."""
        labels_N = targets.labels[image]
        logits_Qhw = layer.masks_BQhw[image]
        if not len(labels_N):
            return logits_Qhw.new_zeros(len(logits_Qhw), 0)
        points_P = pixels.draw(torch.tensor([image], device=labels_N.device), self.num_points)[0]
        logits_QP = pixels.values(logits_Qhw[None], points_P[None])[0]
        truth_NP = targets.masks[image].flatten(1)[:, points_P].float()
        return (
            _COSTS["class"] * softmax_class_cost(layer.classes_BQC[image], labels_N)
            + _COSTS["mask"] * mask_bce_cost(logits_QP, truth_NP)
            + _COSTS["dice"] * dice_cost(logits_QP.sigmoid(), truth_NP)
        )

    @torch.no_grad()
    def _classes(self, layer: Layer, targets: Targets, found: Matches) -> Tensor:
        """(B, Q) the class each query is taught: its object's, none, or nothing where it lies on crowds."""
        batch, queries, classes = layer.classes_BQC.shape
        taught_BQ = torch.full((batch, queries), classes - 1, device=layer.classes_BQC.device)
        if targets.crowd_BHW.any():
            taught_BQ[share_on(layer.masks_BQhw, targets.crowd_BHW) > 0.5] = NOT_TAUGHT
        taught_BQ[found.image_M, found.query_M] = torch.cat(list(targets.labels))[found.object_M]
        return taught_BQ

    def _class_loss(self, logits_BQC: Tensor, taught_BQ: Tensor) -> Tensor:
        """Cross-entropy weighted by class; zero, not NaN, where no query is taught anything."""
        weights_C = torch.ones(logits_BQC.shape[-1], device=logits_BQC.device)
        weights_C[-1] = self.no_object_weight
        loss = functional.cross_entropy(
            logits_BQC.flatten(0, 1), taught_BQ.flatten(), weights_C, ignore_index=NOT_TAUGHT, reduction="sum"
        )
        weight = weights_C[taught_BQ.clamp(min=0)][taught_BQ != NOT_TAUGHT].sum()
        return loss / weight.clamp(min=1e-6)
