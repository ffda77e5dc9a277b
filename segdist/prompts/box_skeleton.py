"""The box, with points on the skeleton of what stands out in it: for cracks, seams, cables, branches."""

from pydantic import Field, PositiveInt

from segdist.core.plugins import ImageHWC, Question
from segdist.core.records import Instance, Prompt
from segdist.core.spec import Strict
from segdist.labelling.estimates import foreground, middle_points
from segdist.reading.geometry import cut_out

NEEDS = "point"


class Options(Strict):
    """How many points."""

    points: PositiveInt = 3
    """Most points an object, the deepest inside it first."""
    margin: float = Field(default=0.1, ge=0)
    """Surroundings that are examined around the box, as a share of its sides."""


def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:  # noqa: ARG001
    """One prompt: each box with points on the object; a box in which nothing stands out goes alone."""
    asked = question.asked
    if not asked:
        return []
    points = tuple(_points(question.image_HWC, i, options) for i in asked)
    return [
        Prompt(
            tuple(i.box_xyxy for i in asked),
            tuple(i.label for i in asked),
            points_xy=points,
            point_is_object=tuple((True,) * len(p) for p in points),
        )
    ]


def _points(image_HWC: ImageHWC, asked: Instance, options: Options) -> tuple[tuple[float, float], ...]:
    size_hw = image_HWC.shape[0], image_HWC.shape[1]
    rows, columns = cut_out(asked.box_xyxy, size_hw, margin=options.margin)
    inner_rows, inner_columns = cut_out(asked.box_xyxy, size_hw)
    estimate_HW = foreground(image_HWC[rows, columns])
    estimate_HW = estimate_HW[
        inner_rows.start - rows.start : inner_rows.stop - rows.start,
        inner_columns.start - columns.start : inner_columns.stop - columns.start,
    ]
    found = middle_points(estimate_HW, options.points)
    return tuple((x + inner_columns.start, y + inner_rows.start) for x, y in found)
