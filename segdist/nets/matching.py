"""Matching of queries to objects at the least total cost, as in DETR (Carion et al. 2020, section 3.1).

Costs are functions here; a family adds those of its paper with its weights and hands the sum to a `Matcher`.

Shapes: B images, Q queries, G groups of queries, N objects of one image, M matched pairs of a batch, C classes,
P points (or pixels) of a mask.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou

_LOG = logging.getLogger(__name__)
FALLBACKS, SURPLUS = "matching_fallbacks", "surplus_objects"
"""Names of what is counted: images matched although some costs were not finite, objects beyond the queries."""
_FORBIDDEN = 1e6
"""Cost in place of NaN and infinity: such a pair is taken only where no other is left."""


@dataclass(frozen=True)
class Matches:
    """Matched pairs of a whole batch, on the device of the costs.

    Attributes:
        image_M: index of the image.
        query_M: index of the query among that image's queries.
        object_M: index of the object among all objects of the batch, those of the first image first.
    """

    image_M: Tensor
    query_M: Tensor
    object_M: Tensor

    def __len__(self) -> int:
        return len(self.image_M)


class Matcher:
    """The Hungarian method for a batch; what is wrong with the costs is counted instead of ending the training.

    Attributes:
        counts: `FALLBACKS` and `SURPLUS` since the last `take_counts`.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._warned: set[str] = set()

    @torch.no_grad()
    def __call__(self, costs_QN: Sequence[Tensor], *, groups: int = 1) -> Matches:
        """Pairs of query and object at the least total cost; min(Q / groups, N) of them for each image and group.

        Args:
            costs_QN: for each image, the cost of every query with every object; (Q, 0) without objects.
            groups: the queries are this many groups of equal size, one after the other, and each group is matched on
                its own (Group DETR, Chen et al. 2022).
        """
        together = torch.cat([c.flatten().float() for c in costs_QN]).cpu()  # one wait for the device
        flat = torch.split_with_sizes(together, [c.numel() for c in costs_QN])
        rows: list[np.ndarray[tuple[int, int], np.dtype[np.int64]]] = [np.zeros((3, 0), np.int64)]
        first = 0
        for image, (values, cost_QN) in enumerate(zip(flat, costs_QN, strict=True)):
            queries, objects = cost_QN.shape
            cost_GQN = self._finite(values.view(groups, queries // groups, objects))
            for group, cost in enumerate(cost_GQN.numpy()):
                query, target = linear_sum_assignment(cost)
                start = group * (queries // groups)
                rows.append(np.stack([np.full(len(query), image), query + start, target + first]))
            first += objects
        image_M, query_M, object_M = torch.from_numpy(np.concatenate(rows, axis=1)).to(costs_QN[0].device)
        return Matches(image_M, query_M, object_M)

    def count_surplus(self, objects: Sequence[int], *, queries: int) -> None:
        """Count the objects of each image that no query is left for; call once a batch, not once a layer."""
        self._count(SURPLUS, sum(max(n - queries, 0) for n in objects))

    def take_counts(self) -> dict[str, float]:
        """`FALLBACKS` and `SURPLUS` since the last call."""
        taken = {kind: float(self.counts[kind]) for kind in (FALLBACKS, SURPLUS)}
        self.counts.clear()
        return taken

    def _finite(self, cost_GQN: Tensor) -> Tensor:
        """The costs with NaN and infinity replaced; scipy would stop: "cost matrix is infeasible"."""
        finite_GQN = torch.isfinite(cost_GQN)
        if finite_GQN.all():
            return cost_GQN
        self._count(FALLBACKS, 1)
        return torch.where(finite_GQN, cost_GQN, _FORBIDDEN)

    def _count(self, kind: str, number: int) -> None:
        if number and kind not in self._warned:
            self._warned.add(kind)
            _LOG.warning("%s: %d in this batch; counted from here on as train/%s", kind.replace("_", " "), number, kind)
        self.counts[kind] += number


def softmax_class_cost(logits_QC: Tensor, labels_N: Tensor) -> Tensor:
    """(Q, N) minus the softmax probability of each object's class (Carion et al. 2020)."""
    return -logits_QC.float().softmax(-1)[:, labels_N]


def focal_class_cost(logits_QC: Tensor, labels_N: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """(Q, N) focal loss of saying yes less that of saying no, classes as independent logits (Zhu et al. 2021).

    The focal loss is Lin et al. 2017, eq. 5; written with log-sigmoids, so that a sure query gives no infinity.
    """
    logits_QN = logits_QC.float()[:, labels_N]
    p_QN = logits_QN.sigmoid()
    yes_QN = alpha * (1 - p_QN) ** gamma * -functional.logsigmoid(logits_QN)
    no_QN = (1 - alpha) * p_QN**gamma * -functional.logsigmoid(-logits_QN)
    return yes_QN - no_QN


def l1_box_cost(boxes_Q4: Tensor, boxes_N4: Tensor) -> Tensor:
    """(Q, N) sum of the absolute differences of the four coordinates; both in one format and unit."""
    return torch.cdist(boxes_Q4.float(), boxes_N4.float(), p=1)


def giou_box_cost(boxes_xyxy_Q4: Tensor, boxes_xyxy_N4: Tensor) -> Tensor:
    """(Q, N) minus the generalised IoU (Rezatofighi et al. 2019) of boxes as corners."""
    # In double precision: the IoU less the empty share of the hull loses digits where they are nearly equal.
    cost_QN: Tensor = -generalized_box_iou(boxes_xyxy_Q4.double(), boxes_xyxy_N4.double())
    return cost_QN.float()


def dice_cost(probabilities_QP: Tensor, truth_NP: Tensor, *, smooth: float = 1.0) -> Tensor:
    """(Q, N) one minus (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth) (Cheng et al. 2021, MaskFormer)."""
    p_QP, g_NP = probabilities_QP.float(), truth_NP.float()
    return 1 - (2 * p_QP @ g_NP.T + smooth) / (p_QP.sum(1)[:, None] + g_NP.sum(1)[None] + smooth)


def mask_bce_cost(logits_QP: Tensor, truth_NP: Tensor) -> Tensor:
    """(Q, N) mean binary cross-entropy over the points: softplus(x) - x g, summed by one product of matrices."""
    x_QP = logits_QP.float()
    return (functional.softplus(x_QP).sum(1)[:, None] - x_QP @ truth_NP.float().T) / max(x_QP.shape[1], 1)
