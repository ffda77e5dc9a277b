"""Masks that keep to their boxes: who draws a tight box says that the object touches each of its sides, and ends there.

A network draws a mask at a quarter of its own resolution or less and is often unsure where it ends, so that its masks
fall short of the box: the threshold on the logits is lowered, as far as that brings the mask nearer to the sides.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segdist.core.masks import Mask
from segdist.core.records import Box
from segdist.reading.geometry import cut_out

_THRESHOLDS = np.array([0, -0.5, -1, -1.5, -2, -3, -4, -5, -6], np.float32)
"""On logits; below the last one the network is sure that there is nothing."""
_NEARLY = 0.95
"""Share of the largest extent that a mask can have in its box, with which a higher threshold is content: the last
pixels at a corner are not worth a blurred edge everywhere."""


def within_boxes(logits_NHW: NDArray[np.float32], boxes_xyxy: Sequence[Box]) -> Mask:
    """(N, H, W) masks, empty outside their boxes, of which nearly none can reach further inside.

    Args:
        logits_NHW: of N masks at the image's own size.
        boxes_xyxy: in its pixels.
    """
    found_NHW = np.zeros(logits_NHW.shape, np.bool_)
    height, width = logits_NHW.shape[1:]
    for n, box in enumerate(boxes_xyxy):
        cut = cut_out(box, (height, width))
        inside_hw = logits_NHW[n][cut]
        found_NHW[n][cut] = inside_hw > _threshold(inside_hw)
    return found_NHW


def _threshold(logits_hw: NDArray[np.float32]) -> np.float32:
    """The highest one at which the mask's own box is nearly as large as at any."""
    extents = _length(logits_hw.max(axis=1)) * _length(logits_hw.max(axis=0))
    return _THRESHOLDS[int(np.argmax(extents >= _NEARLY * extents.max()))]


def _length(highest_K: NDArray[np.float32]) -> NDArray[np.intp]:
    """From the first to the last of the rows, or columns, that a mask has a pixel in, at each threshold."""
    set_TK = highest_K[None] > _THRESHOLDS[:, None]
    last_T = len(highest_K) - set_TK[:, ::-1].argmax(axis=1)
    return np.where(set_TK.any(axis=1), last_T - set_TK.argmax(axis=1), 0)
