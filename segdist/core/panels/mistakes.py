"""Where a prediction is wrong, and where its edges bleed."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.panels.drawing import CROWD, ImageHWC, Rgb, mask_at
from segdist.core.records import Instance, Sample

ERRORS: dict[str, Rgb] = {
    "missed": (0, 114, 178),
    "invented": (213, 94, 0),
    "taken for another class": (204, 121, 167),
}
"""Colours of the error view; each is far from the grey image for every common colour blindness."""
BLEED = 0.02
"""Distance of boundaries, as a share of the longest side, from which on they are shown in full colour."""
EDGES: dict[str, Rgb] = {"edge too far out": (200, 30, 30), "edge too far in": (0, 90, 200)}
"""Colours of the edge view."""


def errors(image_HWC: ImageHWC, truth: Sample, found: Sequence[Instance]) -> ImageHWC:
    """The image in grey, with what was missed, what was invented, and what was taken for another class.

    Pixels of crowds and of boxes without a mask are grey: nobody knows what is right there.

    Args:
        image_HWC: RGB, at any scale.
        truth: the sample, at its own size.
        found: predicted instances.
    """
    size_hw = image_HWC.shape[:2]
    known = [i for i in truth.instances if i.mask is not None and not i.is_crowd]
    nothing_HW = np.zeros(size_hw, np.bool_)
    missed_HW, invented_HW, true_HW, unknown_HW = (nothing_HW.copy() for _ in range(4))
    for name in {i.label for i in (*known, *found)}:
        class_HW, guess_HW = (_covered(part, name, truth.size_hw, size_hw) for part in (known, found))
        missed_HW |= class_HW & ~guess_HW
        invented_HW |= guess_HW & ~class_HW
        true_HW |= class_HW
    for instance in truth.instances:
        if instance.mask is None or instance.is_crowd:
            unknown_HW |= mask_at(instance, truth.size_hw, size_hw)
    picture = _greyed(image_HWC)
    picture[missed_HW] = ERRORS["missed"]
    picture[invented_HW] = ERRORS["invented"]
    picture[missed_HW & invented_HW] = ERRORS["taken for another class"]
    picture[unknown_HW & ~true_HW] = CROWD
    return picture


def edge_bleed(image_HWC: ImageHWC, truth: Sample, found: Sequence[Instance]) -> ImageHWC:
    """The image in grey, with every predicted boundary in the colour of its signed distance to the true one.

    Red lies outside the true object, blue inside it, white on the edge; the colour is full from `BLEED` of the longest
    side on. Classes are looked at one by one.
    """
    size_hw = image_HWC.shape[:2]
    picture = _greyed(image_HWC)
    reach = max(1.0, BLEED * max(size_hw))
    known = [i for i in truth.instances if i.mask is not None and not i.is_crowd]
    outside, inside = (np.array(shade, np.float64) for shade in EDGES.values())
    for name in sorted({i.label for i in found}):
        true_HW, guess_HW = (_covered(part, name, truth.size_hw, size_hw) for part in (known, found))
        inner_HW = cv2.erode(guess_HW.view(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
        edge_HW = cv2.dilate((guess_HW & ~inner_HW).view(np.uint8), np.ones((2, 2), np.uint8)).astype(np.bool_)
        share_N1 = np.clip(signed_distance(true_HW) / reach, -1, 1)[edge_HW, None]
        shades_N3 = np.where(share_N1 > 0, outside, inside)
        picture[edge_HW] = (np.abs(share_N1) * shades_N3 + (1 - np.abs(share_N1)) * 255).astype(np.uint8)
    return picture


def signed_distance(mask_HW: masks.Mask) -> NDArray[np.float32]:
    """Pixels to the edge of a mask: above zero outside, below zero inside; infinite where there is no mask."""
    if not mask_HW.any():
        return np.full(mask_HW.shape, np.inf, np.float32)
    outside, inside = (
        cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for m in (~mask_HW, mask_HW)
    )
    return np.asarray(np.where(mask_HW, 1 - inside, outside), np.float32)


def _covered(instances: Sequence[Instance], label: str, own_hw: tuple[int, int], size_hw: Sequence[int]) -> masks.Mask:
    """All pixels of a class."""
    covered_HW = np.zeros((size_hw[0], size_hw[1]), np.bool_)
    for instance in instances:
        if instance.label == label and instance.mask is not None:
            covered_HW |= mask_at(instance, own_hw, size_hw)
    return covered_HW


def _greyed(image_HWC: ImageHWC) -> ImageHWC:
    """Without colour and paler, so that what is drawn on it stands out."""
    grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    return np.repeat((grey_HW[..., None] * 0.5 + 115).astype(np.uint8), 3, axis=2)
