"""The mode "everything": a grid of points, and the whole object under each of them (SAOM, Khan et al. 2024).

Shapes: G points of the grid, N objects of one image, K masks, S x S or h x w pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from segdist.nets.promptable.options import PromptableOptions

NOTHING = -1
"""The object of a point that lies on none."""


@dataclass(frozen=True)
class Assigned:
    """Points of the grid of one image and the objects they are to find.

    Attributes:
        points_P2: (x, y) in pixels of the padded square.
        object_P: index of the object, or `NOTHING`.
    """

    points_P2: Tensor
    object_P: Tensor


def grid_points(size_hw: tuple[int, int], side: int) -> Tensor:
    """(side * side, 2) points (x, y) at the centres of equal cells of an image, row by row, as SAM's own grid."""
    height, width = size_hw
    along = (torch.arange(side) + 0.5) / side
    y_G, x_G = torch.meshgrid(along * height, along * width, indexing="ij")
    return torch.stack([x_G, y_G], -1).reshape(-1, 2)


def nearest_points(points_G2: Tensor, masks_NSS: Tensor) -> Tensor:
    """(N,) for each mask the point of the grid that stands for it, of those on the mask the nearest to its centroid.

    A mask so small or thin that no point lies on it takes the point nearest to any of its pixels. This is the
    nearest-neighbour assignment of SAOM (section 3).

    Args:
        points_G2: (x, y) in pixels.
        masks_NSS: boolean, none of them empty.
    """
    chosen = []
    for mask_SS in masks_NSS:
        pixels_K2 = mask_SS.nonzero().flip(1).float() + 0.5
        on_G = _on(points_G2, mask_SS)
        distance_G = torch.cdist(points_G2, pixels_K2.mean(0, keepdim=True))[:, 0]
        if not on_G.any():
            distance_G, on_G = torch.cdist(points_G2, pixels_K2).amin(1), torch.ones_like(on_G)
        chosen.append(torch.where(on_G, distance_G, torch.inf).argmin())
    return torch.stack(chosen) if chosen else torch.zeros(0, dtype=torch.int64)


def assign(masks_NSS: Tensor, ignore_SS: Tensor, size_hw: tuple[int, int], options: PromptableOptions) -> Assigned:
    """The points of the grid that teach, each with its object; and at most as many that lie on nothing.

    Args:
        masks_NSS: the objects of one image, without the pixels to ignore, none of them empty.
        ignore_SS: ignored pixels, the padding among them.
        size_hw: of the image inside the padded square.
        options: `grid_side`, `grid_points_per_object`, `prompts_per_image`.
    """
    points_G2 = grid_points(size_hw, options.grid_side)
    objects = torch.randperm(len(masks_NSS))[: options.prompts_per_image]
    chosen, owner = [nearest_points(points_G2, masks_NSS[objects])], [objects]
    for _ in range(options.grid_points_per_object - 1):
        chosen.append(_some_point_on_each(points_G2, masks_NSS[objects], instead_of_none=chosen[0]))
        owner.append(objects)
    free_G = ~_on(points_G2, masks_NSS.any(0) | ignore_SS)
    free = free_G.nonzero()[:, 0]
    nothing = free[torch.randperm(len(free))[: max(1, len(objects))]]
    chosen.append(nothing)
    owner.append(torch.full((len(nothing),), NOTHING))
    return Assigned(points_G2[torch.cat(chosen)], torch.cat(owner))


def distinct(masks_Khw: Tensor, scores_K: Tensor, *, max_overlap: float) -> Tensor:
    """Indices of the masks that are kept, best first: none overlaps a better one by an IoU above `max_overlap`.

    Non-maximum suppression on masks, not on boxes: the boxes of a floor and of the room around it are similar.
    """
    order = scores_K.argsort(descending=True, stable=True)
    flat = masks_Khw[order].flatten(1).float()
    common = flat @ flat.T
    area = flat.sum(1)
    iou = common / (area[:, None] + area[None] - common).clamp(min=1)
    kept: list[int] = []
    for k, overlaps in enumerate((iou > max_overlap).tolist()):
        if not any(overlaps[better] for better in kept):
            kept.append(k)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def stability(logits_Khw: Tensor) -> Tensor:
    """(K,) IoU of each mask at the thresholds 1 and -1 on its logits (Kirillov et al. 2023, appendix B); 0 if empty."""
    inner_K, outer_K = ((logits_Khw > t).flatten(1).sum(1) for t in (1, -1))
    return inner_K / outer_K.clamp(min=1)


def _on(points_G2: Tensor, mask_SS: Tensor) -> Tensor:
    """(G,) whether each point lies on a pixel of the mask."""
    x_G, y_G = points_G2.long().unbind(-1)
    return mask_SS[y_G, x_G]


def _some_point_on_each(points_G2: Tensor, masks_NSS: Tensor, *, instead_of_none: Tensor) -> Tensor:
    """(N,) a random point of the grid on each mask."""
    if not len(masks_NSS):
        return instead_of_none
    x_G, y_G = points_G2.long().unbind(-1)
    on_NG = masks_NSS[:, y_G, x_G]
    drawn_N = torch.rand(on_NG.shape).where(on_NG, -1.0).argmax(1)
    return torch.where(on_NG.any(1), drawn_N, instead_of_none)
