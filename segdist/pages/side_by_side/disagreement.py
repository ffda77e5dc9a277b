"""Where trials disagree about an image, whoever of them is right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdist.pages.side_by_side.label_maps import LabelMap

LEVELS = 9
"""Steps in which the page shows how many pairs of trials differ at a pixel."""


@dataclass(frozen=True)
class Disagreement:
    """Between the maps of one image.

    Attributes:
        value: of all pairs of trials, the pixels at which the two say different things, divided by the pixels at which
            at least one of the two says a class: the Jaccard distance of maps, pooled over pairs. 0 where all say the
            same, 1 where no two have a pixel in common; 0 too where nobody found anything.
        where: for each pixel how many pairs differ there, 0 to `LEVELS`: none, to as many as where one half of the
            trials says one thing and the other half another.
    """

    value: float
    where: LabelMap


def disagreement(maps: Sequence[LabelMap]) -> Disagreement:
    """How far several maps of one image differ from each other.

    It takes one count of votes a pixel, not a comparison a pair: of n trials of which n_c say c, the pairs that differ
    are (n^2 - sum of n_c^2) / 2.

    Args:
        maps: one a trial, of one size; at least one.
    """
    size_hw, trials = maps[0].size_hw, len(maps)
    codes_TP = np.stack([m.decoded().reshape(-1) for m in maps])
    same_P = np.zeros(codes_TP.shape[1], np.int64)
    background_P = np.zeros_like(same_P)
    for code in np.unique(np.concatenate([m.codes_K for m in maps])):
        votes_P = (codes_TP == code).sum(axis=0)
        same_P += votes_P * votes_P
        if code == 0:
            background_P = votes_P
    differ_P = (trials * trials - same_P) // 2
    either_P = (trials * (trials - 1) - background_P * (background_P - 1)) // 2
    return Disagreement(_ratio(differ_P.sum(), either_P.sum()), LabelMap.of(_levels(differ_P, trials).reshape(size_hw)))


def _levels(differ_P: NDArray[np.int64], trials: int) -> NDArray[np.uint16]:
    most = max(1, (trials // 2) * (trials - trials // 2))
    return np.ceil(np.minimum(differ_P / most, 1) * LEVELS).astype(np.uint16)


def _ratio(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else 0.0
