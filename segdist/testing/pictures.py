"""What model families are shown: a picture whose truth is known, at any size."""

from collections.abc import Mapping

import cv2
import numpy as np

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.core.plugins import Example, ImageHWC
from segdist.core.records import Prompt

CLASSES = ("disc", "bar")


def picture(size_hw: tuple[int, int] = (96, 128)) -> tuple[ImageHWC, dict[str, Mask]]:
    """A bright disc and a dark bar on grey, and their masks."""
    height, width = size_hw
    disc, bar = np.zeros(size_hw, np.uint8), np.zeros(size_hw, np.uint8)
    cv2.circle(disc, (width // 3, height // 2), height // 4, 1, -1)
    cv2.line(bar, (width * 2 // 3, height // 8), (width * 5 // 6, height * 7 // 8), 1, max(height // 12, 2))
    image = np.full((*size_hw, 3), 120, np.uint8)
    image[disc > 0], image[bar > 0] = (230, 200, 60), (30, 40, 90)
    return image, {"disc": disc > 0, "bar": bar > 0}


def example(image_size: int, *, objects: bool = True, standing: bool = False) -> Example:
    """The picture at the network's scale, lying or standing; without objects the same picture, with no truth."""
    lying_hw = image_size * 3 // 4, image_size
    image, truth = picture(lying_hw[::-1] if standing else lying_hw)
    stack = np.stack(list(truth.values()))[: None if objects else 0]
    return Example(
        image_id="a",
        image_HWC=image,
        labels=np.arange(len(stack)),
        masks_NHW=stack,
        boxes_xyxy=np.array([masks.encode(m).box_xyxy for m in stack], np.float32).reshape(-1, 4),
        scores=np.ones(len(stack), np.float32),
        ignore_HW=np.zeros(image.shape[:2], np.bool_),
    )


def crowded(image_size: int, *, count: int = 200) -> Example:
    """Small bright squares in rows, of both classes."""
    side = int(np.ceil(np.sqrt(count)))
    step = image_size / side
    stack = np.zeros((count, image_size, image_size), np.bool_)
    for n, mask_HW in enumerate(stack):
        y, x = round(n // side * step), round(n % side * step)
        mask_HW[y : y + max(int(step) - 1, 1), x : x + max(int(step) - 1, 1)] = True
    image = np.where(np.any(stack, axis=0)[:, :, None], 220, 90).astype(np.uint8).repeat(3, axis=2)
    return Example(
        image_id="crowded",
        image_HWC=image,
        labels=np.arange(count) % len(CLASSES),
        masks_NHW=stack,
        boxes_xyxy=np.array([masks.encode(m).box_xyxy for m in stack], np.float32),
        scores=np.ones(count, np.float32),
        ignore_HW=np.zeros(image.shape[:2], np.bool_),
    )


def prompt(truth: Mapping[str, Mask]) -> Prompt:
    """The true boxes."""
    return Prompt(tuple(masks.encode(m).box_xyxy for m in truth.values()), tuple(truth))
