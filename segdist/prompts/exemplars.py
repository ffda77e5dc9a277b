"""The class name with some of its boxes as examples of what is meant, for teachers that read and look (SAM 3)."""

from collections.abc import Sequence

from pydantic import Field, PositiveInt

from segdist.core.plugins import Answers, Question
from segdist.core.records import Instance, Prompt
from segdist.core.spec import Strict
from segdist.labelling.boxes import has_size
from segdist.labelling.overlaps import assigned_by_label

NEEDS = "exemplar"


class Options(Strict):
    """What is said and shown."""

    phrases: dict[str, str] = {}
    """What to say for a class, where its name alone would not do: `{seam: a drywall seam}`."""
    most: PositiveInt = 8
    """Most boxes shown for a class, the largest first; all of its objects are looked for."""
    max_overlap: float = Field(default=0.7, gt=0, le=1)
    """Of two found objects of a class with a larger IoU the one of the lower score is left out."""


def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:  # noqa: ARG001
    """One prompt for each class asked for, in alphabetical order."""
    return [
        Prompt(tuple(i.box_xyxy for i in shown), tuple(label for _ in shown), text=options.phrases.get(label, label))
        for label, shown in ((label, _shown(question, label, options.most)) for label in question.labels)
    ]


def chosen(question: Question, answers: Answers, options: Options) -> list[Sequence[Instance]]:
    """For each box, what was found for its class and fits it best."""
    return assigned_by_label(question.asked, answers, max_overlap=options.max_overlap)


def _shown(question: Question, label: str, most: int) -> list[Instance]:
    """The largest objects of a class, of which some is in the image; those with a human mask are examples too."""
    known = [
        i
        for i in question.sample.instances
        if i.label == label and not i.is_crowd and has_size(i.box_xyxy, question.sample.size_hw)
    ]
    return sorted(known, key=lambda i: -_area(i))[:most]


def _area(instance: Instance) -> float:
    x1, y1, x2, y2 = instance.box_xyxy
    return (x2 - x1) * (y2 - y1)
