"""What a model family promises, whole: all that is tested here of segdist's own.

Tests marked `slow` train for minutes; register the marker, and leave them out by default with `-m "not slow"`.
"""

from segdist.testing.predicting import PredictingContract
from segdist.testing.training import TrainingContract


class FamilyContract(PredictingContract, TrainingContract):
    """To inherit from, with `families = {"tiny": {}}`: the name, and the modes to test beside the debug one."""
