"""Where things lie: flips, rotations, scale, crop. Boxes and masks move together, and thin structures stay whole."""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist.augment.steps import augmentation
from segdist.core import masks
from segdist.core.plugins import Example, ImageHWC


@augmentation
def flip(example: Example, rng: np.random.Generator) -> Example:
    """Left and right change sides in half of the images."""
    return _mirrored(example, axis=1) if rng.random() < 0.5 else example


@augmentation
def flip_vertical(example: Example, rng: np.random.Generator) -> Example:
    """Up and down change sides in half of the images; for pictures without an up, as from above."""
    return _mirrored(example, axis=0) if rng.random() < 0.5 else example


@augmentation
def rotate90(example: Example, rng: np.random.Generator) -> Example:
    """A rotation of 0 or 90 degrees; with the flips, all eight orientations."""
    return _transposed(_mirrored(example, axis=1)) if rng.random() < 0.5 else example


@augmentation
def scale(example: Example, rng: np.random.Generator) -> Example:
    """The whole image at 0.6 to 1 times its size; the rest is padding."""
    factor = rng.uniform(0.6, 1.0)
    height, width = example.ignore_HW.shape
    return _resized(example, (max(round(height * factor), 1), max(round(width * factor), 1)))


@augmentation
def crop(example: Example, rng: np.random.Generator) -> Example:
    """A window of 0.6 to 1 times the sides, enlarged to the full size, with part of an object in it if there is one.

    It only ever enlarges, so a thin structure stays whole; an object of which nothing is left is dropped.
    """
    size_hw = example.ignore_HW.shape
    factor = rng.uniform(0.6, 1.0)
    window_hw = (max(round(size_hw[0] * factor), 1), max(round(size_hw[1] * factor), 1))
    top, left = _corner_near(_some_pixel(example.masks_NHW, size_hw, rng), window_hw, size_hw, rng)
    return _resized(_cut(example, top, left, window_hw), (size_hw[0], size_hw[1]))


def tight_boxes(masks_NHW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(N, 4) the smallest boxes around the masks, x2 and y2 exclusive; all zeros for an empty mask."""
    columns_NW, rows_NH = np.asarray(masks_NHW.any(axis=1)), np.asarray(masks_NHW.any(axis=2))
    boxes_xyxy = np.zeros((len(masks_NHW), 4), np.float32)
    for low, along_NL in ((0, columns_NW), (1, rows_NH)):
        boxes_xyxy[:, low] = along_NL.argmax(axis=1)
        boxes_xyxy[:, low + 2] = along_NL.shape[1] - along_NL[:, ::-1].argmax(axis=1)
    boxes_xyxy[~columns_NW.any(axis=1)] = 0
    return boxes_xyxy


def is_tight(example: Example) -> NDArray[np.bool_]:
    """(N,) whether each box is within a pixel of the smallest one around its mask."""
    off_N4 = np.abs(tight_boxes(example.masks_NHW) - example.boxes_xyxy)
    return np.asarray(off_N4.max(axis=1, initial=0) <= 1)


def _mirrored(example: Example, *, axis: int) -> Example:
    """Axis 0 turns upside down, 1 swaps left and right."""
    boxes_xyxy = example.boxes_xyxy.copy()
    low, high = 1 - axis, 3 - axis
    boxes_xyxy[:, [low, high]] = example.ignore_HW.shape[axis] - boxes_xyxy[:, [high, low]]
    return replace(
        example,
        image_HWC=np.ascontiguousarray(np.flip(example.image_HWC, axis)),
        masks_NHW=np.ascontiguousarray(np.flip(example.masks_NHW, axis + 1)),
        ignore_HW=np.ascontiguousarray(np.flip(example.ignore_HW, axis)),
        boxes_xyxy=boxes_xyxy,
    )


def _transposed(example: Example) -> Example:
    return replace(
        example,
        image_HWC=np.ascontiguousarray(example.image_HWC.swapaxes(0, 1)),
        masks_NHW=np.ascontiguousarray(example.masks_NHW.swapaxes(1, 2)),
        ignore_HW=np.ascontiguousarray(example.ignore_HW.T),
        boxes_xyxy=example.boxes_xyxy[:, [1, 0, 3, 2]],
    )


def _resized(example: Example, size_hw: tuple[int, int]) -> Example:
    height, width = example.ignore_HW.shape
    shrinks = size_hw[0] < height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image_HWC: ImageHWC = cv2.resize(example.image_HWC, (size_hw[1], size_hw[0]), interpolation=interpolation)  # type: ignore[assignment]
    masks_NHW = np.zeros((len(example.masks_NHW), *size_hw), np.bool_)
    for index, mask_HW in enumerate(example.masks_NHW):
        masks_NHW[index] = masks.resize(mask_HW, size_hw)
    factor = np.array([size_hw[1] / width, size_hw[0] / height] * 2, np.float32)
    # A box that was tight stays tight, to the pixel; one that was annotated wider or narrower is scaled.
    boxes_xyxy = np.where(is_tight(example)[:, None], tight_boxes(masks_NHW), example.boxes_xyxy * factor)
    return replace(
        example,
        image_HWC=image_HWC,
        masks_NHW=masks_NHW,
        boxes_xyxy=boxes_xyxy.astype(np.float32),
        ignore_HW=masks.resize(example.ignore_HW, size_hw),
    )


def _cut(example: Example, top: int, left: int, window_hw: tuple[int, int]) -> Example:
    rows, columns = slice(top, top + window_hw[0]), slice(left, left + window_hw[1])
    masks_NHW = example.masks_NHW[:, rows, columns]
    area_N, area_before_N = masks_NHW.sum(axis=(1, 2)), example.masks_NHW.sum(axis=(1, 2))
    kept = area_N > 0
    boxes_xyxy = example.boxes_xyxy - np.array([left, top] * 2, np.float32)
    cut_N = area_N < area_before_N
    boxes_xyxy[cut_N] = tight_boxes(masks_NHW[cut_N])  # a cut object gets the box one would draw now
    inside = np.clip(boxes_xyxy, 0, np.array([window_hw[1], window_hw[0]] * 2, np.float32))
    return replace(
        example,
        image_HWC=np.ascontiguousarray(example.image_HWC[rows, columns]),
        masks_NHW=np.ascontiguousarray(masks_NHW[kept]),
        ignore_HW=np.ascontiguousarray(example.ignore_HW[rows, columns]),
        boxes_xyxy=inside[kept],
        labels=example.labels[kept],
        scores=example.scores[kept],
    )


def _some_pixel(masks_NHW: NDArray[np.bool_], size_hw: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int]:
    """A pixel of a random object, so that small objects are seen as often as large ones; any pixel without objects."""
    if len(masks_NHW):
        found = np.flatnonzero(masks_NHW[rng.integers(len(masks_NHW))])
        if len(found):
            y, x = divmod(int(rng.choice(found)), size_hw[1])
            return y, x
    return int(rng.integers(size_hw[0])), int(rng.integers(size_hw[1]))


def _corner_near(
    pixel_yx: tuple[int, int], window_hw: tuple[int, int], size_hw: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, int]:
    """The top left corner of a random window inside the image that holds the pixel."""
    corner = []
    for position, window, size in zip(pixel_yx, window_hw, size_hw, strict=True):
        low, high = max(position - window + 1, 0), min(position, size - window)
        corner.append(int(rng.integers(low, high + 1)))
    return corner[0], corner[1]
