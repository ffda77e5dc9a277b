"""Where an object is in its box, by classical means: a guess that needs no weights.

All functions take the RGB pixels of a box with some surroundings, and return a mask of the same height and width. Large
ones are looked at smaller, so that time and memory are bounded whatever the camera.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist.core.masks import Mask
from segdist.core.plugins import ImageHWC
from segdist.core.skeletons import skeleton

Corners = Sequence[float]
_LINE_WIDTHS = (5, 9, 17)
"""Sides in pixels of the squares that a line must be narrower than."""
_LARGEST_SIDE = 1024
"""Pixels of a picture; a larger one is looked at smaller, and its mask enlarged."""
_LEAST_GROUND = 8
"""Pixels of certain ground, below which the box is as good as the whole image."""


def line(image_HWC: ImageHWC) -> Mask:
    """The thin structure, dark or bright, that stands out most (black and white top-hat, threshold by Otsu 1979)."""
    return _enlarged(_split(_line_response(smaller(image_HWC))), image_HWC)


def blob(image_HWC: ImageHWC) -> Mask:
    """What differs in colour from the border of the picture (threshold by Otsu 1979)."""
    return _enlarged(_split(_distance_from_border(smaller(image_HWC))), image_HWC)


def grabcut(image_HWC: ImageHWC, kinds_HW: NDArray[np.uint8], iterations: int) -> Mask | None:
    """Colours of the object against colours of the ground (Rother et al. 2004), the same for the same question.

    Args:
        image_HWC: RGB, contiguous.
        kinds_HW: `cv2.GC_*` of each pixel, what is known and what is guessed; it may be changed.
        iterations: at least one.

    Returns:
        The mask; None where hardly a pixel is ground for certain, so that there is nothing to compare with.
    """
    seen_HWC, kinds_HW = smaller(image_HWC), smaller(kinds_HW, by=cv2.INTER_NEAREST)
    if (kinds_HW == cv2.GC_BGD).sum() < _LEAST_GROUND:
        return None
    cv2.setRNGSeed(0)  # GrabCut starts from random clusters
    models = np.zeros((1, 65), np.float64), np.zeros((1, 65), np.float64)
    nowhere = (0, 0, 0, 0)  # the kinds say where the object may be
    cv2.grabCut(seen_HWC, kinds_HW, nowhere, *models, iterations, cv2.GC_INIT_WITH_MASK)
    return _enlarged(np.isin(kinds_HW, (cv2.GC_FGD, cv2.GC_PR_FGD)), image_HWC)


def foreground(image_HWC: ImageHWC) -> Mask:
    """`line` where a thin structure stands out, otherwise `blob`."""
    seen_HWC = smaller(image_HWC)
    of_line_HW, of_blob_HW = _line_response(seen_HWC), _distance_from_border(seen_HWC)
    found_HW = _split(of_line_HW if _separation(of_line_HW) > _separation(of_blob_HW) else of_blob_HW)
    return _enlarged(found_HW, image_HWC)


def stands_out_as_line(image_HWC: ImageHWC) -> bool:
    """Whether a thin structure explains more than a difference to the border does."""
    seen_HWC = smaller(image_HWC)
    return _separation(_line_response(seen_HWC)) > _separation(_distance_from_border(seen_HWC))


def middle_points(mask_HW: Mask, count: int) -> list[tuple[float, float]]:
    """At most `count` points (x, y), pixel centres on the skeleton of the largest part, far from each other."""
    labels_HW = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=8)
    if labels_HW[0] < 2:
        return []
    largest = 1 + int(np.argmax(labels_HW[2][1:, cv2.CC_STAT_AREA]))
    largest_HW = labels_HW[1] == largest
    ys, xs = np.nonzero(skeleton(largest_HW))
    points = np.stack([xs, ys], 1).astype(np.float64)
    depth = cv2.distanceTransform(np.pad(largest_HW.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1][ys, xs]
    chosen = [int(depth.argmax())]  # the surest first: the deepest inside
    apart = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [(float(x) + 0.5, float(y) + 0.5) for x, y in points[chosen]]


def smaller(values: NDArray[np.uint8], *, by: int = cv2.INTER_AREA) -> NDArray[np.uint8]:
    """A picture, or a map of the same shape, with at most `_LARGEST_SIDE` pixels a side; as it is where it has fewer.

    Args:
        values: (H, W) or (H, W, 3).
        by: `cv2.INTER_*`.
    """
    height, width = values.shape[:2]
    factor = _LARGEST_SIDE / max(height, width)
    if factor >= 1:
        return values
    size_wh = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(values, size_wh, interpolation=by), np.uint8)


def _enlarged(mask_HW: Mask, like: ImageHWC) -> Mask:
    """The mask of `smaller(like)` as one of `like`."""
    height, width = like.shape[:2]
    if mask_HW.shape == (height, width):
        return mask_HW
    return np.asarray(cv2.resize(mask_HW.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR) > 127)


def _line_response(image_HWC: ImageHWC) -> NDArray[np.uint8]:
    """How much darker, or brighter, each pixel is than what lies beside it; of both the one with the stronger peaks."""
    grey_HW = cv2.GaussianBlur(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), (3, 3), 0)
    responses = []
    for kind in (cv2.MORPH_BLACKHAT, cv2.MORPH_TOPHAT):
        shapes = [cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)) for side in _LINE_WIDTHS]
        responses.append(np.max([cv2.morphologyEx(grey_HW, kind, shape) for shape in shapes], axis=0))
    return np.asarray(max(responses, key=lambda r: float(np.percentile(r, 95)) - float(np.median(r))), np.uint8)


def _distance_from_border(image_HWC: ImageHWC) -> NDArray[np.uint8]:
    lab_HWC = cv2.cvtColor(cv2.GaussianBlur(image_HWC, (3, 3), 0), cv2.COLOR_RGB2LAB).astype(np.float32)
    border = np.concatenate([lab_HWC[0], lab_HWC[-1], lab_HWC[:, 0], lab_HWC[:, -1]])
    distance_HW = np.linalg.norm(lab_HWC - np.median(border, axis=0), axis=2)
    return distance_HW.clip(0, 255).astype(np.uint8)


def _split(values_HW: NDArray[np.uint8]) -> Mask:
    threshold, _ = cv2.threshold(values_HW, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray(values_HW > threshold)


def _separation(values_HW: NDArray[np.uint8]) -> float:
    """Share of the variance that the two sides of Otsu's threshold explain, 0..1."""
    inside_HW = _split(values_HW)
    whole = float(values_HW.var())
    if not whole or inside_HW.all() or not inside_HW.any():
        return 0.0
    share = float(inside_HW.mean())
    gap = float(values_HW[inside_HW].mean()) - float(values_HW[~inside_HW].mean())
    return share * (1 - share) * gap**2 / whole
