"""Which of several configurations is the best, where each was trained with one or more seeds? Images and seeds vary.

A model that is trained again with another seed scores differently, often by more than configurations differ: what one
training each says about two configurations is said about two draws (Bouthillier et al. 2021, "Accounting for Variance
in Machine Learning Benchmarks"). So both are resampled: the images once for all models, which makes the comparison
paired, and within each configuration its seeds (a hierarchical bootstrap; Efron and Tibshirani 1993, chapter 8).

Of `n` seeds `n - 1` are drawn, with replacement: with so few, drawing `n` would make the variance of a mean too small
by `(n - 1) / n` (Rao and Wu 1988). Still few seeds prove little: of two equal configurations with three seeds each, one
is called better in 14 % of cases instead of 5 %, in 21 % if `n` were drawn, with ten in 6 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segdist.metrics.consistency import RESAMPLES
from segdist.metrics.counting import Numbers
from segdist.metrics.difference import TIE, image_weights, percentiles
from segdist.metrics.evaluator import Evaluator


@dataclass(frozen=True)
class Ranking:
    """Several configurations on the same images.

    Attributes:
        chances: how likely each is the best: the share of resamplings in which its mean over seeds leads; those that
            lead together share a resampling.
        gaps: for each but the first, what the mean of the first is better by in 95 of 100 resamplings (of an error or
            distance what it is lower by); None for fewer than two images, or where the metric is always undefined.
    """

    chances: tuple[float, ...]
    gaps: tuple[tuple[float, float] | None, ...]

    @property
    def close(self) -> tuple[int, ...]:
        """The places, from 1, of those from which the first cannot be told apart as the better one."""
        return tuple(place for place, gap in enumerate(self.gaps, 1) if gap is None or gap[0] <= 0)


def ranking(
    configurations: Sequence[Sequence[Evaluator]], *, metric: str = "iou", seed: int = 0, resamples: int = RESAMPLES
) -> Ranking:
    """Compare configurations; with one seed each, by images alone.

    Args:
        configurations: of each one evaluator a seed; all saw the same images in the same order.
        metric: a formula over sums, which every evaluator knows.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: the images or classes are not the same.
    """
    every = [evaluator for seeds in configurations for evaluator in seeds]
    if len({(e.classes, tuple(image.image_id for image in e.seen)) for e in every}) > 1:
        raise ValueError("models are compared on the same images and classes in the same order, but these differ")
    what = every[0].metric(metric)
    sign = -1 if what.shown.lower_is_better else 1
    rng = np.random.default_rng(seed)
    weights_RI = image_weights(len(every[0].seen), rng, resamples)
    means_CR = np.array(
        [
            _over_seeds(
                sign * np.array([what.overall(np.tensordot(weights_RI, e.table(what), axes=1)) for e in seeds]), rng
            )
            for seeds in configurations
        ]
    )
    known_CR = np.where(np.isnan(means_CR), -np.inf, means_CR)
    leads_CR = known_CR >= known_CR.max(axis=0) - TIE
    chances = (leads_CR / leads_CR.sum(axis=0)).mean(axis=1)
    gaps = (percentiles(means_CR[0] - other) if weights_RI.shape[1] > 1 else None for other in means_CR[1:])
    return Ranking(tuple(map(float, chances)), tuple(gaps))


def _over_seeds(values_SR: Numbers, rng: np.random.Generator) -> Numbers:
    """The mean of the seeds that each resampling draws."""
    seeds, resamples = values_SR.shape
    drawn = max(seeds - 1, 1)
    counts_SR = rng.multinomial(drawn, np.full(seeds, 1 / seeds), size=resamples).T
    means: Numbers = np.where(counts_SR > 0, counts_SR * values_SR, 0.0).sum(axis=0) / drawn
    return means
