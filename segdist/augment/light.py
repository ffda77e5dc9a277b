"""What light and camera do to a picture: brightness, contrast, colour, blur, noise. Masks and boxes stay."""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist.augment.steps import augmentation
from segdist.core.plugins import Example


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


def _recoloured(example: Example, image_HWC: NDArray[np.generic]) -> Example:
    return replace(example, image_HWC=np.clip(np.rint(image_HWC), 0, 255).astype(np.uint8))
