"""Steps that clean a mask, by name. Sizes are relative to the object, never to the image: thin cracks must survive."""

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.core.plugins import ImageHWC
from segdist.core.records import Rle
from segdist.core.spec import CleanStep, ClipToBox, FillHoles, Morphology, RemoveParts, Smooth, Snap
from segdist.reading.geometry import cut_out

Floats = NDArray[np.float32]
_MARGIN = 32
"""Pixels around a mask that steps look at: more than any sensible radius or window."""


def clean(rle: Rle, image_HWC: ImageHWC, box_xyxy: Sequence[float], steps: Sequence[CleanStep]) -> Rle:
    """The mask after all steps; a step that would leave nothing of it is passed over.

    Args:
        rle: the mask.
        image_HWC: the image, for steps that look at colours.
        box_xyxy: the annotated box.
        steps: in this order.
    """
    if not steps or not rle.area:
        return rle
    x1, y1, x2, y2 = rle.box_xyxy
    rows, columns = cut_out((x1 - _MARGIN, y1 - _MARGIN, x2 + _MARGIN, y2 + _MARGIN), rle.size_hw)
    cut_HW = masks.decode_cut(rle, (rows, columns))
    box = (box_xyxy[0] - columns.start, box_xyxy[1] - rows.start, box_xyxy[2] - columns.start, box_xyxy[3] - rows.start)
    for step in steps:
        cleaned_HW = _STEPS[step.name](cut_HW, image_HWC[rows, columns], box, getattr(step, step.name))
        cut_HW = cleaned_HW if cleaned_HW.any() else cut_HW
    whole_HW = np.zeros(rle.size_hw, np.bool_)
    whole_HW[rows, columns] = cut_HW
    return masks.encode(whole_HW)


def fill_holes(mask_HW: Mask, relative_area: float) -> Mask:
    """Holes of at most this share of the object's area become part of it; the frame of the array is no border."""
    labels_HW, areas = _parts(~mask_HW, connectivity=4)
    outside = set(np.unique(np.concatenate([labels_HW[0], labels_HW[-1], labels_HW[:, 0], labels_HW[:, -1]])))
    limit = relative_area * mask_HW.sum()
    holes = [k for k in range(1, len(areas)) if k not in outside and areas[k] <= limit]
    return mask_HW | np.isin(labels_HW, holes)


def remove_parts(mask_HW: Mask, relative_area: float) -> Mask:
    """Without the parts that have less than this share of the object's area; pixels that touch at a corner connect."""
    labels_HW, areas = _parts(mask_HW, connectivity=8)
    kept = [k for k in range(1, len(areas)) if areas[k] >= relative_area * areas[1:].sum()]
    return np.isin(labels_HW, kept)


def clip_to_box(mask_HW: Mask, box_xyxy: Sequence[float], margin: float) -> Mask:
    """Without what lies outside the box, widened by a share of its sides."""
    rows, columns = cut_out(box_xyxy, mask_HW.shape, margin=margin)
    clipped_HW = np.zeros_like(mask_HW)
    clipped_HW[rows, columns] = mask_HW[rows, columns]
    return clipped_HW


def smooth(mask_HW: Mask, sigma: float) -> Mask:
    """The pixels around which a Gaussian window is at least half full."""
    return np.asarray(cv2.GaussianBlur(mask_HW.astype(np.float32), (0, 0), sigma) >= 0.5)


def snap(mask_HW: Mask, image_HWC: ImageHWC, *, pixels: int, window: float) -> Mask:
    """Each pixel near the edge goes to the side whose mean colour (CIELAB) around it is nearer.

    One step of the local region-based active contour of Lankton and Tannenbaum (2008), equation 9, with Gaussian
    windows. What lies next to the mask, and may still belong to it, does not count as outside.
    """
    lab_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2LAB).astype(np.float32)
    square, set_HW = np.ones((3, 3), np.uint8), mask_HW.astype(np.uint8)
    wider_HW = cv2.dilate(set_HW, square, iterations=pixels)
    near_HW = wider_HW.astype(np.bool_) & ~cv2.erode(set_HW, square, iterations=pixels).astype(np.bool_)
    around_HW = cv2.dilate(set_HW, square, iterations=pixels + max(int(window / 2), 1))
    to_inside_HW, inside_HW = _colour_distance(lab_HWC, set_HW.astype(np.float32), window)
    beside_HW = (around_HW > 0) & (cv2.dilate(set_HW, square) == 0)
    to_outside_HW, outside_HW = _colour_distance(lab_HWC, beside_HW.astype(np.float32), window)
    known_HW = near_HW & (inside_HW > 1e-3) & (outside_HW > 1e-3)
    return np.where(known_HW, to_inside_HW < to_outside_HW, mask_HW)


def _colour_distance(lab_HWC: Floats, weight_HW: Floats, window: float) -> tuple[Floats, Floats]:
    """Squared distance of each pixel's colour to the weighted mean around it, and the weight there is around it."""
    there_HW = cv2.GaussianBlur(weight_HW, (0, 0), window)
    mean_HWC = cv2.GaussianBlur(lab_HWC * weight_HW[..., None], (0, 0), window) / (there_HW[..., None] + 1e-4)
    return ((lab_HWC - mean_HWC) ** 2).sum(axis=2), np.asarray(there_HW, np.float32)


def _morphology(kind: int, mask_HW: Mask, _image: object, _box: object, options: Morphology) -> Mask:
    reach = int(np.ceil(options.radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x**2 + y**2 <= options.radius**2).astype(np.uint8)
    padded = np.pad(mask_HW.astype(np.uint8), reach, mode="edge")  # the image's frame is no edge of the object
    return cv2.morphologyEx(padded, kind, disc)[reach:-reach, reach:-reach].astype(np.bool_)


def _parts(mask_HW: Mask, *, connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The number of each pixel's connected part, 0 where the mask is not set, and the area of each."""
    _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=connectivity)
    return np.asarray(labels_HW, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int32)


def _fill(mask_HW: Mask, _image: object, _box: object, options: FillHoles) -> Mask:
    return fill_holes(mask_HW, options.relative_area)


def _remove(mask_HW: Mask, _image: object, _box: object, options: RemoveParts) -> Mask:
    return remove_parts(mask_HW, options.relative_area)


def _clip(mask_HW: Mask, _image: object, box: Sequence[float], options: ClipToBox) -> Mask:
    return clip_to_box(mask_HW, box, options.margin)


def _smooth(mask_HW: Mask, _image: object, _box: object, options: Smooth) -> Mask:
    return smooth(mask_HW, options.sigma)


def _snap(mask_HW: Mask, image_HWC: ImageHWC, _box: object, options: Snap) -> Mask:
    return snap(mask_HW, image_HWC, pixels=options.pixels, window=options.window)


_STEPS: dict[str, Callable[..., Mask]] = {
    "fill_holes": _fill,
    "remove_parts": _remove,
    "clip_to_box": _clip,
    "open": partial(_morphology, cv2.MORPH_OPEN),
    "close": partial(_morphology, cv2.MORPH_CLOSE),
    "smooth": _smooth,
    "snap": _snap,
}
