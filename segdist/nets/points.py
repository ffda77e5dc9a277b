"""Mask losses on sampled points (PointRend, Kirillov et al. 2020; Mask2Former, Cheng et al. 2022, section 3.3).

Points are pixels here, and only pixels that teach something are drawn: neither padding nor ignored regions.

Shapes: B images, N objects of a batch, M matched pairs of a batch, P points, H W pixels of the padded square, K = H W
of them, h w of the predicted masks.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

_OVERSAMPLE, _UNCERTAIN = 3, 0.75
"""Points drawn for each point kept, and the share kept because the prediction is undecided there (section 3.3)."""


class ValidPixels:
    """The pixels of each image that teach something, to draw from.

    Args:
        valid_BHW: True where a pixel teaches something.
    """

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

    def draw_undecided(self, logits_Mhw: Tensor, image_M: Tensor, count: int) -> Tensor:
        """(M, count) pixels: three quarters where the prediction is nearest to undecided, the rest at random."""
        kept = int(count * _UNCERTAIN)
        drawn_MP = self.draw(image_M, count * _OVERSAMPLE)
        certainty_MP = self.values(logits_Mhw.detach()[:, None], drawn_MP)[:, 0].abs()
        undecided_MP = drawn_MP.gather(1, certainty_MP.topk(kept, dim=1, largest=False).indices)
        return torch.cat([undecided_MP, self.draw(image_M, count - kept)], dim=1)

    def values(self, logits_MChw: Tensor, pixels_MP: Tensor) -> Tensor:
        """(M, C, P) logits at the centres of pixels of the padded square, bilinear; zeros lie around the mask.

        As `sample_point` of transformers and `point_sample` of detectron2, with which Mask2Former was trained: within
        half a predicted pixel of the frame logits are drawn towards 0.
        """
        height, width = self.size_hw
        x_MP = (pixels_MP % width + 0.5) / width
        y_MP = (pixels_MP // width + 0.5) / height
        grid_MP12 = (torch.stack([x_MP, y_MP], -1) * 2 - 1)[:, :, None].to(logits_MChw)
        return functional.grid_sample(logits_MChw, grid_MP12, align_corners=False)[..., 0]


def mask_losses(
    logits_Mhw: Tensor,
    image_M: Tensor,
    object_M: Tensor,
    *,
    truth_NK: Tensor,
    pixels: ValidPixels,
    num_points: int,
    weights_N: Tensor | None = None,
    smoothing_N: Tensor | None = None,
) -> dict[str, Tensor]:
    """Binary cross-entropy (`mask`) and Dice loss (`dice`) at points, as means over the matched pairs.

    Args:
        logits_Mhw: predicted masks; without any, the terms are zeros connected to its graph.
        image_M: the image of each pair.
        object_M: the object of each pair, an index into `truth_NK`.
        truth_NK: the true masks of the batch at the size of the padded square, flat, boolean.
        pixels: what points are drawn from.
        num_points: points of each mask.
        weights_N: how much each object counts; None counts them equally.
        smoothing_N: share of each object's truth in `mask` that is spread over yes and no; None spreads nothing.
    """
    if not len(image_M):
        nothing = logits_Mhw.sum() * 0
        return {"mask": nothing, "dice": nothing}
    points_MP = pixels.draw_undecided(logits_Mhw, image_M, num_points)
    logits_MP = pixels.values(logits_Mhw[:, None], points_MP)[:, 0]
    truth_MP = truth_NK[object_M[:, None], points_MP].float()
    prob_MP = logits_MP.sigmoid()
    common_M, both_M = (prob_MP * truth_MP).sum(1), prob_MP.sum(1) + truth_MP.sum(1)
    target_MP = truth_MP if smoothing_N is None else spread(truth_MP, smoothing_N[object_M, None])
    mask_M = functional.binary_cross_entropy_with_logits(logits_MP, target_MP, reduction="none").mean(1)
    weights_M = None if weights_N is None else weights_N[object_M]
    return {
        "mask": weighted_mean(mask_M, weights_M),
        "dice": weighted_mean(1 - (2 * common_M + 1) / (both_M + 1), weights_M),
    }


def spread(truth: Tensor, share: Tensor) -> Tensor:
    """Truth of yes or no as a probability, a share of it spread over both (Szegedy et al. 2016, section 7)."""
    return truth * (1 - share) + share / 2


def weighted_mean(values_M: Tensor, weights_M: Tensor | None, *, least: float = 1e-6) -> Tensor:
    """The mean of some values; a connected zero where nothing counts; the sum is divided by `least` or more."""
    if weights_M is None:
        return values_M.mean()
    return (values_M * weights_M).sum() / weights_M.sum().clamp(min=least)


def share_on(logits_BQhw: Tensor, region_BHW: Tensor) -> Tensor:
    """(B, Q) the share of each predicted mask that lies on a region; 0 for an empty mask."""
    region_B1hw = functional.interpolate(region_BHW[:, None].float(), logits_BQhw.shape[-2:], mode="area")
    mask_BQhw = (logits_BQhw > 0).float()
    return (mask_BQhw * region_B1hw).sum((2, 3)) / mask_BQhw.sum((2, 3)).clamp(min=1)
