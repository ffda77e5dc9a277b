"""Box prompts: every box once, in order, with its label."""

from segdist.prompts.box import Options, prompts
from segdist.records import Instance, Sample


def test_all_boxes_stand_in_one_prompt_in_the_order_asked() -> None:
    boxes = tuple(Instance(label, None, (n, 0, n + 1, 2)) for n, label in enumerate("abc"))
    (prompt,) = prompts(Sample("i", "", (8, 8), boxes), [2, 0], Options(), 0)
    assert list(prompt.boxes_xyxy) == [(2, 0, 3, 2), (0, 0, 1, 2)]
    assert list(prompt.labels) == ["c", "a"]


def test_an_image_without_boxes_is_never_shown_to_the_teacher() -> None:
    assert prompts(Sample("i", "", (8, 8)), [], Options(), 0) == []
