"""Does a score of 0.8 mean right in eight of ten cases?

The event is that a found object matches a true one of its class with a mask IoU of 0.5 or more (COCO's matching). Every
found object counts whatever its score; those in crowds count neither way.
"""

import numpy as np

from segdist.metrics.counting import Numbers, counter, divide, metric
from segdist.metrics.matching import matches
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Shown

BINS = 15
"""Equal steps of the score, as Guo et al. (2017) have it."""


@counter(3 * BINS + 1)
def reliability(pair: Pair, label: str) -> Numbers:
    """For each bin of scores the number of objects, the sum of scores and that of hits; then the squared errors."""
    found = matches(pair, label, "mask")
    counts = ~found.ignored[0, 0]
    return outcomes(found.scores[counts], found.hit[0, 0][counts].astype(np.float64))


def outcomes(scores: Numbers, hits: Numbers) -> Numbers:
    """What `reliability` counts, from the score (0..1) of each object and whether it is right (0 or 1)."""
    bins = np.clip(np.ceil(scores * BINS).astype(int) - 1, 0, BINS - 1)
    sums = [np.bincount(bins, weights, BINS) for weights in (np.ones_like(scores), scores, hits)]
    return np.concatenate([*sums, [((scores - hits) ** 2).sum()]])


@metric(reliability, pooled=True, shown=Shown("calibration error", lower_is_better=True))
def calibration_error(*sums: Numbers) -> Numbers:
    """Expected calibration error (Guo et al. 2017): mean gap between score and precision over 15 bins, by weight."""
    count, scores, hits = (np.stack(sums[k * BINS : (k + 1) * BINS]) for k in range(3))
    return divide(np.abs(scores - hits).sum(axis=0), count.sum(axis=0))


@metric(reliability, pooled=True, shown=Shown("Brier score", lower_is_better=True))
def brier(*sums: Numbers) -> Numbers:
    """Brier score (1950): mean squared difference of score and outcome, 0 or 1."""
    return divide(sums[-1], np.stack(sums[:BINS]).sum(axis=0))
