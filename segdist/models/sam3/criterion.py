"""The loss of SAM 3 (Carion et al. 2025, section 3 and appendix), blind to ignored pixels.

An image and a class name are one question. A presence token says whether the answer is "nothing"; queries say which of
them is an object only where there are some, so that recognising and locating do not fight. Matched queries learn boxes,
and in the last layer masks; a semantic head learns the union of the masks.

Shapes: B images, P questions, Q queries, N objects of one question, M matched pairs of a batch, S side of the padded
square, h w of the predicted masks. Boxes are centre and sides (cxcywh) as shares of the square.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, l1_loss
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from segdist import losses
from segdist.nets.matching import Matcher, Matches, focal_class_cost, giou_box_cost, l1_box_cost
from segdist.nets.points import ValidPixels, mask_losses, share_on, spread
from segdist.nets.set_criterion import joined, of_queries

_LOG = logging.getLogger(__name__)
TERMS = ("class", "presence", "box", "giou", "mask", "dice", "semantic", "semantic_dice")
_COSTS = {"class": 2.0, "box": 5.0, "giou": 2.0}
"""Weights of the matching costs, those of Deformable DETR (Zhu et al. 2021)."""
_ALPHA, _GAMMA = 0.25, 2.0
"""Focal parameters of the queries' class."""
_PRESENCE_ALPHA = 0.5
"""Present and absent weigh the same: how many absent names are asked is our choice, not the data's."""
MISSING = "missing_matches"
"""Name of the count of layers that came without usable matches and were matched anew."""


@dataclass(frozen=True)
class Sam3Targets:
    """What a batch of questions teaches.

    Attributes:
        boxes_cxcywh: for each question, the boxes of its objects (N, 4).
        masks: for each question, the masks of its objects (N, S, S), boolean, none of them empty.
        image_P: the image of each question.
        valid_BSS: pixels that teach something: inside the image, not of a crowd.
        crowd_BSS: pixels of crowds and of boxes without a mask.
        weights: for each question, how much each of its objects counts (N,); empty counts all equally.
        smoothing: for each question, the share of each object's truth that is spread (N,); empty spreads nothing.
    """

    boxes_cxcywh: Sequence[Tensor]
    masks: Sequence[Tensor]
    image_P: Tensor
    valid_BSS: Tensor
    crowd_BSS: Tensor
    weights: Sequence[Tensor] = ()
    smoothing: Sequence[Tensor] = ()

    @property
    def counts(self) -> list[int]:
        """Objects of each question."""
        return [len(boxes) for boxes in self.boxes_cxcywh]


@dataclass(frozen=True)
class Sam3Layer:
    """What one decoder layer predicts: (P, Q) class logits, (P, Q, 4) boxes as cxcywh, (P,) presence logits."""

    classes_PQ: Tensor
    boxes_PQ4: Tensor
    presence_P: Tensor


@dataclass(frozen=True)
class Predicted:
    """All decoder layers, the last one last; (P, Q, h, w) its masks and (P, h, w) the semantic head, as logits."""

    layers: Sequence[Sam3Layer]
    masks_PQhw: Tensor
    semantic_Phw: Tensor


class Sam3Criterion:
    """Loss terms; those of the decoder as a mean over its layers, so that they do not grow with its depth.

    Attributes:
        matcher: counts what could not be used in training: see `Matcher.counts`.
    """

    def __init__(self, *, num_points: int) -> None:
        self.num_points = num_points
        self.matcher = Matcher()
        self._missing = 0

    def __call__(
        self, predicted: Predicted, targets: Sam3Targets, matches: Mapping[int, Matches] | None = None
    ) -> dict[str, Tensor]:
        """The terms `TERMS`, unweighted; those of objects are zeros connected to the graph where there are none.

        Args:
            predicted: what the network says.
            targets: what is true.
            matches: pairs of some layers, by the layer's index, where they are known; a layer without any, or with
                pairs that do not fit the batch, is matched here and counted in `take_counts`.
        """
        queries = predicted.layers[0].classes_PQ.shape[1]
        self.matcher.count_surplus(targets.counts, queries=queries)
        background_PQ = self._may_be_background(predicted, targets)
        found = [self._matches(n, layer, targets, matches) for n, layer in enumerate(predicted.layers)]
        terms = [_layer_terms(a, m, targets, background_PQ) for a, m in zip(predicted.layers, found, strict=True)]
        return {
            **{name: torch.stack([t[name] for t in terms]).mean() for name in ("class", "presence", "box", "giou")},
            **self._mask_terms(predicted.masks_PQhw, found[-1], targets),
            **_semantic_terms(predicted.semantic_Phw, targets),
        }

    def take_counts(self) -> dict[str, float]:
        """What could not be used in training since the last call."""
        taken = {**self.matcher.take_counts(), MISSING: float(self._missing)}
        self._missing = 0
        return taken

    def _matches(
        self, number: int, layer: Sam3Layer, targets: Sam3Targets, known: Mapping[int, Matches] | None
    ) -> Matches:
        """The known pairs of a layer, or the cheapest ones."""
        if known is not None:
            given = known.get(number)
            if given is not None and _fits(given, layer, targets):
                return given
            if not self._missing:
                _LOG.warning("layer %d came without usable matches and is matched anew; counted as %s", number, MISSING)
            self._missing += 1
        costs = [costs_of(layer, question, boxes) for question, boxes in enumerate(targets.boxes_cxcywh)]
        return self.matcher(costs)

    @torch.no_grad()
    def _may_be_background(self, predicted: Predicted, targets: Sam3Targets) -> Tensor:
        """(P, Q) queries that may learn that they are no object: not those on crowds, where nobody knows."""
        crowd_PSS = targets.crowd_BSS[targets.image_P]
        if not crowd_PSS.any():
            return torch.ones_like(predicted.masks_PQhw[..., 0, 0], dtype=torch.bool)
        return share_on(predicted.masks_PQhw, crowd_PSS) <= 0.5

    def _mask_terms(self, masks_PQhw: Tensor, found: Matches, targets: Sam3Targets) -> dict[str, Tensor]:
        """`mask` (binary cross-entropy) and `dice` at points, as means over the pairs."""
        return mask_losses(
            masks_PQhw[found.image_M, found.query_M],
            targets.image_P[found.image_M],
            found.object_M,
            truth_NK=torch.cat([m.flatten(1) for m in targets.masks]),
            pixels=ValidPixels(targets.valid_BSS),
            num_points=self.num_points,
            weights_N=joined(targets.weights),
            smoothing_N=joined(targets.smoothing),
        )


@torch.no_grad()
def costs_of(layer: Sam3Layer, question: int, boxes_N4: Tensor) -> Tensor:
    """(Q, N) the cost of each query with each object of one question: focal class, L1 and GIoU of the boxes."""
    boxes_Q4 = layer.boxes_PQ4[question]
    if not len(boxes_N4):
        return boxes_Q4.new_zeros(len(boxes_Q4), 0)
    one_class_N = torch.zeros(len(boxes_N4), dtype=torch.int64, device=boxes_N4.device)
    logits_Q1 = layer.classes_PQ[question][:, None]
    return (
        _COSTS["class"] * focal_class_cost(logits_Q1, one_class_N, alpha=_ALPHA, gamma=_GAMMA)
        + _COSTS["box"] * l1_box_cost(boxes_Q4, boxes_N4)
        + _COSTS["giou"] * giou_box_cost(_corners(boxes_Q4), _corners(boxes_N4))
    )


def _layer_terms(layer: Sam3Layer, found: Matches, targets: Sam3Targets, background_PQ: Tensor) -> dict[str, Tensor]:
    """The terms of one decoder layer; sums over the objects are divided by their number."""
    present_P = torch.tensor([n > 0 for n in targets.counts], device=layer.presence_P.device)
    weights_N, smoothing_N = joined(targets.weights), joined(targets.smoothing)
    weights_M = torch.ones_like(found.object_M).float() if weights_N is None else weights_N[found.object_M]
    pairs = weights_M.sum().clamp(min=1)
    truth_PQ = torch.zeros_like(layer.classes_PQ)
    truth_PQ[found.image_M, found.query_M] = 1
    said_PQ = truth_PQ
    if smoothing_N is not None:
        said_PQ = spread(truth_PQ, of_queries(smoothing_N, found, like_BQ=truth_PQ, otherwise=0.0))
    class_PQ = sigmoid_focal_loss(layer.classes_PQ, said_PQ, alpha=_ALPHA, gamma=_GAMMA)
    if weights_N is not None:
        class_PQ = class_PQ * of_queries(weights_N, found, like_BQ=truth_PQ, otherwise=1.0)
    # Which query it is makes sense only where there is something; whether there is, the presence token says.
    counts_PQ = present_P[:, None] & (background_PQ | (truth_PQ > 0))
    presence_P = sigmoid_focal_loss(layer.presence_P, present_P.float(), alpha=_PRESENCE_ALPHA, gamma=_GAMMA)
    boxes_M4 = layer.boxes_PQ4[found.image_M, found.query_M]
    truth_M4 = torch.cat(list(targets.boxes_cxcywh))[found.object_M]
    return {
        "class": (class_PQ * counts_PQ).sum() / pairs,
        "presence": presence_P.mean(),
        "box": (l1_loss(boxes_M4, truth_M4, reduction="none").sum(1) * weights_M).sum() / pairs,
        "giou": (generalized_box_iou_loss(_corners(boxes_M4), _corners(truth_M4), reduction="none") * weights_M).sum()
        / pairs,
    }


def _semantic_terms(semantic_Phw: Tensor, targets: Sam3Targets) -> dict[str, Tensor]:
    """Binary cross-entropy and Dice loss of the union of each question's masks, over all pixels that teach."""
    size = targets.valid_BSS.shape[-1]
    logits_PSS = interpolate(semantic_Phw[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    truth_PSS = torch.stack([m.any(0) for m in targets.masks])
    valid_PSS = targets.valid_BSS[targets.image_P]
    pixels_PSS = binary_cross_entropy_with_logits(logits_PSS, truth_PSS.float(), reduction="none")
    dice_P = losses.dice(logits_PSS.sigmoid(), truth_PSS, ignore_NHW=~valid_PSS)
    present_P = truth_PSS.flatten(1).any(1)
    return {
        "semantic": torch.where(valid_PSS, pixels_PSS, 0).sum() / valid_PSS.sum().clamp(min=1),
        "semantic_dice": losses.mean_or_zero(dice_P[present_P], graph=logits_PSS),
    }


def _fits(matches: Matches, layer: Sam3Layer, targets: Sam3Targets) -> bool:
    """Whether pairs point at questions, queries and objects that exist, and leave out no object that has a query."""
    questions, queries = layer.classes_PQ.shape
    wanted = sum(min(n, queries) for n in targets.counts)
    ranges = ((matches.image_M, questions), (matches.query_M, queries), (matches.object_M, sum(targets.counts)))
    return len(matches) == wanted and all(bool(((i >= 0) & (i < end)).all()) for i, end in ranges)


def _corners(boxes_cxcywh: Tensor) -> Tensor:
    corners: Tensor = box_convert(boxes_cxcywh, "cxcywh", "xyxy")
    return corners
