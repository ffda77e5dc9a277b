"""Metrics for thin structures: is the skeleton of every crack, seam or wire there?"""

import numpy as np

from segdist.core.skeletons import skeleton
from segdist.metrics.counting import Numbers, counter, divide, f_score, metric
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Shown


@counter(4)
def skeleton_pixels(pair: Pair, label: str) -> tuple[int, int, int, int]:
    """Pixels of the found skeleton, those of them on the truth; of the true skeleton, those of them found."""
    region = pair.region(label)
    # Both at once, one above the other: their margins keep them apart, and it takes half as many steps.
    found_HW, true_HW = np.split(skeleton(np.concatenate([region.guess_HW, region.truth_HW])), 2)
    found_HW = found_HW & region.counts_HW
    right_HW, met_HW = found_HW & region.truth_HW, true_HW & region.guess_HW
    found, right, true, met = (int(np.count_nonzero(m)) for m in (found_HW, right_HW, true_HW, met_HW))
    return found, right, true, met


@metric(skeleton_pixels)
def skeleton_recall(found: Numbers, right: Numbers, true: Numbers, met: Numbers) -> Numbers:  # noqa: ARG001
    """Share of the true skeleton that was found: topology sensitivity (Shit et al. 2021, equation 1)."""
    return divide(met, true)


@metric(skeleton_pixels, shown=Shown("clDice", places=("leaderboard", "classes", "images")))
def cldice(found: Numbers, right: Numbers, true: Numbers, met: Numbers) -> Numbers:
    """Centre-line Dice (Shit et al. 2021, equation 2): harmonic mean of skeleton precision and recall."""
    return f_score(right, found, met, true)
