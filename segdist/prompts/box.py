"""Each instance's own box: the plainest prompt, and the one most annotators have drawn already."""

from segdist.core.plugins import Question
from segdist.core.records import Prompt
from segdist.core.spec import Strict

NEEDS = "box"


class Options(Strict):
    """Boxes are shown as they were annotated: there is nothing to choose."""


def prompts(question: Question, options: object, seed: int) -> list[Prompt]:  # noqa: ARG001
    """One prompt with the box of every instance asked for, in that order; none where there is none."""
    asked = question.asked
    if not asked:
        return []
    return [Prompt(boxes_xyxy=tuple(i.box_xyxy for i in asked), labels=tuple(i.label for i in asked))]
