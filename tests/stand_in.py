"""A network for tests that are about one method of it."""

from collections.abc import Sequence

from torch import Tensor

from segdist.core.plugins import Batch, Example, ImageHWC, ModelOptions
from segdist.core.records import Instance, Prompt
from segdist.nets.segmenter import Segmenter


class StandIn(Segmenter):
    """A segmenter without weights, which refuses what a test did not give it."""

    def __init__(self, *, classes: tuple[str, ...] = ("a",), image_size: int = 64) -> None:
        super().__init__(ModelOptions(image_size=image_size), classes)

    def collate(self, examples: Sequence[Example]) -> Batch:
        raise AssertionError(examples)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise AssertionError(batch)

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        raise AssertionError(images, prompts)
