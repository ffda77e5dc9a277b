"""Every family keeps what is promised to whoever trains it: by default in one mode, with two adapters."""

from typing import ClassVar

from segdist.models.yolo.criterion import TERMS
from segdist.testing.training import TrainingContract
from tests.models.variants import FAMILIES


class TestTraining(TrainingContract):
    families = FAMILIES
    bound_to_batches: ClassVar = {
        "oneformer": ("contrastive",),  # compares the images of a batch
        "yolo": TERMS,  # divided by how sure the network is
    }
