"""Class weights from how often classes occur, so that a rare class is not drowned by a common one."""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Weights = NDArray[np.float64]


def inverse_frequency(counts_K: Counts) -> Weights:
    """(K,) weights in proportion to one over the count, with mean 1 over the classes that occur; 0 for the others."""
    return _normalised(1 / np.maximum(counts_K, 1), counts_K)


def effective_number(counts_K: Counts, *, beta: float) -> Weights:
    """(K,) weights by the effective number of samples, (1 - beta) / (1 - beta^n) (Cui et al. 2019, eq. 2 and 3).

    Args:
        counts_K: samples of each class.
        beta: 0 weighs all classes equally; towards 1 the weights approach the inverse frequency.

    Returns:
        Weights with mean 1 over the classes that occur; 0 for the others, which no pixel can ask for.
    """
    return _normalised((1 - beta) / (1 - beta ** np.maximum(counts_K, 1)), counts_K)


def _normalised(weights_K: Weights, counts_K: Counts) -> Weights:
    occurring_K = np.where(counts_K > 0, weights_K, 0.0)
    total = occurring_K.sum()
    return occurring_K * (counts_K > 0).sum() / total if total else np.ones(len(counts_K))
