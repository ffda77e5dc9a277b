"""Augmentations: one function each over an `Example`, found by name.

Every function takes the example and the generator it draws from, so that the same seed gives the same pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist import masks
from segdist.errors import SpecError, did_you_mean
from segdist.plugins import Example, ImageHWC

Augmentation = Callable[[Example, np.random.Generator], Example]
_FOUND: dict[str, Augmentation] = {}


def augmentation(function: Augmentation) -> Augmentation:
    """Makes a function available to `train.augment` under its name."""
    _FOUND[function.__name__] = function
    return function


def augmentations(names: Sequence[str]) -> list[Augmentation]:
    """The augmentations of these names, in this order.

    Raises:
        SpecError: there is no augmentation of a name.
    """
    for name in names:
        if name not in _FOUND:
            raise SpecError(f"There is no augmentation `{name}`. {did_you_mean(name, _FOUND)}")
    return [_FOUND[name] for name in names]


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
    """A turn of 0 or 90 degrees; with the flips, all eight orientations."""
    return _transposed(_mirrored(example, axis=1)) if rng.random() < 0.5 else example


@augmentation
def brightness(example: Example, rng: np.random.Generator) -> Example:
    """Light from 0.7 to 1.3 times as bright."""
    return _recoloured(example, example.image_HWC * rng.uniform(0.7, 1.3))


@augmentation
def contrast(example: Example, rng: np.random.Generator) -> Example:
    """Differences from the mean grow or shrink by up to 0.3."""
    mean = example.image_HWC.mean()
    return _recoloured(example, mean + (example.image_HWC - mean) * rng.uniform(0.7, 1.3))


@augmentation
def colour(example: Example, rng: np.random.Generator) -> Example:
    """Each channel 0.85 to 1.15 times as strong: another lamp, another camera."""
    return _recoloured(example, example.image_HWC * rng.uniform(0.85, 1.15, size=3))


@augmentation
def blur(example: Example, rng: np.random.Generator) -> Example:
    """A Gaussian of up to one pixel: more would wipe out thin structures that the mask still shows."""
    sigma = rng.uniform(0.05, 1.0)
    return _recoloured(example, cv2.GaussianBlur(example.image_HWC, (0, 0), sigma))


@augmentation
def noise(example: Example, rng: np.random.Generator) -> Example:
    """Sensor noise with a deviation of up to 8 grey levels."""
    return _recoloured(example, example.image_HWC + rng.normal(0, rng.uniform(0, 8), example.image_HWC.shape))


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


def _recoloured(example: Example, image_HWC: NDArray[np.generic]) -> Example:
    return replace(example, image_HWC=np.clip(np.rint(image_HWC), 0, 255).astype(np.uint8))


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
    return replace(
        example,
        image_HWC=image_HWC,
        masks_NHW=masks_NHW,
        boxes_xyxy=example.boxes_xyxy * factor,
        ignore_HW=masks.resize(example.ignore_HW, size_hw),
    )


def _cut(example: Example, top: int, left: int, window_hw: tuple[int, int]) -> Example:
    rows, columns = slice(top, top + window_hw[0]), slice(left, left + window_hw[1])
    masks_NHW = example.masks_NHW[:, rows, columns]
    area_N, area_before_N = masks_NHW.sum(axis=(1, 2)), example.masks_NHW.sum(axis=(1, 2))
    kept = area_N > 0
    boxes_xyxy = example.boxes_xyxy - np.array([left, top] * 2, np.float32)
    for index in np.flatnonzero(kept & (area_N < area_before_N)):  # a cut object gets the box one would draw now
        boxes_xyxy[index] = masks.encode(masks_NHW[index]).box_xyxy
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
