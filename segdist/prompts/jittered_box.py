"""The box, and the box with its sides moved at random: nobody draws the same box twice."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from segdist.core.plugins import Question
from segdist.core.records import Box, Prompt
from segdist.core.spec import Strict
from segdist.labelling.boxes import has_size, random_for
from segdist.reading.geometry import clip_box

NEEDS = "box"


class Options(Strict):
    """How often, and how far."""

    count: PositiveInt = 4
    """Moved boxes an object, beside the annotated one."""
    jitter: float = Field(default=0.05, gt=0, lt=0.5)
    """Each side moves by up to this share of the box's width or height."""


def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:
    """The annotated boxes, then `count` times all of them moved; the same image and seed give the same boxes."""
    asked = question.asked
    if not asked:
        return []
    labels = tuple(i.label for i in asked)
    rng = random_for(question.sample, seed)
    found = [Prompt(tuple(i.box_xyxy for i in asked), labels)]
    for _ in range(options.count):
        moved = tuple(_moved(i.box_xyxy, rng.uniform(-1, 1, 4), options, question) for i in asked)
        found.append(Prompt(moved, labels))
    return found


def _moved(box: Box, shift: NDArray[np.float64], options: Options, question: Question) -> Box:
    sides = (box[2] - box[0], box[3] - box[1]) * 2
    moved = [v + options.jitter * s * side for v, s, side in zip(box, shift, sides, strict=True)]
    inside = clip_box(moved, question.sample.size_hw)
    return inside if has_size(inside, question.sample.size_hw) else box
