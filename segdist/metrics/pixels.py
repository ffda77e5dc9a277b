"""Metrics on pixels: the instances of a class are united to one mask an image; how a region was split plays no part."""

import numpy as np

from segdist.core import masks
from segdist.metrics.counting import Numbers, counter, divide, metric
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Shown


@counter(3)
def pixels(pair: Pair, label: str) -> tuple[int, int, int]:
    """True, found, and both at once; on run lengths."""
    truth, guess = pair.rles(label)
    return truth.area, guess.area - pair.void_area(guess), masks.intersection_area(truth, guess)


@metric(pixels, shown=Shown("IoU", places=("leaderboard", "card", "classes", "study", "images", "spread", "intervals")))
def iou(true: Numbers, found: Numbers, common: Numbers) -> Numbers:
    """Intersection over union, both summed over the images; the mean over classes is the mIoU.

    A class that is neither in the truth nor predicted in any image is NaN and left out of the mean; a class that is
    only predicted is 0.
    """
    return divide(common, true + found - common)


@metric(pixels, shown=Shown("Dice", places=("leaderboard", "card", "classes", "study", "images", "spread")))
def dice(true: Numbers, found: Numbers, common: Numbers) -> Numbers:
    """Twice the intersection over the sum of areas (Dice 1945), summed over the images."""
    return divide(2 * common, true + found)


@metric(pixels)
def accuracy(true: Numbers, found: Numbers, common: Numbers) -> Numbers:  # noqa: ARG001 - a formula takes all sums
    """Share of a class's pixels that were found; the mean over classes is the mAcc (Long et al. 2015)."""
    return divide(common, true)


@counter(2, of_class=False)
def labelled_pixels(pair: Pair, label: str) -> tuple[int, int]:  # noqa: ARG001 - counted once for all classes
    """Pixels whose truth is known, and those of them at which exactly the true classes were found."""
    known = pair.size_hw[0] * pair.size_hw[1] - (pair.void.area if pair.void is not None else 0)
    whole = masks.tight_cut(*(rle for name in pair.labels for rle in pair.rles(name)))
    wrong_HW = np.zeros([part.stop - part.start for part in whole], np.bool_)
    for name in pair.labels:
        cut = masks.tight_cut(*pair.rles(name))
        truth_HW, guess_HW = (masks.decode_cut(rle, cut) for rle in pair.rles(name))
        inside = tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(cut, whole, strict=True))
        wrong_HW[inside] |= truth_HW ^ guess_HW
    if pair.void is not None:
        wrong_HW &= ~masks.decode_cut(pair.void, whole)
    return known, known - int(np.count_nonzero(wrong_HW))


@metric(labelled_pixels)
def pixel_accuracy(known: Numbers, right: Numbers) -> Numbers:
    """Share of the pixels at which exactly the true classes were found; background is a class of its own here.

    Where masks of several classes overlap, all of them must be found.
    """
    return divide(right, known)
