"""The set-prediction loss of Mask2Former (Cheng et al. 2022, section 3.3), blind to ignored pixels.

Every object is matched to one query; matched queries learn its class and mask, the others to be "no object". Masks are
compared on sampled points. Points are pixels here, and only pixels that teach something are drawn.

Shapes: B images, Q queries, C classes, N objects of one image, M matched pairs of a batch, P points, H W pixels of the
padded square, h w of the predicted masks.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

_LOG = logging.getLogger(__name__)
NOT_TAUGHT = -100
"""The class of a query that is neither right nor wrong."""
_OVERSAMPLE, _UNCERTAIN = 3, 0.75
"""Points drawn for each point kept, and the share kept because the prediction is undecided there (section 3.3)."""
_COSTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}
"""Weights of the matching costs (section 4.1)."""
NON_FINITE, TOO_MANY = "matching with non-finite costs", "objects beyond the number of queries"


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


class Criterion:
    """Loss terms as a mean over the decoder's layers, so that they do not grow with its depth.

    Attributes:
        counts: what could not be taught as it should, by kind: `NON_FINITE` per image and layer, `TOO_MANY` objects.
    """

    def __init__(self, *, num_points: int, no_object_weight: float) -> None:
        self.num_points = num_points
        self.no_object_weight = no_object_weight
        self.counts: Counter[str] = Counter()

    def __call__(self, layers: Sequence[Layer], targets: Targets) -> dict[str, Tensor]:
        """The terms `class`, `mask` and `dice`, unweighted; zeros connected to the graph without objects."""
        pixels = _Pixels(targets.valid_BHW)
        truth_MK = torch.cat([m.flatten(1) for m in targets.masks])
        queries = layers[0].classes_BQC.shape[1]
        self._count(TOO_MANY, sum(max(len(labels) - queries, 0) for labels in targets.labels))
        terms = [self._layer(layer, targets, pixels, truth_MK) for layer in layers]
        return {name: torch.stack([t[name] for t in terms]).mean() for name in ("class", "mask", "dice")}

    def _count(self, kind: str, number: int) -> None:
        if number and not self.counts[kind]:
            _LOG.warning("mask2former: %s; counted from here on", kind)
        if number:
            self.counts[kind] += number

    def _layer(self, layer: Layer, targets: Targets, pixels: "_Pixels", truth_MK: Tensor) -> dict[str, Tensor]:
        pairs = [self._match(layer, targets, pixels, image) for image in range(len(targets.labels))]
        starts = np.cumsum([0, *(len(labels) for labels in targets.labels)])
        device = layer.masks_BQhw.device
        image_M = _index([np.full(len(q), i) for i, (q, _) in enumerate(pairs)], device)
        query_M = _index([q for q, _ in pairs], device)
        object_M = _index([n + starts[i] for i, (_, n) in enumerate(pairs)], device)
        taught_BQ = self._classes(layer, targets, image_M, query_M, object_M)
        return {
            "class": self._class_loss(layer.classes_BQC, taught_BQ),
            **self._mask_losses(layer.masks_BQhw, image_M, query_M, truth_MK, object_M, pixels),
        }

    @torch.no_grad()
    def _match(
        self, layer: Layer, targets: Targets, pixels: "_Pixels", image: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Queries and the objects they are matched to at the least cost (Hungarian method), for one image."""
        labels_N = targets.labels[image]
        logits_Qhw = layer.masks_BQhw[image]
        if not len(labels_N):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        points_P = pixels.draw(torch.tensor([image], device=labels_N.device), self.num_points)[0]
        logits_QP = _at(logits_Qhw[None], points_P[None], pixels.size_hw)[0]
        truth_NP = targets.masks[image].flatten(1)[:, points_P].float()
        cost_QN = (
            -_COSTS["class"] * layer.classes_BQC[image].softmax(-1)[:, labels_N]
            + _COSTS["mask"] * (functional.softplus(logits_QP).sum(1)[:, None] - logits_QP @ truth_NP.T) / len(points_P)
            + _COSTS["dice"] * _pairwise_dice(logits_QP.sigmoid(), truth_NP)
        ).cpu()
        finite_QN = torch.isfinite(cost_QN)
        if not finite_QN.all():  # scipy would stop the training: "cost matrix is infeasible"
            self._count(NON_FINITE, 1)
            cost_QN = torch.where(finite_QN, cost_QN, 1e6)
        return linear_sum_assignment(cost_QN.numpy())

    @torch.no_grad()
    def _classes(self, layer: Layer, targets: Targets, image_M: Tensor, query_M: Tensor, object_M: Tensor) -> Tensor:
        """(B, Q) the class each query is taught: its object's, none, or nothing where it lies on crowds."""
        batch, queries, classes = layer.classes_BQC.shape
        taught_BQ = torch.full((batch, queries), classes - 1, device=layer.classes_BQC.device)
        if targets.crowd_BHW.any():
            taught_BQ[_share_on(layer.masks_BQhw, targets.crowd_BHW) > 0.5] = NOT_TAUGHT
        taught_BQ[image_M, query_M] = torch.cat(list(targets.labels))[object_M]
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

    def _mask_losses(
        self,
        logits_BQhw: Tensor,
        image_M: Tensor,
        query_M: Tensor,
        truth_MK: Tensor,
        object_M: Tensor,
        pixels: "_Pixels",
    ) -> dict[str, Tensor]:
        """Binary cross-entropy and Dice loss at points, as means over the matched pairs."""
        if not len(image_M):
            nothing = logits_BQhw.sum() * 0
            return {"mask": nothing, "dice": nothing}
        logits_M1hw = logits_BQhw[image_M, query_M][:, None]
        points_MP = self._undecided_points(logits_M1hw.detach(), image_M, pixels)
        logits_MP = _at(logits_M1hw, points_MP, pixels.size_hw)[:, 0]
        truth_MP = truth_MK[object_M[:, None], points_MP].float()
        prob_MP = logits_MP.sigmoid()
        common_M, both_M = (prob_MP * truth_MP).sum(1), prob_MP.sum(1) + truth_MP.sum(1)
        return {
            "mask": functional.binary_cross_entropy_with_logits(logits_MP, truth_MP),
            "dice": (1 - (2 * common_M + 1) / (both_M + 1)).mean(),
        }

    def _undecided_points(self, logits_M1hw: Tensor, image_M: Tensor, pixels: "_Pixels") -> Tensor:
        """(M, P) pixels: three quarters where the prediction is nearest to undecided, the rest at random."""
        kept = int(self.num_points * _UNCERTAIN)
        drawn_MP = pixels.draw(image_M, self.num_points * _OVERSAMPLE)
        certainty_MP = _at(logits_M1hw, drawn_MP, pixels.size_hw)[:, 0].abs()
        undecided_MP = drawn_MP.gather(1, certainty_MP.topk(kept, dim=1, largest=False).indices)
        return torch.cat([undecided_MP, pixels.draw(image_M, self.num_points - kept)], dim=1)


class _Pixels:
    """The pixels of each image that teach something, to draw from."""

    def __init__(self, valid_BHW: Tensor) -> None:
        self.size_hw = (valid_BHW.shape[1], valid_BHW.shape[2])
        places = [v.flatten().nonzero()[:, 0] for v in valid_BHW]
        self._place_BK = pad_sequence(places, batch_first=True)
        self._count_B = torch.tensor([len(p) for p in places], device=valid_BHW.device)

    def draw(self, image_M: Tensor, count: int) -> Tensor:
        """(M, count) pixels as row * W + column, with replacement; row m from the image `image_M[m]`."""
        count_M1 = self._count_B[image_M][:, None]
        chance_MP = torch.rand(len(image_M), count, device=image_M.device)
        chosen_MP = torch.minimum((chance_MP * count_M1).long(), count_M1 - 1)
        return self._place_BK[image_M[:, None], chosen_MP]


def _at(logits_MChw: Tensor, pixels_MP: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(M, C, P) logits at the centres of pixels of the padded square, bilinear."""
    height, width = size_hw
    x_MP = (pixels_MP % width + 0.5) / width
    y_MP = (pixels_MP // width + 0.5) / height
    grid_MP12 = (torch.stack([x_MP, y_MP], -1) * 2 - 1)[:, :, None].to(logits_MChw)
    return functional.grid_sample(logits_MChw, grid_MP12, align_corners=False, padding_mode="border")[..., 0]


def _pairwise_dice(prob_QP: Tensor, truth_NP: Tensor) -> Tensor:
    """(Q, N) Dice loss of every query with every object."""
    return 1 - (2 * prob_QP @ truth_NP.T + 1) / (prob_QP.sum(1)[:, None] + truth_NP.sum(1)[None] + 1)


def _share_on(logits_BQhw: Tensor, crowd_BHW: Tensor) -> Tensor:
    """(B, Q) the share of each predicted mask that lies on crowds; 0 for an empty mask."""
    crowd_B1hw = functional.interpolate(crowd_BHW[:, None].float(), logits_BQhw.shape[-2:], mode="area")
    mask_BQhw = (logits_BQhw > 0).float()
    return (mask_BQhw * crowd_B1hw).sum((2, 3)) / mask_BQhw.sum((2, 3)).clamp(min=1)


def _index(parts: Sequence[NDArray[np.int64]], device: torch.device) -> Tensor:
    return torch.as_tensor(np.concatenate(parts), dtype=torch.int64, device=device)
