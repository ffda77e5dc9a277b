"""Which trials no other one beats: the Pareto front."""

from collections.abc import Sequence

import numpy as np


def unbeaten(losses: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each point is on the front: no other one is as low in everything and lower in something.

    Args:
        losses: of each point, one for each objective, the lower the better; equal points are on the front together.
    """
    losses_NK = np.array(losses, dtype=float)
    beaten = (((losses_NK <= one_K).all(axis=1) & (losses_NK < one_K).any(axis=1)).any() for one_K in losses_NK)
    return [not is_beaten for is_beaten in beaten]
