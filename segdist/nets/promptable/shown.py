"""What the decoder is shown: boxes, points or learned tokens; and how training draws them.

Shapes: N prompts over all images of a batch, P points each, T tokens of C channels, S x S pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segdist.nets.promptable.options import PromptableOptions


class PromptBatch(NamedTuple):
    """N prompts of one kind, in pixels of the padded square.

    Attributes:
        boxes_N4: a box each.
        points_NP2: points (x, y) each.
        is_object_NP: 1 for a point on the object, 0 for one off it.
        tokens_NTC: learned tokens in place of boxes and points.
    """

    boxes_N4: Tensor | None = None
    points_NP2: Tensor | None = None
    is_object_NP: Tensor | None = None
    tokens_NTC: Tensor | None = None


def on_object(points_N12: Tensor) -> PromptBatch:
    """One point each, on the object."""
    return PromptBatch(points_NP2=points_N12, is_object_NP=torch.ones(points_N12.shape[:2], device=points_N12.device))


def centres(boxes_N4: Tensor) -> Tensor:
    """(N, 1, 2) the middle of each box."""
    return ((boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2)[:, None]


def exact(boxes_N4: Tensor, options: PromptableOptions) -> PromptBatch:
    """What a box alone shows in this mode, without jitter."""
    return on_object(centres(boxes_N4)) if options.prompt == "point" else PromptBatch(boxes_N4)


def training_prompts(boxes_N4: Tensor, valid_NSS: Tensor, options: PromptableOptions) -> PromptBatch:
    """Prompts as a user would draw them, of the kind that `options.prompt` asks for.

    Args:
        boxes_N4: the true boxes.
        valid_NSS: pixels of each object that are not ignored; points on the object are drawn from them.
        options: `prompt` is box, point or mixed.
    """
    if options.prompt == "box":
        kind = "both" if torch.rand(()) < options.point_share else "box"
        most = 1
    else:
        kind = "point" if options.prompt == "point" else ("box", "point", "both")[int(torch.randint(3, ()))]
        most = options.points_per_object
    moved_N4 = _moved(boxes_N4, options) if kind != "point" else None
    if kind == "box":
        return PromptBatch(moved_N4)
    points_NP2, is_object_NP = _points(boxes_N4, valid_NSS, options, count=int(torch.randint(most, ())) + 1)
    return PromptBatch(moved_N4, points_NP2, is_object_NP)


def _moved(boxes_N4: Tensor, options: PromptableOptions) -> Tensor:
    """The boxes, half of them with moved sides: the exact box is what most annotations hold."""
    sides_N4 = (boxes_N4[:, 2:] - boxes_N4[:, :2]).repeat(1, 2)
    strength_N1 = options.box_jitter * (torch.rand(len(boxes_N4), 1) < 0.5) * torch.rand(len(boxes_N4), 1)
    shift_N4 = (torch.rand(boxes_N4.shape) * 2 - 1) * strength_N1
    return (boxes_N4 + shift_N4.to(boxes_N4.device) * sides_N4).clamp(0, options.image_size)


def _points(boxes_N4: Tensor, valid_NSS: Tensor, options: PromptableOptions, *, count: int) -> tuple[Tensor, Tensor]:
    """(N, count, 2) points and whether they lie on the object; the first does, each further one at random."""
    points, kinds = [_drawn(valid_NSS, boxes_N4)], [torch.ones(len(boxes_N4), device=boxes_N4.device)]
    near_NSS = _near(boxes_N4, valid_NSS) & ~valid_NSS if count > 1 else None
    for _ in range(count - 1):
        assert near_NSS is not None
        on_N = (torch.rand(len(boxes_N4)) < 0.5).to(boxes_N4.device) | ~near_NSS.flatten(1).any(1)
        points.append(_drawn(torch.where(on_N[:, None, None], valid_NSS, near_NSS), boxes_N4))
        kinds.append(on_N.float())
    points_NP2, is_object_NP = torch.stack(points, 1), torch.stack(kinds, 1)
    sides_N12 = (boxes_N4[:, 2:] - boxes_N4[:, :2])[:, None]
    shift_NP2 = ((torch.rand(points_NP2.shape) * 2 - 1) * options.point_jitter).to(boxes_N4.device)
    return (points_NP2 + shift_NP2 * sides_N12).clamp(0, options.image_size - 1), is_object_NP


def _drawn(allowed_NSS: Tensor, boxes_N4: Tensor) -> Tensor:
    """(N, 2) a random allowed pixel (x, y); the box's centre where none is allowed."""
    chance_NK = torch.rand(allowed_NSS.shape).to(allowed_NSS.device).where(allowed_NSS, -1.0).flatten(1)
    pixel_N = chance_NK.argmax(1)
    width = allowed_NSS.shape[2]
    points_N2 = torch.stack([pixel_N % width, pixel_N // width], dim=-1).float()
    return torch.where(allowed_NSS.flatten(1).any(1)[:, None], points_N2, centres(boxes_N4)[:, 0])


def _near(boxes_N4: Tensor, valid_NSS: Tensor) -> Tensor:
    """(N, S, S) the pixels inside each box, and a quarter of its sides around it."""
    side = torch.arange(valid_NSS.shape[-1], device=boxes_N4.device)
    margin_N2 = (boxes_N4[:, 2:] - boxes_N4[:, :2]) / 4
    low_N2, high_N2 = boxes_N4[:, :2] - margin_N2, boxes_N4[:, 2:] + margin_N2
    inside = (side >= low_N2[..., None]) & (side < high_N2[..., None])
    return inside[:, 1, :, None] & inside[:, 0, None, :]
