"""Boxes as four location tokens, in the order y1 x1 y2 x2.

A coordinate is a share of the image's height or width, rounded to one of 1,024 bins.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from segdist.core.records import Box

Bins = tuple[int, int, int, int]
"""y1, x1, y2, x2, each in 0..1023."""
Scale = Literal[1023, 1024]
"""What a share is multiplied by. 1023: big_vision, its models and transformers. 1024: many demos and exporters."""
Edges = Literal["round", "truncate"]
"""How a side becomes whole pixels. round: as big_vision crops masks before it encodes them; it gives back every box of
whole pixels in images of up to 1,023 pixels. truncate: as big_vision's evaluator pastes masks, up to a pixel off; the
figures published for PaliGemma were measured so."""
LAST = 1023
SCALE: Scale = 1023


def encode_box(box_xyxy: Sequence[float], *, size_hw: tuple[int, int], scale: Scale = SCALE) -> Bins:
    """The bins of a box; halves are rounded to the even bin, what lies outside the image is clipped.

    Computed in float32 as big_vision does, so that halves round the same way. Boxes smaller than a bin give bins that
    `are_valid` refuses; see `widened`.

    Args:
        box_xyxy: x1, y1, x2, y2 in pixels.
        size_hw: height and width of the image in pixels.
        scale: the convention.
    """
    height, width = size_hw
    x1, y1, x2, y2 = box_xyxy
    shares = np.array([y1 / height, x1 / width, y2 / height, x2 / width], np.float32)
    bins = np.clip(np.round(shares * np.float32(scale)), 0, LAST).astype(int)
    return int(bins[0]), int(bins[1]), int(bins[2]), int(bins[3])


def decode_box(bins: Bins, *, size_hw: tuple[int, int], scale: Scale = SCALE) -> Box:
    """The box x1, y1, x2, y2 in pixels that four bins name; not rounded, and never outside the image."""
    height, width = size_hw
    y1, x1, y2, x2 = (b / scale for b in bins)
    return x1 * width, y1 * height, x2 * width, y2 * height


def pixel_box(
    bins: Bins, *, size_hw: tuple[int, int], scale: Scale = SCALE, edges: Edges = "round"
) -> tuple[int, int, int, int]:
    """The box x1, y1, x2, y2 in whole pixels into which a mask is pasted; it may be of no size in a small image."""
    whole = [round(v) if edges == "round" else int(v) for v in decode_box(bins, size_hw=size_hw, scale=scale)]
    return whole[0], whole[1], whole[2], whole[3]


def are_valid(bins: Bins) -> bool:
    """Whether four bins make a box: y1 < y2 and x1 < x2, as big_vision's evaluator demands."""
    y1, x1, y2, x2 = bins
    return y1 < y2 and x1 < x2 and min(bins) >= 0 and max(bins) <= LAST


def widened(bins: Bins) -> Bins:
    """Bins with sides of no length made one bin long, so that an object smaller than a bin can be written at all."""
    y1, x1, y2, x2 = bins
    (y1, y2), (x1, x2) = _widened(y1, y2), _widened(x1, x2)
    return y1, x1, y2, x2


def _widened(low: int, high: int) -> tuple[int, int]:
    if low < high:
        return low, high
    return (low, low + 1) if low < LAST else (LAST - 1, LAST)
