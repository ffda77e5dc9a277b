"""Metrics: one function each, found by decorator, over what an image adds up to; and the one evaluator that calls them.

What counts is the same for all of them. Predictions scored below `min_score` were not found; an image without a
prediction is an image with an empty one; what is found in an image without objects is wrong. Crowds, and true boxes
whose mask is unknown, are neither right nor wrong: predicted pixels there are left out, except where another true mask
says what they are. A class that is nowhere is NaN, and left out of means.

Adding one: a function with `@counting.counter` that looks at a `Pair`, and one with `@counting.metric` over its sums,
in a module of this folder that is imported here. One that is no formula over sums, e.g. a median over images, is a
function with `@gathered.gathered`. The decorator says its title, unit, direction and the tables that show it.
"""

from segdist.metrics import boundaries, calibration, objects, pixels, precision, skeletons
from segdist.metrics.consistency import Consistency, Part, Spread, consistency, per_image
from segdist.metrics.counting import metrics as formulas
from segdist.metrics.difference import Difference, OneImage, difference
from segdist.metrics.evaluator import (
    QUICK,
    Evaluator,
    evaluate,
    evaluator_of,
    family_of,
    is_better,
    is_minimised,
    lower_is_better,
    names,
    shown_in,
)
from segdist.metrics.groups import WORST_GROUP, are_groups
from segdist.metrics.prompted import box_fill, prompted_iou
from segdist.metrics.ranking import Ranking, ranking
from segdist.metrics.shown import Shown

__all__ = [
    "QUICK",
    "WORST_GROUP",
    "Consistency",
    "Difference",
    "Evaluator",
    "OneImage",
    "Part",
    "Ranking",
    "Shown",
    "Spread",
    "are_groups",
    "boundaries",
    "box_fill",
    "calibration",
    "consistency",
    "difference",
    "evaluate",
    "evaluator_of",
    "family_of",
    "formulas",
    "is_better",
    "is_minimised",
    "lower_is_better",
    "names",
    "objects",
    "per_image",
    "pixels",
    "precision",
    "prompted_iou",
    "ranking",
    "shown_in",
    "skeletons",
]
