"""The image and nothing else, for teachers that find objects on their own; boxes cut out what is theirs."""

from collections.abc import Sequence

from pydantic import Field

from segdist.core.plugins import Answers, Question
from segdist.core.records import Instance, Prompt
from segdist.core.spec import Strict
from segdist.labelling.overlaps import inside_box, nothing
from segdist.reading.geometry import box_iou

NEEDS = "none"


class Options(Strict):
    """How strictly boxes are taken."""

    margin: float = Field(default=0.05, ge=0)
    """How far beyond its box an object may reach, as a share of the box's sides."""


def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:  # noqa: ARG001
    """One empty prompt."""
    return [Prompt()] if question.asked else []


def chosen(question: Question, answers: Answers, options: Options) -> list[Sequence[Instance]]:
    """For each box, of what was found of its class the part in the box; of several the one that fits it best."""
    return [[_best(asked, found, options) for asked in question.asked] for found in answers]


def _best(asked: Instance, found: Sequence[Instance], options: Options) -> Instance:
    parts = [inside_box(i, asked, margin=options.margin) for i in found if i.label == asked.label]
    there = [p for p in parts if p.mask is not None and p.mask.area]
    return max(there, key=lambda p: box_iou(p.mask.box_xyxy, asked.box_xyxy) if p.mask else 0.0, default=nothing(asked))
