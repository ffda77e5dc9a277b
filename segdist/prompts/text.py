"""The class names as phrases, for teachers that read; each box takes the found object that fits it best."""

from collections.abc import Sequence

from pydantic import Field

from segdist.core.plugins import Answers, Question
from segdist.core.records import Instance, Prompt
from segdist.core.spec import Strict
from segdist.labelling.overlaps import assigned_by_label

NEEDS = "text"


class Options(Strict):
    """What is said."""

    phrases: dict[str, str] = {}
    """What to say for a class, where its name alone would not do: `{seam: a drywall seam}`."""
    max_overlap: float = Field(default=0.7, gt=0, le=1)
    """Of two found objects of a class with a larger IoU the one of the lower score is left out."""


def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:  # noqa: ARG001
    """One prompt for each class asked for, in alphabetical order."""
    return [Prompt(text=options.phrases.get(label, label)) for label in question.labels]


def chosen(question: Question, answers: Answers, options: Options) -> list[Sequence[Instance]]:
    """For each box, what was found for its class and fits it best."""
    return assigned_by_label(question.asked, answers, max_overlap=options.max_overlap)
