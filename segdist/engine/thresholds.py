"""Scores from which on an instance counts as found, chosen per class on a validation split."""

import math
from collections.abc import Sequence

import numpy as np

from segdist.core.records import Prediction, Sample
from segdist.metrics import Evaluator

TRIED = tuple(float(t) for t in np.round(np.arange(0.05, 1.0, 0.05), 2))
"""Scores that are tried."""


def tuned(
    samples: Sequence[Sample], predictions: Sequence[Prediction], classes: Sequence[str], *, usual: float
) -> dict[str, float]:
    """For each class the score that gives the highest IoU over all images.

    Classes do not depend on each other, so each score is tried for all of them at once. Among equals the one nearest to
    the usual score is taken; a class whose IoU is undefined or the same everywhere keeps that.

    Args:
        samples: the truth.
        predictions: of each sample, in the same order.
        classes: the class names.
        usual: `evaluate.min_score`.
    """
    tried = sorted({*TRIED, usual}, key=lambda score: abs(score - usual))
    best = dict.fromkeys(classes, (-math.inf, usual))
    for score in tried:
        evaluator = Evaluator(classes, min_score=score, metrics=("iou",))
        for sample, prediction in zip(samples, predictions, strict=True):
            evaluator.add(sample, prediction)
        values = evaluator.values()
        for label in classes:
            value = values[f"iou/{label}"]
            if value > best[label][0] + 1e-9:  # NaN is never larger
                best[label] = value, score
    return {label: score for label, (_, score) in best.items()}
