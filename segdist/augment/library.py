"""Augmentations by albumentations (Buslaev et al. 2020): weather, optics, compression, small rotations, perspective.

The package takes seconds to import, so it is imported by the first picture that needs it. It draws from a seed of its
own, which is drawn from ours. On import it would ask the network whether it is up to date; it is kept from that.
"""

import os
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from segdist.augment.geometry import tight_boxes
from segdist.augment.steps import augmentation
from segdist.core.plugins import Example

if TYPE_CHECKING:
    import albumentations

_LIGHT: dict[str, tuple[str, dict[str, object]]] = {
    "gamma": ("RandomGamma", {"gamma_limit": (70, 140)}),
    "hue": ("HueSaturationValue", {"hue_shift_limit": 8, "sat_shift_limit": 25, "val_shift_limit": 0}),
    "shadow": ("RandomShadow", {"num_shadows_limit": (1, 2), "shadow_intensity_range": (0.25, 0.5)}),
    "compression": ("ImageCompression", {"quality_range": (35, 90)}),
    "motion_blur": ("MotionBlur", {"blur_limit": (3, 5)}),
    "local_contrast": ("CLAHE", {"clip_limit": (1.0, 3.0)}),
}
_LINEAR = {"interpolation": cv2.INTER_LINEAR, "mask_interpolation": cv2.INTER_LINEAR, "fill": 0, "fill_mask": 0}
_SHAPE: dict[str, tuple[str, dict[str, object]]] = {
    "rotate": ("Affine", {"rotate": (-12, 12), "shear": (-4, 4), "scale": (0.95, 1.1), **_LINEAR}),
    "perspective": ("Perspective", {"scale": (0.02, 0.08), **_LINEAR}),
}
_COVERED = 85
"""A pixel belongs to a warped mask where a third of it is covered: with a half, lines of one pixel would break."""


@augmentation
def gamma(example: Example, rng: np.random.Generator) -> Example:
    """Mid tones darker or lighter, black and white as they are."""
    return _relit(example, rng, "gamma")


@augmentation
def hue(example: Example, rng: np.random.Generator) -> Example:
    """Other hues by up to 16 degrees, paler or stronger colours."""
    return _relit(example, rng, "hue")


@augmentation
def shadow(example: Example, rng: np.random.Generator) -> Example:
    """One or two cast shadows."""
    return _relit(example, rng, "shadow")


@augmentation
def compression(example: Example, rng: np.random.Generator) -> Example:
    """Blocks and ringing of a JPEG of quality 35 to 90."""
    return _relit(example, rng, "compression")


@augmentation
def motion_blur(example: Example, rng: np.random.Generator) -> Example:
    """A moving camera: three to five pixels."""
    return _relit(example, rng, "motion_blur")


@augmentation
def local_contrast(example: Example, rng: np.random.Generator) -> Example:
    """Contrast raised in each part of the picture (CLAHE, Zuiderveld 1994)."""
    return _relit(example, rng, "local_contrast")


@augmentation
def rotate(example: Example, rng: np.random.Generator) -> Example:
    """Rotated by up to 12 degrees, a little sheared and scaled; what comes in from outside is black and ignored."""
    return _warped(example, rng, "rotate")


@augmentation
def perspective(example: Example, rng: np.random.Generator) -> Example:
    """Seen a little from the side; what comes in from outside is black and ignored."""
    return _warped(example, rng, "perspective")


def _relit(example: Example, rng: np.random.Generator, name: str) -> Example:
    return replace(example, image_HWC=_drawn(*_LIGHT[name], rng)(image=example.image_HWC)["image"])


def _warped(example: Example, rng: np.random.Generator, name: str) -> Example:
    seen_HW = np.ones(example.ignore_HW.shape, np.bool_)
    stack_NHW = np.concatenate([example.masks_NHW, example.ignore_HW[None], seen_HW[None]])
    shown = _drawn(*_SHAPE[name], rng)(image=example.image_HWC, masks=list(stack_NHW.astype(np.uint8) * 255))
    cover_NHW = np.stack(shown["masks"])
    *_, ignore_HW, seen_HW = cover_NHW >= _COVERED
    masks_NHW = cover_NHW[:-2] >= _COVERED
    kept_N = masks_NHW.any(axis=(1, 2))
    return replace(
        example,
        image_HWC=shown["image"],
        masks_NHW=masks_NHW[kept_N],
        boxes_xyxy=tight_boxes(masks_NHW[kept_N]),
        labels=example.labels[kept_N],
        scores=example.scores[kept_N],
        ignore_HW=ignore_HW | ~seen_HW,
    )


def _drawn(name: str, options: dict[str, object], rng: np.random.Generator) -> "albumentations.Compose":
    """A transform that draws from a seed of ours."""
    transform = _transform(name, tuple(sorted(options.items())))
    transform.set_random_seed(int(rng.integers(1 << 31)))
    return transform


@cache
def _transform(name: str, options: tuple[tuple[str, object], ...]) -> "albumentations.Compose":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations.Compose([getattr(albumentations, name)(p=1.0, **dict(options))])
