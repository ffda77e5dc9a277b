"""Between masks of an image and squares of 64 x 64 over their boxes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from segdist.core import masks
from segdist.core.records import Rle
from segdist.nets.paligemma.codec import SIDE

CropSS = NDArray[np.uint8]
"""(64, 64) how much of each pixel of a box is covered, 0..255."""


def crop(mask: Rle) -> CropSS:
    """A mask cropped to its own tight box and resized, bilinear with antialiasing, as big_vision does.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.area:
        raise ValueError("a mask must not be empty")
    return crop_pixels(masks.decode_cut(mask, masks.tight_cut(mask)))


def crop_pixels(inside_HW: masks.Mask) -> CropSS:
    """The part of a mask inside a box, at 64 x 64."""
    cover_HW = _resized(torch.from_numpy(np.ascontiguousarray(inside_HW, np.float32)), (SIDE, SIDE))
    return np.asarray((cover_HW * 255).round().clamp(0, 255).numpy(), np.uint8)


def paste(logits_SS: NDArray[np.float32], box_xyxy: Sequence[int], *, size_hw: tuple[int, int]) -> masks.Mask:
    """Logits over a box as a mask of the whole image: resized bilinearly, then set where they are above 0.

    Args:
        logits_SS: (64, 64) from `MaskCodec.decode`.
        box_xyxy: whole pixels from `locations.pixel_box`; nothing is set in a box of no size, nor outside the image.
        size_hw: height and width of the image.
    """
    mask_HW = np.zeros(size_hw, np.bool_)
    x1, y1, x2, y2 = box_xyxy
    if x1 < x2 and y1 < y2:
        inside_HW = _resized(torch.from_numpy(logits_SS), (y2 - y1, x2 - x1)).numpy() > 0
        shown_HW = mask_HW[y1:y2, x1:x2]
        shown_HW[:] = inside_HW[: shown_HW.shape[0], : shown_HW.shape[1]]
    return mask_HW


def _resized(values_HW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return interpolate(values_HW[None, None], size_hw, mode="bilinear", align_corners=False, antialias=True)[0, 0]
