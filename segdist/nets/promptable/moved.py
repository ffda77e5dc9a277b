"""The same question asked with boxes moved a little: what the answers have in common is less of an accident.

Shapes: N prompts, M masks a prompt, h x w mask logits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segdist.nets.promptable.network import DecodedMasks
from segdist.nets.promptable.shown import PromptBatch

_MOVES = (
    (0.05, 0.05, -0.05, -0.05),
    (-0.05, -0.05, 0.05, 0.05),
    (0.05, -0.05, 0.05, -0.05),
    (-0.05, 0.05, -0.05, 0.05),
)
"""Of the four sides, as shares of the box's width and height: smaller, larger, and to two corners."""


def moved_boxes(shown: PromptBatch) -> list[PromptBatch]:
    """The boxes of a prompt, moved in each way; none where points are shown as well."""
    if shown.boxes_N4 is None or shown.points_NP2 is not None:
        return []
    sides_N4 = (shown.boxes_N4[:, 2:] - shown.boxes_N4[:, :2]).repeat(1, 2)
    moves_K4 = torch.tensor(_MOVES, device=sides_N4.device)
    return [PromptBatch(shown.boxes_N4 + sides_N4 * move_4) for move_4 in moves_K4]


def averaged(answers: Sequence[DecodedMasks]) -> tuple[DecodedMasks, Tensor]:
    """The mean of the answers' logits and predicted IoUs; and (N, M) the mean IoU of each answer with that mask."""
    logits_KNMhw = torch.stack([answer.logits_NMhw.float() for answer in answers])
    mean_NMhw = logits_KNMhw.mean(dim=0)
    inside_KNMhw, agreed_NMhw = logits_KNMhw > 0, mean_NMhw > 0
    common_KNM = (inside_KNMhw & agreed_NMhw).flatten(3).sum(-1)
    either_KNM = (inside_KNMhw | agreed_NMhw).flatten(3).sum(-1)
    iou_NM = torch.stack([answer.iou_NM.float() for answer in answers]).mean(dim=0)
    found = DecodedMasks(mean_NMhw, iou_NM, answers[0].tokens_NMC)
    return found, (common_KNM / either_KNM.clamp(min=1)).mean(dim=0)
