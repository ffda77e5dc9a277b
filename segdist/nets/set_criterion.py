"""The set-prediction loss that families with queries share, blind to ignored pixels.

Every object is matched to one query at the least cost (Carion et al. 2020); matched queries learn its class, its box
and its mask, as far as a layer predicts them; the others learn that they are no object. What a class costs and teaches
is that of the paper of each family: here MaskFormer and its heirs (Cheng et al. 2021, 2022; OneFormer).

Shapes: B rows, which are images or questions about images, Q queries, C classes, N objects of one row, M matched pairs
of a batch, P points, H W pixels of the padded square, h w of the predicted masks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic

import torch
from torch import Tensor
from torch.nn.functional import l1_loss
from torchvision.ops import box_convert, generalized_box_iou_loss
from typing_extensions import TypeVar

from segdist.core.plugins import Batch
from segdist.nets.matching import (
    Matcher,
    Matches,
    dice_cost,
    giou_box_cost,
    l1_box_cost,
    mask_bce_cost,
    softmax_class_cost,
)
from segdist.nets.points import ValidPixels, mask_losses, share_on, weighted_mean
from segdist.nets.segmenter import Divisor

IGNORE_INDEX = -100
"""The class of a query that is neither right nor wrong."""


@dataclass(frozen=True)
class Targets:
    """What a batch teaches.

    Attributes:
        labels: for each row, its objects' classes (N,).
        masks: for each row, its objects' masks (N, H, W), boolean, none of them empty.
        valid_BHW: of each image, pixels that teach something: inside it, not of a crowd.
        crowd_BHW: of each image, pixels of crowds and of boxes without a mask.
        weights: for each row, how much each of its objects counts (N,); empty counts all equally.
        smoothing: for each row, the share of each object's truth that is spread (N,); empty spreads nothing.
        boxes_cxcywh: for each row, its objects' boxes (N, 4) as parts of the square's side; empty without boxes.
        image_B: the image of each row; None where the rows are the images.
    """

    labels: Sequence[Tensor]
    masks: Sequence[Tensor]
    valid_BHW: Tensor
    crowd_BHW: Tensor
    weights: Sequence[Tensor] = ()
    smoothing: Sequence[Tensor] = ()
    boxes_cxcywh: Sequence[Tensor] = ()
    image_B: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch) -> "Targets":
        """Those of a batch that holds `nets.queries.object_targets`, and boxes where the family learns them."""
        return cls(
            batch["labels"],
            batch["masks"],
            ~batch["ignored_BSS"],
            batch["crowd_BSS"],
            batch["weights"],
            batch["smoothing"],
            batch.get("boxes_cxcywh", ()),
            batch.get("image_B"),
        )

    @property
    def counts(self) -> list[int]:
        """Objects of each row."""
        return [len(labels) for labels in self.labels]

    def images(self, rows: Tensor) -> Tensor:
        """The image of each of some rows."""
        return rows if self.image_B is None else self.image_B[rows]

    def of_rows(self, pixels_BHW: Tensor) -> Tensor:
        """(B, H, W) for each row what is given for each image."""
        return pixels_BHW if self.image_B is None else pixels_BHW[self.image_B]


@dataclass(frozen=True)
class Layer:
    """What one decoder layer predicts.

    Attributes:
        classes_BQC: class logits; with a softmax, no object is the last.
        masks_BQhw: mask logits; None where the layer predicts none.
        boxes_BQ4: boxes as cx cy w h, parts of the square's side; None where the family predicts none.
    """

    classes_BQC: Tensor
    masks_BQhw: Tensor | None = None
    boxes_BQ4: Tensor | None = None


LayerT = TypeVar("LayerT", bound=Layer, default=Layer)


class SetCriterion(ABC, Generic[LayerT]):
    """Loss terms as a mean over the layers that have them, so that they do not grow with the decoder's depth.

    Args:
        num_queries: queries of a group; in training a layer may have several, each of which finds every object
            (Group DETR, Chen et al. 2022). None: all queries are one group.

    Attributes:
        costs: weights of the matching costs `class`, `box`, `giou`, `mask` and `dice`; one that is not named is none.
        least_weight: the terms of boxes are divided by the weight of the pairs, or by this where that is less.
        matcher: counts what could not be used in training: see `Matcher.counts`.
    """

    costs: Mapping[str, float]
    least_weight = 1e-6

    def __init__(self, *, num_queries: int | None = None) -> None:
        self.num_queries = num_queries
        self.matcher = Matcher()

    def __call__(self, layers: Sequence[LayerT], targets: Targets) -> dict[str, Tensor]:
        """The terms, unweighted; those of objects are zeros connected to the graph where there are none.

        The last layer predicts masks; earlier ones may.
        """
        pixels = ValidPixels(targets.valid_BHW)
        truth_NK = torch.cat([m.flatten(1) for m in targets.masks])
        self.matcher.count_surplus(targets.counts, queries=self._group_size(layers[0]))
        last_BQ = self._background(layers[-1], targets)
        terms = [
            self._layer(
                number,
                layer,
                targets,
                pixels=pixels,
                truth_NK=truth_NK,
                background_BQ=last_BQ
                if layer is layers[-1] or layer.masks_BQhw is None
                else self._background(layer, targets),
            )
            for number, layer in enumerate(layers)
        ]
        return {name: torch.stack([t[name] for t in terms if name in t]).mean() for name in terms[-1]}

    def divisors(self, targets: Targets, *, num_queries: int) -> dict[str, Divisor]:
        """By what the terms of objects are divided; those of classes are the family's.

        Args:
            targets: what is true.
            num_queries: of a group; where there are more objects, those that get none are not known before.
        """
        found = Divisor(sum(self._found_weight(targets, num_queries)), self.least_weight)
        return dict.fromkeys(("box", "giou", "mask", "dice"), found)

    @staticmethod
    def _found_weight(targets: Targets, num_queries: int) -> list[float]:
        """For each row, how much its objects that get a query count."""
        weights = targets.weights or [torch.ones(n) for n in targets.counts]
        return [float(w.sum()) * min(1.0, num_queries / max(len(w), 1)) for w in weights]

    @abstractmethod
    def num_points(self, layer: LayerT) -> int:
        """Points of each mask on which costs and losses are computed."""

    @abstractmethod
    def class_cost(self, logits_QC: Tensor, labels_N: Tensor) -> Tensor:
        """(Q, N) the cost of each query with each object's class."""

    @abstractmethod
    def class_terms(self, layer: LayerT, targets: Targets, found: Matches, background_BQ: Tensor) -> dict[str, Tensor]:
        """The terms of classes.

        Args:
            layer: what is predicted.
            targets: what is true.
            found: which query stands for which object.
            background_BQ: queries that may learn that they are no object: not those on crowds, where nobody knows.
        """

    def _group_size(self, layer: LayerT) -> int:
        return self.num_queries or layer.classes_BQC.shape[1]

    def _layer(
        self,
        number: int,
        layer: LayerT,
        targets: Targets,
        *,
        pixels: ValidPixels,
        truth_NK: Tensor,
        background_BQ: Tensor,
    ) -> dict[str, Tensor]:
        found = self._matches(number, layer, targets, pixels)
        terms = self.class_terms(layer, targets, found, background_BQ)
        weights_N = joined(targets.weights)
        if layer.boxes_BQ4 is not None:
            weights_M = None if weights_N is None else weights_N[found.object_M]
            boxes_M4, truth_M4 = paired_boxes(layer.boxes_BQ4, targets, found)
            terms |= _box_losses(boxes_M4, truth_M4, weights_M, least=self.least_weight)
        if layer.masks_BQhw is not None:
            terms |= mask_losses(
                layer.masks_BQhw[found.image_M, found.query_M],
                targets.images(found.image_M),
                found.object_M,
                truth_NK=truth_NK,
                pixels=pixels,
                num_points=self.num_points(layer),
                weights_N=weights_N,
                smoothing_N=joined(targets.smoothing),
            )
        return terms

    def _matches(self, number: int, layer: LayerT, targets: Targets, pixels: ValidPixels) -> Matches:  # noqa: ARG002
        """The cheapest pairs of the layer with this number."""
        costs_QN = [self._costs(layer, targets, pixels, row) for row in range(len(targets.labels))]
        return self.matcher(costs_QN, groups=layer.classes_BQC.shape[1] // self._group_size(layer))

    @torch.no_grad()
    def _costs(self, layer: LayerT, targets: Targets, pixels: ValidPixels, row: int) -> Tensor:
        """(Q, N) the cost of each query with each object of one row, all on the same points."""
        labels_N, logits_QC = targets.labels[row], layer.classes_BQC[row]
        if not len(labels_N):
            return logits_QC.new_zeros(len(logits_QC), 0)
        cost_QN = self.costs["class"] * self.class_cost(logits_QC, labels_N)
        if layer.boxes_BQ4 is not None:
            boxes_Q4, boxes_N4 = layer.boxes_BQ4[row], targets.boxes_cxcywh[row]
            cost_QN = cost_QN + self.costs["box"] * l1_box_cost(boxes_Q4, boxes_N4)
            cost_QN = cost_QN + self.costs["giou"] * giou_box_cost(corners(boxes_Q4), corners(boxes_N4))
        if layer.masks_BQhw is not None and "mask" in self.costs:
            image_1 = targets.images(torch.tensor([row], device=labels_N.device))
            points_P = pixels.draw(image_1, self.num_points(layer))[0]
            logits_QP = pixels.values(layer.masks_BQhw[row][None], points_P[None])[0]
            truth_NP = targets.masks[row].flatten(1)[:, points_P].float()
            cost_QN = cost_QN + self.costs["mask"] * mask_bce_cost(logits_QP, truth_NP)
            cost_QN = cost_QN + self.costs["dice"] * dice_cost(logits_QP.sigmoid(), truth_NP)
        return cost_QN

    @torch.no_grad()
    def _background(self, layer: LayerT, targets: Targets) -> Tensor:
        """(B, Q) queries of which at most half lies on crowds."""
        assert layer.masks_BQhw is not None
        crowd_BHW = targets.of_rows(targets.crowd_BHW)
        if not crowd_BHW.any():
            return torch.ones_like(layer.masks_BQhw[..., 0, 0], dtype=torch.bool)
        return share_on(layer.masks_BQhw, crowd_BHW) <= 0.5


class MaskFormerCriterion(SetCriterion):
    """Classes by a softmax with "no object" among them (Cheng et al. 2021, 2022): the terms `class`, `mask`, `dice`.

    Args:
        num_points: points of each mask on which costs and losses are computed.
        no_object_weight: weight of "no object" in the class loss.
    """

    costs = MappingProxyType({"class": 2.0, "mask": 5.0, "dice": 5.0})  # Cheng et al. 2022, section 4.1

    def __init__(self, *, num_points: int, no_object_weight: float) -> None:
        super().__init__()
        self._num_points = num_points
        self.no_object_weight = no_object_weight

    def num_points(self, layer: Layer) -> int:  # noqa: ARG002 - one number for all
        """The same of every layer."""
        return self._num_points

    def divisors(self, targets: Targets, *, num_queries: int) -> dict[str, Divisor]:
        """As of every criterion; that of classes counts all queries: which lie on crowds is not known before."""
        idle = sum(num_queries - min(n, num_queries) for n in targets.counts)
        weight = sum(self._found_weight(targets, num_queries)) + self.no_object_weight * idle
        return {**super().divisors(targets, num_queries=num_queries), "class": Divisor(weight)}

    def class_cost(self, logits_QC: Tensor, labels_N: Tensor) -> Tensor:
        """(Q, N) minus the probability of each object's class."""
        return softmax_class_cost(logits_QC, labels_N)

    def class_terms(self, layer: Layer, targets: Targets, found: Matches, background_BQ: Tensor) -> dict[str, Tensor]:
        """Cross-entropy weighted by class and object; zero, not NaN, where no query is taught anything."""
        logits_BQC = layer.classes_BQC
        targets_BQ = self._classes(logits_BQC, targets, found, background_BQ)
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
        return {"class": (finite_BQ * weight_BQ).sum() / weight_BQ.sum().clamp(min=1e-6)}

    @torch.no_grad()
    def _classes(self, logits_BQC: Tensor, targets: Targets, found: Matches, background_BQ: Tensor) -> Tensor:
        """(B, Q) the class each query is taught: its object's, none, or nothing where it lies on crowds."""
        targets_BQ = torch.full(logits_BQC.shape[:2], logits_BQC.shape[-1] - 1, device=logits_BQC.device)
        targets_BQ[~background_BQ] = IGNORE_INDEX
        targets_BQ[found.image_M, found.query_M] = torch.cat(list(targets.labels))[found.object_M]
        return targets_BQ


def joined(of_images: Sequence[Tensor]) -> Tensor | None:
    """Values of the objects of all images in one tensor; None where there are none to tell apart."""
    return torch.cat(list(of_images)) if of_images else None


def of_queries(values_N: Tensor, found: Matches, *, like_BQ: Tensor, otherwise: float) -> Tensor:
    """(B, Q) the value of the object that each query is matched with, or another value."""
    values_BQ = torch.full_like(like_BQ, otherwise)
    values_BQ[found.image_M, found.query_M] = values_N[found.object_M].to(values_BQ)
    return values_BQ


def paired_boxes(boxes_BQ4: Tensor, targets: Targets, found: Matches) -> tuple[Tensor, Tensor]:
    """(M, 4) the predicted and (M, 4) the true box of each pair."""
    return boxes_BQ4[found.image_M, found.query_M], torch.cat(list(targets.boxes_cxcywh))[found.object_M]


def corners(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) boxes as x1 y1 x2 y2."""
    boxes_xyxy: Tensor = box_convert(boxes_cxcywh, "cxcywh", "xyxy")
    return boxes_xyxy


def _box_losses(boxes_M4: Tensor, truth_M4: Tensor, weights_M: Tensor | None, *, least: float) -> dict[str, Tensor]:
    """`box`, the sum of absolute differences, and `giou`, one minus the generalised IoU: means over the pairs."""
    if not len(boxes_M4):
        return {"box": boxes_M4.sum(), "giou": boxes_M4.sum()}
    giou_M = generalized_box_iou_loss(corners(boxes_M4), corners(truth_M4), reduction="none")
    return {
        "box": weighted_mean(l1_loss(boxes_M4, truth_M4, reduction="none").sum(1), weights_M, least=least),
        "giou": weighted_mean(giou_M, weights_M, least=least),
    }
