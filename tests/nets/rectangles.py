"""Bright rectangles on dark ground, as training examples."""

from collections.abc import Mapping

import numpy as np

from segdist.core.plugins import Example

SIZE = 64


def example(*, boxes: Mapping[tuple[int, int, int, int], int], size_hw: tuple[int, int] = (SIZE, 48)) -> Example:
    """Bright rectangles on dark ground: class by (x1, y1, x2, y2)."""
    masks_NHW = np.zeros((len(boxes), *size_hw), np.bool_)
    for mask_HW, (x1, y1, x2, y2) in zip(masks_NHW, boxes, strict=True):
        mask_HW[y1:y2, x1:x2] = True
    image_HWC = np.full((*size_hw, 3), 40, np.uint8)
    image_HWC[masks_NHW.any(axis=0)] = 200
    return Example(
        image_id="drawn",
        image_HWC=image_HWC,
        labels=np.array(list(boxes.values()), np.int64),
        masks_NHW=masks_NHW,
        boxes_xyxy=np.array(list(boxes), np.float32).reshape(-1, 4),
        scores=np.ones(len(boxes), np.float32),
        ignore_HW=np.zeros(size_hw, np.bool_),
    )


ONE = example(boxes={(8, 8, 32, 40): 0})
EMPTY = example(boxes={})
