"""What a run takes: measured by a probe, known to who plans. Both names are here because a driver needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

PEAK = "train/peak_memory_mb"
"""The most memory so far, in units of 1e6 bytes: of the process, or what torch had on a card."""


@dataclass(frozen=True)
class Taken:
    """What a run takes at one point of the space.

    Attributes:
        point: the searched values it differs in from the family's own.
        batch: images of a worker's step.
        setup_seconds: until the first step could begin.
        step_seconds: of a batch, loading it included.
        score_seconds: of an image of the validation split, after an epoch.
        save_seconds: of a checkpoint and its pictures.
        evaluate_seconds: of an image in the evaluation after the search.
        timing_seconds: that the same evaluation takes to time the model.
        memory: most bytes while it trained: resident on a CPU, allocated on a card.
        resident: most resident bytes of the process, also beside a card.
        evaluation_memory: the same as `memory`, while it was evaluated.
        checkpoint_bytes: of a checkpoint with its pictures.
        model_bytes: of the model alone.
        picture_bytes: of the pictures alone.
        evaluation_bytes: of what the evaluation writes about an image.
        divided_bytes: of `memory`, what workers with `resources.strategy: fsdp` would divide and never join: gradients,
            states of the optimiser and averages of weights. Weights they join to score.
    """

    point: Mapping[str, object]
    batch: int
    setup_seconds: float
    step_seconds: float
    score_seconds: float
    save_seconds: float
    evaluate_seconds: float
    timing_seconds: float
    memory: int
    resident: int
    evaluation_memory: int
    checkpoint_bytes: int
    model_bytes: int
    picture_bytes: int
    evaluation_bytes: float
    divided_bytes: int = 0

    def divided(self, workers: int, *, on_card: bool) -> Self:
        """What each of some workers has, where they divide what they can."""
        less = round(self.divided_bytes * (1 - 1 / workers))
        resident = self.resident if on_card else self.resident - less
        return replace(self, memory=self.memory - less, resident=resident)
