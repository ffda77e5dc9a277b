"""The mode "everything" (Kirillov et al. 2023, appendix B): a mask under each point of a grid; boxes take what fits."""

from collections.abc import Sequence

from pydantic import Field, PositiveInt

from segdist.core.plugins import Answers, Question
from segdist.core.records import Instance, Prompt
from segdist.core.spec import Strict
from segdist.labelling.overlaps import assigned, distinct

NEEDS = "point"


class Options(Strict):
    """How dense the grid is, and which masks count."""

    side: PositiveInt = 32
    """Points along each side of the image."""
    min_predicted_iou: float = Field(default=0.7, ge=0, le=1)
    """Masks of which the teacher expects less are left out."""
    min_stability: float = Field(default=0.8, ge=0, le=1)
    """Masks that change more between a lower and a higher threshold are left out."""
    max_overlap: float = Field(default=0.7, gt=0, le=1)
    """Of two masks with a larger IoU the one of the lower score is left out."""


def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:  # noqa: ARG001
    """One prompt with all points, row by row at the centres of equal cells, each on an object of its own."""
    if not question.asked:
        return []
    height, width = question.sample.size_hw
    along = [(k + 0.5) / options.side for k in range(options.side)]
    points = tuple(((x * width, y * height),) for y in along for x in along)
    label = question.asked[0].label  # the points do not know; the boxes that take the masks do
    return [Prompt(labels=(label,) * len(points), points_xy=points, point_is_object=((True,),) * len(points))]


def chosen(question: Question, answers: Answers, options: Options) -> list[Sequence[Instance]]:
    """The stable, distinct masks, each given to the box it fits best."""
    good = [i for found in answers for i in found if _is_good(i, options)]
    return [assigned(question.asked, distinct(good, max_overlap=options.max_overlap))]


def _is_good(instance: Instance, options: Options) -> bool:
    said = instance.evidence
    stability = said.stability if said and said.stability is not None else 1.0
    return instance.score >= options.min_predicted_iou and stability >= options.min_stability
