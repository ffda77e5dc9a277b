"""What a mask's IoU with the truth will be, foretold from what is known without the truth, learned from people's masks.

A teacher's own opinion is one sign of several: it is sure of many masks that are wrong. How far other teachers, who go
other ways, drew the same, and whether the mask reaches the sides of its box, say more. Which of them to believe, and
how far, a few human masks tell: by ridge regression (Hoerl and Kennard 1970), whose answers are means, so that a score
of 0.7 has an IoU of 0.7 on average.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.records import Instance
from segdist.metrics.matching import overlap_matrix
from segdist.reading.geometry import box_iou

Floats = NDArray[np.float64]
Signs = Mapping[str, tuple[float, ...]]
"""Of each teacher's mask of one object: its own score, its stability, how far its box is the annotated one, how much of
that it fills, the logarithm of its pixels, and its IoU with the mask of each other teacher, in the order of names."""
_PENALTY = 10.0
"""Of the squared weights of signs in units of their deviation: as much as ten objects that say nothing."""
_LEAST_SPREAD = 1e-3
FOLDS = 5


def signs(answers: Mapping[str, Instance], asked: Instance) -> Signs:
    """What is known of each teacher's mask of an object.

    Args:
        answers: by teacher.
        asked: with the annotated box.
    """
    names = sorted(answers)
    found = {name: answers[name].mask for name in names}
    size_hw = next((m.size_hw for m in found.values() if m is not None), (1, 1))
    rles = [found[name] or masks.empty(size_hw) for name in names]
    overlaps = np.nan_to_num(overlap_matrix(rles, rles))
    x1, y1, x2, y2 = asked.box_xyxy
    area = max((x2 - x1) * (y2 - y1), 1.0)
    return {
        name: (
            answers[name].score,
            (said.stability or 0.0) if (said := answers[name].evidence) else 0.0,
            box_iou(asked.box_xyxy, rles[n].box_xyxy) if rles[n].area else 0.0,
            min(rles[n].area / area, 1.0),
            float(np.log(area)),
            *(float(overlaps[n, k]) for k in range(len(names)) if k != n),
        )
        for n, name in enumerate(names)
    }


def learned(signs_KS: Floats, classes_KC: Floats, iou_K: Floats) -> Floats:
    """Weights by which signs foretell IoUs: for each class (C, 1 + S) a constant and the weights of S signs.

    Args:
        signs_KS: of K objects whose truth is known.
        classes_KC: 1 where an object is of a class; a class without objects gets what all have in common.
        iou_K: with the truth.
    """
    centre_S, spread_S = signs_KS.mean(axis=0), signs_KS.std(axis=0)
    spread_S = np.where(spread_S < _LEAST_SPREAD, 1.0, spread_S)  # what never differs says nothing
    seen = np.hstack([(signs_KS - centre_S) / spread_S, classes_KC])
    usual = iou_K.mean()
    weights = np.linalg.solve(seen.T @ seen + _PENALTY * np.eye(seen.shape[1]), seen.T @ (iou_K - usual))
    of_signs_S, of_classes_C = np.split(weights, [signs_KS.shape[1]])
    scaled_S = of_signs_S / spread_S
    constants_C = usual + of_classes_C - scaled_S @ centre_S
    return np.column_stack([constants_C, np.tile(scaled_S, (len(constants_C), 1))])


def foretold(weights: Sequence[float], of_mask: Sequence[float]) -> float:
    """The IoU, 0..1, that a mask with these signs may have.

    Args:
        weights: a row of `learned`.
        of_mask: its signs.
    """
    return float(np.clip(weights[0] + np.dot(weights[1:], of_mask), 0.0, 1.0))
