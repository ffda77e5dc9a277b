"""What a prompt strategy promises: one answer an instance whatever the teacher says, the same prompts for a seed."""

from collections.abc import Collection, Sequence
from typing import ClassVar

import cv2
import numpy as np
import pytest

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.core.plugins import ChoosingStrategy, ImageHWC, Question, prompt_strategy
from segdist.core.records import Box, Evidence, Instance, Prompt, Sample

SIZE_HW = (60, 80)
BOXES: Sequence[Box] = ((8.0, 8.0, 72.0, 50.0), (2.0, 40.0, 20.0, 58.0), (76.0, 1.0, 80.0, 4.0))


class PromptContract:
    """To inherit from, with `strategies`: the names of those to test, with their default options."""

    strategies: ClassVar[Collection[str]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Called by pytest for each test."""
        if "strategy" in metafunc.fixturenames:
            metafunc.parametrize("strategy", sorted(self.strategies))

    def test_it_needs_a_kind_of_prompt_that_there_is(self, strategy: str) -> None:
        assert prompt_strategy(strategy).NEEDS in ("none", "box", "point", "text", "exemplar")

    def test_an_image_without_boxes_is_never_shown_to_the_teacher(self, strategy: str) -> None:
        assert prompts_of(strategy, question([])) == []

    def test_the_same_seed_gives_the_same_prompts(self, strategy: str) -> None:
        assert prompts_of(strategy, question(BOXES), 3) == prompts_of(strategy, question(BOXES), 3)

    def test_every_index_gets_an_answer_in_order_also_from_a_teacher_that_finds_nothing(self, strategy: str) -> None:
        module = prompt_strategy(strategy)
        asked, options = question(BOXES, [2, 0]), module.Options()
        prompts = module.prompts(asked, options, 0)
        for prompt in prompts:
            assert all(len(p) == len(k) for p, k in zip(prompt.points_xy, prompt.point_is_object, strict=True))
            if prompt.boxes_xyxy:
                assert list(prompt.labels) == ["a", "a"]
        if not isinstance(module, ChoosingStrategy):
            assert all(len(p.boxes_xyxy) == 2 for p in prompts)
            return
        nothing: list[list[Instance]] = [[] for _ in prompts]
        for found in (nothing, [[filled(BOXES[2], "a")] for _ in prompts]):
            chosen = module.chosen(asked, found, options)
            assert all(len(instances) == 2 for instances in chosen)
        first, second = chosen[0]
        assert first.mask is not None
        assert first.mask.box_xyxy == BOXES[2]
        assert second.mask is None


def crack() -> tuple[ImageHWC, Mask]:
    """A grey wall with a dark crack, and the crack's mask."""
    image = np.full((*SIZE_HW, 3), 170, np.uint8)
    drawn = np.zeros(SIZE_HW, np.uint8)
    cv2.polylines(drawn, [np.array([[10, 10], [30, 25], [50, 22], [70, 48]])], isClosed=False, color=1, thickness=2)
    image[drawn > 0] = 60
    return image, drawn > 0


def question(boxes: Sequence[Box], indices: Sequence[int] | None = None) -> Question:
    """About boxes on the wall, in turns of the classes a and b; without indices, about all of them."""
    instances = tuple(Instance("ab"[n % 2], None, box) for n, box in enumerate(boxes))
    image, _ = crack()
    return Question(Sample("i", "", SIZE_HW, instances), range(len(boxes)) if indices is None else indices, image)


def prompts_of(name: str, asked: Question, seed: int = 0, **options: object) -> list[Prompt]:
    """What a strategy shows the teacher."""
    module = prompt_strategy(name)
    return module.prompts(asked, module.Options.model_validate(options), seed)


def filled(box: Box, label: str = "?", *, score: float = 0.9, stability: float = 1.0) -> Instance:
    """A teacher's answer: the whole box."""
    said = Evidence(predicted_iou=score, stability=stability)
    return Instance(label, masks.from_box(box, size_hw=SIZE_HW), box, score=score, evidence=said)
