"""An evaluation for which memory is too small for a whole batch goes on with smaller ones."""

from collections.abc import Sequence

import pytest
import torch

from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.core.spec import EvaluateSpec
from segdist.engine.predict import predict
from tests.engine.drawn import roofs
from tests.stand_in import StandIn


class Scarce(StandIn):
    """Finds nothing, in as many images as memory holds."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.asked: list[int] = []

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        self.asked.append(len(images))
        if len(images) > self.most:
            raise self.error
        return [()] * len(images)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_a_batch_that_memory_does_not_hold_is_halved_and_so_are_those_after_it(error: Exception) -> None:
    network, rows = Scarce(2, error), roofs(11)
    found = [sample for sample, _, _ in predict(network, rows, EvaluateSpec(batch_size=8))]
    assert found == [sample for sample, _ in rows], "each once and in order"
    assert network.asked == [8, 4, 2, 2, 2, 2, 2, 1]


def test_an_image_that_memory_does_not_hold_and_any_other_error_are_raised() -> None:
    with pytest.raises(MemoryError):
        list(predict(Scarce(0, MemoryError()), roofs(2), EvaluateSpec(batch_size=2)))
    network = Scarce(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(predict(network, roofs(2), EvaluateSpec(batch_size=2)))
    assert network.asked == [2]
