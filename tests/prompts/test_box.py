"""Box prompts: every box once, in order, with its label."""

from collections.abc import Sequence

import numpy as np

from segdist.core.plugins import Question
from segdist.core.records import Instance, Sample
from segdist.prompts.box import Options, prompts


def question(instances: Sequence[Instance], indices: Sequence[int], size: int = 8) -> Question:
    """About a grey image."""
    sample = Sample("i", "", (size, size), tuple(instances))
    return Question(sample, indices, np.full((size, size, 3), 120, np.uint8))


def test_all_boxes_stand_in_one_prompt_in_the_order_asked() -> None:
    boxes = [Instance(label, None, (n, 0, n + 1, 2)) for n, label in enumerate("abc")]
    (prompt,) = prompts(question(boxes, [2, 0]), Options(), 0)
    assert list(prompt.boxes_xyxy) == [(2, 0, 3, 2), (0, 0, 1, 2)]
    assert list(prompt.labels) == ["c", "a"]


def test_an_image_without_boxes_is_never_shown_to_the_teacher() -> None:
    assert prompts(question([], []), Options(), 0) == []
