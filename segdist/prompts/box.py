"""Each instance's own box: the plainest prompt, and the one most annotators have drawn already."""

from collections.abc import Sequence
from typing import Any

from segdist.records import Prompt, Sample
from segdist.spec import Strict


class Options(Strict):
    """Boxes are shown as they were annotated: there is nothing to choose."""


def prompts(sample: Sample, indices: Sequence[int], options: Any, seed: int) -> list[Prompt]:  # noqa: ARG001
    """One prompt with the box of every instance at `indices`, in that order; none where there are no indices."""
    asked = [sample.instances[i] for i in indices]
    if not asked:
        return []
    return [Prompt(boxes_xyxy=tuple(i.box_xyxy for i in asked), labels=tuple(i.label for i in asked))]
