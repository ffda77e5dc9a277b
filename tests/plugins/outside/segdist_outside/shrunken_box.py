"""Each instance's box, a little smaller: for annotators who draw boxes too large."""

from pydantic import Field

from segdist.core.plugins import Question
from segdist.core.records import Prompt
from segdist.core.spec import Strict

NEEDS = "box"


class Options(Strict):
    """How much smaller."""

    margin: float = Field(default=0.05, ge=0, lt=0.5)
    """What is taken away on each side, as a share of the box."""


def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:
    """One prompt with all boxes; none where there is none."""
    asked, kept = question.asked, options.margin
    boxes = [
        (x1 + kept * (x2 - x1), y1 + kept * (y2 - y1), x2 - kept * (x2 - x1), y2 - kept * (y2 - y1))
        for x1, y1, x2, y2 in (instance.box_xyxy for instance in asked)
    ]
    return [Prompt(boxes_xyxy=tuple(boxes), labels=tuple(i.label for i in asked))] if asked else []
