"""The box, its centre as a point on the object, and the centres of neighbouring boxes as points off it."""

from pydantic import Field

from segdist.core.plugins import Question
from segdist.core.records import Instance, Prompt
from segdist.core.spec import Strict

NEEDS = "point"
PointXy = tuple[float, float]


class Options(Strict):
    """Which points."""

    positive: bool = True
    """The centre of the box is on the object; not so for rings, frames and bent cracks."""
    negatives: int = Field(default=4, ge=0)
    """Most points off the object: centres of the nearest other boxes that do not hold, and are not held by, this
    one's centre."""


def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:  # noqa: ARG001
    """One prompt: each box with its points; crowds and empty boxes give no point."""
    asked = question.asked
    if not asked:
        return []
    others = [i for i in question.sample.instances if not i.is_crowd and _width(i) > 0]
    points = []
    for instance in asked:
        on = [_centre(instance)] if options.positive else []
        off = _off(instance, others, options.negatives)
        points.append(((*on, *off), (*(True for _ in on), *(False for _ in off))))
    return [
        Prompt(
            tuple(i.box_xyxy for i in asked),
            tuple(i.label for i in asked),
            points_xy=tuple(p for p, _ in points),
            point_is_object=tuple(kinds for _, kinds in points),
        )
    ]


def _off(instance: Instance, others: list[Instance], most: int) -> list[PointXy]:
    x, y = _centre(instance)
    centres = [
        _centre(o) for o in others if o is not instance and not _holds(o, (x, y)) and not _holds(instance, _centre(o))
    ]
    return sorted(centres, key=lambda c: (c[0] - x) ** 2 + (c[1] - y) ** 2)[:most]


def _centre(instance: Instance) -> PointXy:
    x1, y1, x2, y2 = instance.box_xyxy
    return (x1 + x2) / 2, (y1 + y2) / 2


def _holds(instance: Instance, point: PointXy) -> bool:
    x1, y1, x2, y2 = instance.box_xyxy
    return x1 <= point[0] <= x2 and y1 <= point[1] <= y2


def _width(instance: Instance) -> float:
    return min(instance.box_xyxy[2] - instance.box_xyxy[0], instance.box_xyxy[3] - instance.box_xyxy[1])
