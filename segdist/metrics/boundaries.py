"""Metrics on boundaries.

The boundary of a mask is what a 3x3 erosion takes away (a band, for boundary IoU) or its pixels with one of the four
neighbours outside (a line, for distances). The frame of the image counts as outside, as in Cheng et al. (2021).
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist.core.masks import Mask
from segdist.metrics.counting import Numbers, counter, divide, f_score, metric
from segdist.metrics.pair import Pair, Region
from segdist.metrics.shown import Shown

TOLERANCES = (1, 2, 3)
"""Pixels by which a boundary may be off in the boundary F-scores."""


def band(mask_HW: Mask, pixels: int) -> Mask:
    """The pixels of a mask that `pixels` erosions with a 3x3 square take away.

    Args:
        mask_HW: with a margin of at least one unset pixel where the image ends.
        pixels: width of the band.
    """
    inner_HW = cv2.erode(mask_HW.view(np.uint8), np.ones((3, 3), np.uint8), iterations=pixels)
    return mask_HW & ~inner_HW.astype(np.bool_)


def line(mask_HW: Mask) -> Mask:
    """The pixels of a mask, given with a margin, that have one of the four neighbours outside it."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return mask_HW & ~cv2.erode(mask_HW.view(np.uint8), cross).astype(np.bool_)


def distances(line_HW: Mask) -> NDArray[np.float32]:
    """The exact Euclidean distance of every pixel to the nearest one set; there must be one."""
    return np.asarray(cv2.distanceTransform((~line_HW).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


@counter(3)
def bands(pair: Pair, label: str) -> tuple[int, int, int]:
    """Pixels of the true band, of the found one, and of both at once."""
    region, width = pair.region(label), pair.boundary_pixels()
    truth_HW = band(region.truth_HW, width)
    guess_HW = band(region.guess_HW, width) & region.counts_HW
    true, found, common = (int(np.count_nonzero(m)) for m in (truth_HW, guess_HW, truth_HW & guess_HW))
    return true, found, common


@metric(bands, shown=Shown("boundary IoU", places=("leaderboard", "card", "classes", "images", "intervals")))
def boundary_iou(true: Numbers, found: Numbers, common: Numbers) -> Numbers:
    """Boundary IoU (Cheng et al. 2021): IoU of the bands along the boundaries, summed over the images like `iou`."""
    return divide(common, true + found - common)


@counter(2 + 2 * len(TOLERANCES))
def near_pixels(pair: Pair, label: str) -> list[float]:
    """Lengths of both lines in pixels; then for each tolerance, how much of each lies near the other."""
    lengths, found_apart, true_apart = _apart(pair.region(label))
    near = [[int((found_apart <= t).sum()), int((true_apart <= t).sum())] for t in TOLERANCES]
    return [*lengths, *(n for pair_ in near for n in pair_)]


@metric(near_pixels, shown=Shown("boundary F at 1 px"))
def boundary_f_1px(found: Numbers, true: Numbers, right: Numbers, met: Numbers, *_: Numbers) -> Numbers:
    """Boundary F-score (Csurka et al. 2013): boundaries at most 1 pixel apart."""
    return f_score(right, found, met, true)


@metric(near_pixels, shown=Shown("boundary F at 2 px", places=("card",)))
def boundary_f_2px(found: Numbers, true: Numbers, *near: Numbers) -> Numbers:
    """Boundary F-score (Csurka et al. 2013): boundaries at most 2 pixels apart."""
    return f_score(near[2], found, near[3], true)


@metric(near_pixels, shown=Shown("boundary F at 3 px"))
def boundary_f_3px(found: Numbers, true: Numbers, *near: Numbers) -> Numbers:
    """Boundary F-score (Csurka et al. 2013): boundaries at most 3 pixels apart."""
    return f_score(near[4], found, near[5], true)


@counter(2)
def hausdorff_pixels(pair: Pair, label: str) -> tuple[float, int]:
    """The distance in one image, and 1; an object that is missed or invented is an image's diagonal away."""
    region = pair.region(label)
    (found, true), found_apart, true_apart = _apart(region)
    if found and true:
        return max(float(np.percentile(d.astype(np.float64), 95)) for d in (found_apart, true_apart)), 1
    return (region.diagonal, 1) if found or true else (0.0, 0)


@metric(hausdorff_pixels, shown=Shown("Hausdorff 95 %", unit="px", digits=1, lower_is_better=True, places=("card",)))
def hausdorff_95(total: Numbers, images: Numbers) -> Numbers:
    """Hausdorff distance in pixels at the 95th percentile (Huttenlocher et al. 1993), mean over the images.

    The larger of the two directed distances between boundaries. A class that is only true or only found in an image
    counts there with the image's diagonal; images without it do not count.
    """
    return divide(total, images)


@lru_cache(maxsize=1)  # two counters ask for the same one after the other
def _apart(region: Region) -> tuple[tuple[int, int], NDArray[np.float32], NDArray[np.float32]]:
    """Lengths of the found and the true line, and the distance of each of their pixels to the other line."""
    found_HW, true_HW = line(region.guess_HW) & region.counts_HW, line(region.truth_HW)
    lengths = int(np.count_nonzero(found_HW)), int(np.count_nonzero(true_HW))
    if not all(lengths):
        far = [np.full(n, np.inf, np.float32) for n in lengths]
        return lengths, far[0], far[1]
    return lengths, distances(true_HW)[found_HW], distances(found_HW)[true_HW]
