"""The set-prediction loss of MaskFormer and its heirs (Cheng et al. 2021, 2022; OneFormer), blind to ignored pixels.

Every object is matched to one query; matched queries learn its class and mask, the others to be "no object".

Shapes: B images, Q queries, C classes, N objects of one image, M matched pairs of a batch, P points, H W pixels of the
padded square, h w of the predicted masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segdist.core.plugins import Batch
from segdist.nets.matching import Matcher, Matches, dice_cost, mask_bce_cost, softmax_class_cost
from segdist.nets.points import ValidPixels, mask_losses, share_on

IGNORE_INDEX = -100
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
        weights: for each image, how much each of its objects counts (N,); empty counts all equally.
        smoothing: for each image, the share of each object's truth that is spread (N,); empty spreads nothing.
    """

    labels: Sequence[Tensor]
    masks: Sequence[Tensor]
    valid_BHW: Tensor
    crowd_BHW: Tensor
    weights: Sequence[Tensor] = ()
    smoothing: Sequence[Tensor] = ()

    @classmethod
    def of(cls, batch: Batch) -> "Targets":
        """Those of a batch that holds `nets.queries.object_targets`."""
        valid_BHW = ~batch["ignored_BSS"]
        return cls(batch["labels"], batch["masks"], valid_BHW, batch["crowd_BSS"], batch["weights"], batch["smoothing"])


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
        matcher: counts what could not be used in training: see `Matcher.counts`.
    """

    def __init__(self, *, num_points: int, no_object_weight: float) -> None:
        self.num_points = num_points
        self.no_object_weight = no_object_weight
        self.matcher = Matcher()

    def __call__(self, layers: Sequence[Layer], targets: Targets) -> dict[str, Tensor]:
        """The terms `class`, `mask` and `dice`, unweighted; zeros connected to the graph without objects."""
        pixels = ValidPixels(targets.valid_BHW)
        truth_NK = torch.cat([m.flatten(1) for m in targets.masks])
        queries = layers[0].classes_BQC.shape[1]
        self.matcher.count_surplus([len(labels) for labels in targets.labels], queries=queries)
        terms = [self._layer(layer, targets, pixels, truth_NK) for layer in layers]
        return {name: torch.stack([t[name] for t in terms]).mean() for name in ("class", "mask", "dice")}

    def _layer(self, layer: Layer, targets: Targets, pixels: ValidPixels, truth_NK: Tensor) -> dict[str, Tensor]:
        images = range(len(targets.labels))
        found = self.matcher([self._costs(layer, targets, pixels, image) for image in images])
        return {
            "class": self._class_loss(layer.classes_BQC, self._classes(layer, targets, found), targets, found),
            **mask_losses(
                layer.masks_BQhw[found.image_M, found.query_M],
                found.image_M,
                found.object_M,
                truth_NK=truth_NK,
                pixels=pixels,
                num_points=self.num_points,
                weights_N=joined(targets.weights),
                smoothing_N=joined(targets.smoothing),
            ),
        }

    @torch.no_grad()
    def _costs(self, layer: Layer, targets: Targets, pixels: ValidPixels, image: int) -> Tensor:
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
        """(B, Q) the target class of each query: its object's, none, or nothing where it lies on crowds."""
        batch, queries, classes = layer.classes_BQC.shape
        targets_BQ = torch.full((batch, queries), classes - 1, device=layer.classes_BQC.device)
        if targets.crowd_BHW.any():
            targets_BQ[share_on(layer.masks_BQhw, targets.crowd_BHW) > 0.5] = IGNORE_INDEX
        targets_BQ[found.image_M, found.query_M] = torch.cat(list(targets.labels))[found.object_M]
        return targets_BQ

    def _class_loss(self, logits_BQC: Tensor, targets_BQ: Tensor, targets: Targets, found: Matches) -> Tensor:
        """Cross-entropy weighted by class and object; zero, not NaN, where no query has a target."""
        class_weights_C = torch.ones(logits_BQC.shape[-1], device=logits_BQC.device)
        class_weights_C[-1] = self.no_object_weight
        log_p_BQC = logits_BQC.log_softmax(-1)
        loss_BQ = -log_p_BQC.gather(-1, targets_BQ.clamp(min=0)[..., None])[..., 0]
        smoothing_N, weights_N = joined(targets.smoothing), joined(targets.weights)
        if smoothing_N is not None:
            share_BQ = of_queries(smoothing_N, found, like_BQ=loss_BQ, otherwise=0.0)
            loss_BQ = (1 - share_BQ) * loss_BQ - share_BQ * log_p_BQC.mean(-1)
        weight_BQ = class_weights_C[targets_BQ.clamp(min=0)] * (targets_BQ != IGNORE_INDEX)
        if weights_N is not None:
            weight_BQ = weight_BQ * of_queries(weights_N, found, like_BQ=loss_BQ, otherwise=1.0)
        finite_BQ = torch.where(targets_BQ == IGNORE_INDEX, 0.0, loss_BQ)  # an infinite loss times 0 would be NaN
        return (finite_BQ * weight_BQ).sum() / weight_BQ.sum().clamp(min=1e-6)


def joined(of_images: Sequence[Tensor]) -> Tensor | None:
    """Values of the objects of all images in one tensor; None where there are none to tell apart."""
    return torch.cat(list(of_images)) if of_images else None


def of_queries(values_N: Tensor, found: Matches, *, like_BQ: Tensor, otherwise: float) -> Tensor:
    """(B, Q) the value of the object that each query is matched with, or another value."""
    values_BQ = torch.full_like(like_BQ, otherwise)
    values_BQ[found.image_M, found.query_M] = values_N[found.object_M].to(values_BQ)
    return values_BQ
