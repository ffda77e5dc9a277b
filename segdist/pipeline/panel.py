"""The teachers of one label policy: each is asked, and every answer stands under the name of who gave it."""

from collections.abc import Sequence

from segdist.core.plugins import Question
from segdist.core.spec import LabelSpec, PromptSpec, TeacherSpec
from segdist.labelling.consensus import CandidateMask
from segdist.pipeline.teacher import Teacher


class Panel:
    """One teacher, or several that see the same boxes; weights are loaded with the first question."""

    def __init__(self, spec: LabelSpec, classes: tuple[str, ...], trained_uri: str = "") -> None:
        specs = members(spec)
        self._names = [one.teacher.name for one in specs] if len(specs) > 1 else [""]
        self._teachers = [Teacher(one, classes, "" if n else trained_uri) for n, one in enumerate(specs)]

    def take_halved(self) -> int:
        """How often memory did not suffice for a teacher and the work was split in two, since the last call."""
        return sum(teacher.take_halved() for teacher in self._teachers)

    def candidates(self, questions: Sequence[Question]) -> list[list[list[CandidateMask]]]:
        """For each question and each of its indices, what every teacher said; of several, under the teacher's name."""
        found: list[list[list[CandidateMask]]] = [[[] for _ in question.indices] for question in questions]
        for name, teacher in zip(self._names, self._teachers, strict=True):
            for of_question, said in zip(found, teacher.candidates(questions), strict=True):
                for of_object, masks_said in zip(of_question, said, strict=True):
                    of_object += [CandidateMask(name or c.strategy, c.instance) for c in masks_said]
        return found


def members(spec: LabelSpec) -> list[LabelSpec]:
    """The policy of each teacher by itself: the first with all of it, further ones by their boxes alone."""
    return [spec, *(_alone(spec, teacher) for teacher in spec.asked[1:])]


def _alone(spec: LabelSpec, teacher: TeacherSpec) -> LabelSpec:
    return spec.model_copy(update={"teacher": teacher, "teachers": (), "prompt": PromptSpec(), "consensus": None})
