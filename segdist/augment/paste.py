"""Copy-paste of instances from another image (Ghiasi et al. 2021, "Simple Copy-Paste")."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdist.augment.geometry import tight_boxes
from segdist.augment.steps import Donor, pasting
from segdist.core.masks import Mask
from segdist.core.plugins import Example

LARGEST = 0.25
"""Share of the donor's pixels above which an object is surroundings (a wall, a sky) and is not pasted."""
GLIMPSE = 0.1
"""An object of which less is left than this share is covered: it is dropped, and its rest is ignored."""


@pasting
def copy_paste(example: Example, rng: np.random.Generator, donor: Donor | None) -> Example:
    """Objects of another image, each with a chance of a half, at a random place; what they cover is cut away.

    Whatever else lies on the pasted pixels in the donor comes along, so that a window stays in its pasted wall.
    """
    if donor is None:
        return example
    other = _moved(donor(), example.ignore_HW.shape, rng)
    area_N = other.masks_NHW.sum(axis=(1, 2))
    movable = np.flatnonzero((area_N > 0) & (area_N <= LARGEST * other.ignore_HW.size))
    chosen = movable[rng.random(len(movable)) < 0.5]
    if len(chosen) == 0:
        return example
    region_HW: Mask = np.asarray(other.masks_NHW[chosen].any(axis=0))
    return _pasted(example, other, region_HW)


def _pasted(example: Example, other: Example, region_HW: Mask) -> Example:
    """The example with a region of another one over it."""
    parts_NHW = other.masks_NHW & region_HW
    comes_N = parts_NHW.any(axis=(1, 2))
    rest_NHW = example.masks_NHW & ~region_HW
    area_N, before_N = rest_NHW.sum(axis=(1, 2)), example.masks_NHW.sum(axis=(1, 2))
    stays_N = area_N > GLIMPSE * before_N
    boxes_xyxy = np.where((area_N < before_N)[:, None], tight_boxes(rest_NHW), example.boxes_xyxy)
    masks_NHW = np.concatenate([rest_NHW[stays_N], parts_NHW[comes_N]])
    lost_HW = rest_NHW[~stays_N].any(axis=0) & ~masks_NHW.any(axis=0)
    return replace(
        example,
        image_HWC=np.where(region_HW[..., None], other.image_HWC, example.image_HWC),
        masks_NHW=masks_NHW,
        boxes_xyxy=np.concatenate([boxes_xyxy[stays_N], tight_boxes(parts_NHW[comes_N])]).astype(np.float32),
        labels=np.concatenate([example.labels[stays_N], other.labels[comes_N]]),
        scores=np.concatenate([example.scores[stays_N], other.scores[comes_N]]),
        ignore_HW=np.where(region_HW, other.ignore_HW, example.ignore_HW) | lost_HW,
    )


def _moved(other: Example, size_hw: tuple[int, ...], rng: np.random.Generator) -> Example:
    """Another example on a canvas of this size, shifted by up to a quarter of it; what falls outside is gone."""
    shift_yx = tuple(int(rng.integers(-(side // 4), side // 4 + 1)) for side in size_hw)
    return replace(
        other,
        image_HWC=_shifted(other.image_HWC, size_hw, shift_yx),
        masks_NHW=np.stack([_shifted(m, size_hw, shift_yx) for m in other.masks_NHW])
        if len(other.masks_NHW)
        else np.zeros((0, *size_hw), np.bool_),
        ignore_HW=_shifted(other.ignore_HW, size_hw, shift_yx),
    )


def _shifted(array_HW: NDArray[Any], size_hw: tuple[int, ...], shift_yx: tuple[int, ...]) -> NDArray[Any]:
    """(H, W) or (H, W, C) on an empty canvas."""
    canvas_HW = np.zeros((*size_hw, *array_HW.shape[2:]), array_HW.dtype)
    to, source = [], []
    for shift, own, side in zip(shift_yx, array_HW.shape, size_hw, strict=False):
        low, high = max(shift, 0), max(min(shift + own, side), 0)
        to.append(slice(low, max(high, low)))
        source.append(slice(low - shift, max(high, low) - shift))
    canvas_HW[tuple(to)] = array_HW[tuple(source)]
    return canvas_HW
