"""Every family keeps what is promised to whoever trains it: by default in one mode, with two adapters."""

from segdist.testing.training import TrainingContract
from tests.models.variants import FAMILIES


class TestTraining(TrainingContract):
    families = FAMILIES
