"""The loss of SAM 3 (Carion et al. 2025, section 3 and appendix), blind to ignored pixels.

An image and a class name are one question. A presence token says whether the answer is "nothing"; queries say which of
them is an object only where there are some, so that recognising and locating do not fight. Matched queries learn boxes,
and in the last layer masks; a semantic head learns the union of the masks.

Shapes: B images, P questions, Q queries, N objects of one question, M matched pairs of a batch, S side of the padded
square, h w of the predicted masks. Boxes are centre and sides (cxcywh) as shares of the square.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torchvision.ops import sigmoid_focal_loss

from segdist import losses
from segdist.nets.matching import Matches, focal_class_cost
from segdist.nets.points import ValidPixels, spread
from segdist.nets.segmenter import Divisor
from segdist.nets.set_criterion import Layer, SetCriterion, Targets, joined, of_queries

_LOG = logging.getLogger(__name__)
TERMS = ("class", "presence", "box", "giou", "mask", "dice", "semantic", "semantic_dice")
_ALPHA, _GAMMA = 0.25, 2.0
"""Focal parameters of the queries' class."""
_PRESENCE_ALPHA = 0.5
"""Present and absent weigh the same: how many absent names are asked is our choice, not the data's."""
MISSING = "missing_matches"
"""Name of the count of layers that came without usable matches and were matched anew."""


@dataclass(frozen=True)
class Sam3Layer(Layer):
    """What one decoder layer predicts of P questions: one class logit a query, boxes, and (P,) presence logits."""

    boxes_BQ4: Tensor = field(kw_only=True)
    presence_P: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class Predicted:
    """All decoder layers, the last one last; (P, Q, h, w) its masks and (P, h, w) the semantic head, as logits."""

    layers: Sequence[Sam3Layer]
    masks_PQhw: Tensor
    semantic_Phw: Tensor


class Sam3Criterion(SetCriterion[Sam3Layer]):
    """Loss terms; those of the decoder as a mean over its layers, so that they do not grow with its depth."""

    costs = MappingProxyType({"class": 2.0, "box": 5.0, "giou": 2.0})  # of Deformable DETR (Zhu et al. 2021)
    least_weight = 1.0

    def __init__(self, *, num_points: int) -> None:
        super().__init__()
        self._num_points = num_points
        self._known: Mapping[int, Matches] | None = None
        self._missing = 0

    def terms(
        self, predicted: Predicted, targets: Targets, matches: Mapping[int, Matches] | None = None
    ) -> dict[str, Tensor]:
        """The terms `TERMS`, unweighted; those of objects are zeros connected to the graph where there are none.

        Args:
            predicted: what the network says.
            targets: what is true; its rows are the questions.
            matches: pairs of some layers, by the layer's index, where they are known; a layer without any, or with
                pairs that do not fit the batch, is matched here and counted in `take_counts`.
        """
        self._known = matches
        *earlier, last = predicted.layers
        layers = [*earlier, replace(last, masks_BQhw=predicted.masks_PQhw)]
        return {**self(layers, targets), **_semantic_terms(predicted.semantic_Phw, targets)}

    def take_counts(self) -> dict[str, float]:
        """What could not be used in training since the last call."""
        taken = {**self.matcher.take_counts(), MISSING: float(self._missing)}
        self._missing = 0
        return taken

    def num_points(self, layer: Sam3Layer) -> int:  # noqa: ARG002 - only the last layer has masks
        """One number."""
        return self._num_points

    def divisors(self, targets: Targets, *, num_queries: int) -> dict[str, Divisor]:
        """As of every criterion; then objects, questions, pixels that teach, and questions that have an answer."""
        objects = Divisor(sum(self._found_weight(targets, num_queries)), self.least_weight)
        return {
            **super().divisors(targets, num_queries=num_queries),
            "class": objects,
            "presence": Divisor(len(targets.counts)),
            "semantic": Divisor(int(targets.of_rows(targets.valid_BHW).sum())),
            "semantic_dice": Divisor(sum(bool(m.any()) for m in targets.masks)),
        }

    def class_cost(self, logits_QC: Tensor, labels_N: Tensor) -> Tensor:
        """(Q, N) by the focal loss."""
        return focal_class_cost(logits_QC, labels_N, alpha=_ALPHA, gamma=_GAMMA)

    def class_terms(
        self, layer: Sam3Layer, targets: Targets, found: Matches, background_BQ: Tensor
    ) -> dict[str, Tensor]:
        """`class`, a sum over the queries divided by the number of objects, and `presence`."""
        logits_PQ = layer.classes_BQC[..., 0]
        present_P = torch.tensor([n > 0 for n in targets.counts], device=layer.presence_P.device)
        weights_N, smoothing_N = joined(targets.weights), joined(targets.smoothing)
        weights_M = torch.ones_like(found.object_M).float() if weights_N is None else weights_N[found.object_M]
        truth_PQ = torch.zeros_like(logits_PQ)
        truth_PQ[found.image_M, found.query_M] = 1
        said_PQ = truth_PQ
        if smoothing_N is not None:
            said_PQ = spread(truth_PQ, of_queries(smoothing_N, found, like_BQ=truth_PQ, otherwise=0.0))
        class_PQ = sigmoid_focal_loss(logits_PQ, said_PQ, alpha=_ALPHA, gamma=_GAMMA)
        if weights_N is not None:
            class_PQ = class_PQ * of_queries(weights_N, found, like_BQ=truth_PQ, otherwise=1.0)
        # Which query it is makes sense only where there is something; whether there is, the presence token says.
        counts_PQ = present_P[:, None] & (background_BQ | (truth_PQ > 0))
        presence_P = sigmoid_focal_loss(layer.presence_P, present_P.float(), alpha=_PRESENCE_ALPHA, gamma=_GAMMA)
        return {
            "class": (class_PQ * counts_PQ).sum() / weights_M.sum().clamp(min=self.least_weight),
            "presence": presence_P.mean(),
        }

    def _matches(self, number: int, layer: Sam3Layer, targets: Targets, pixels: ValidPixels) -> Matches:
        """The known pairs of a layer, or the cheapest ones."""
        if self._known is not None:
            given = self._known.get(number)
            if given is not None and _fits(given, layer, targets):
                return given
            if not self._missing:
                _LOG.warning("layer %d came without usable matches and is matched anew; counted as %s", number, MISSING)
            self._missing += 1
        return super()._matches(number, layer, targets, pixels)


def _semantic_terms(semantic_Phw: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Binary cross-entropy and Dice loss of the union of each question's masks, over all pixels that teach."""
    size = targets.valid_BHW.shape[-1]
    logits_PSS = interpolate(semantic_Phw[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    truth_PSS = torch.stack([m.any(0) for m in targets.masks])
    valid_PSS = targets.of_rows(targets.valid_BHW)
    pixels_PSS = binary_cross_entropy_with_logits(logits_PSS, truth_PSS.float(), reduction="none")
    dice_P = losses.dice(logits_PSS.sigmoid(), truth_PSS, ignore_NHW=~valid_PSS)
    present_P = truth_PSS.flatten(1).any(1)
    return {
        "semantic": torch.where(valid_PSS, pixels_PSS, 0).sum() / valid_PSS.sum().clamp(min=1),
        "semantic_dice": losses.mean_or_zero(dice_P[present_P], graph=logits_PSS),
    }


def _fits(matches: Matches, layer: Sam3Layer, targets: Targets) -> bool:
    """Whether pairs point at questions, queries and objects that exist, and leave out no object that has a query."""
    questions, queries, _ = layer.classes_BQC.shape
    wanted = sum(min(n, queries) for n in targets.counts)
    ranges = ((matches.image_M, questions), (matches.query_M, queries), (matches.object_M, sum(targets.counts)))
    return len(matches) == wanted and all(bool(((i >= 0) & (i < end)).all()) for i, end in ranges)
