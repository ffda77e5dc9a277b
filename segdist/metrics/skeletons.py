"""Metrics for thin structures: is the middle line of every crack, seam or wire there?"""

import numpy as np

from segdist.masks import Mask
from segdist.metrics.counting import Numbers, counter, divide, f_score, metric
from segdist.metrics.pair import Pair


def skeleton(mask_HW: Mask) -> Mask:
    """The middle line of a mask, one pixel wide (Zhang and Suen 1984)."""
    from skimage.morphology import (
        skeletonize,
    )  # here, because it brings scipy, and `segdist check` reads metrics' names

    return np.asarray(skeletonize(mask_HW)) if mask_HW.any() else mask_HW


@counter(4)
def skeleton_pixels(pair: Pair, label: str) -> tuple[int, int, int, int]:
    """Pixels of the found skeleton, those of them on the truth; of the true skeleton, those of them found."""
    region = pair.region(label)
    found_HW, true_HW = skeleton(region.guess_HW), skeleton(region.truth_HW)
    found_HW = found_HW & region.counts_HW
    right, met = int((found_HW & region.truth_HW).sum()), int((true_HW & region.guess_HW).sum())
    return int(found_HW.sum()), right, int(true_HW.sum()), met


@metric(skeleton_pixels)
def skeleton_recall(found: Numbers, right: Numbers, true: Numbers, met: Numbers) -> Numbers:  # noqa: ARG001
    """Share of the true skeleton that was found: topology sensitivity (Shit et al. 2021, equation 1)."""
    return divide(met, true)


@metric(skeleton_pixels)
def cldice(found: Numbers, right: Numbers, true: Numbers, met: Numbers) -> Numbers:
    """Centre-line Dice (Shit et al. 2021, equation 2): harmonic mean of skeleton precision and recall."""
    return f_score(right, found, met, true)
