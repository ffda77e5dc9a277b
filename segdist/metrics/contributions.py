"""What each image does for the score of one model, so that two models can be compared image by image afterwards."""

from dataclasses import dataclass

import numpy as np

from segdist.metrics.consistency import RESAMPLES
from segdist.metrics.counting import Numbers
from segdist.metrics.difference import image_weights
from segdist.metrics.evaluator import Evaluator


@dataclass(frozen=True)
class Contributions:
    """One model on N images, by a metric that is a formula over sums.

    Of two models on the same images, `a.resampled_R - b.resampled_R` is the paired bootstrap of their difference, and
    `a.influence_N - b.influence_N` what each image does for it.

    Attributes:
        overall: the metric over all images; NaN where undefined.
        single_N: the metric of each image alone; NaN where undefined.
        influence_N: what the metric over all images is higher by for the image being among them: the metric of all
            less that of all others (the jackknife's influence; Efron and Tibshirani 1993, chapter 11). NaN where the
            others alone leave it undefined.
        resampled_R: the metric of R resamplings of the images, the same ones for every model of the same seed.
    """

    overall: float
    single_N: Numbers
    influence_N: Numbers
    resampled_R: Numbers


def contributions(
    evaluator: Evaluator, *, metric: str = "iou", seed: int = 0, resamples: int = RESAMPLES
) -> Contributions:
    """What each image that an evaluator saw does for its score.

    Args:
        evaluator: that saw the images.
        metric: its name; a formula over sums.
        seed: of the resampling; with that of `difference` the images are drawn alike.
        resamples: how many.
    """
    what = evaluator.metric(metric)
    table = evaluator.table(what)
    total = table.sum(axis=0)
    overall = what.overall(total)
    images = len(table)
    weights_RN = image_weights(images, np.random.default_rng(seed), resamples) if images else np.zeros((0, 0))
    return Contributions(
        float(overall),
        what.overall(table),
        overall - what.overall(total - table),
        what.overall(np.tensordot(weights_RN, table, axes=1)),
    )
