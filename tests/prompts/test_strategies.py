"""Every prompt strategy: one answer an instance whatever the teacher says, the same prompts for the same seed."""

from typing import Any

import cv2
import numpy as np

from segdist.core import registry
from segdist.testing.prompts import BOXES, PromptContract, crack, filled, prompts_of, question


class TestStrategies(PromptContract):
    strategies = registry.names("prompts")


def test_jittered_boxes_stay_in_the_image_and_differ_from_each_other() -> None:
    corner = question([(0.0, 0.0, 80.0, 60.0), (79.0, 59.0, 80.0, 60.0)])
    exact, *moved = prompts_of("jittered_box", corner, count=6, jitter=0.3)
    assert list(exact.boxes_xyxy) == [(0, 0, 80, 60), (79, 59, 80, 60)]
    assert len({p.boxes_xyxy for p in moved}) == 6
    for x1, y1, x2, y2 in (box for p in moved for box in p.boxes_xyxy):
        assert 0 <= x1 < x2 <= 80
        assert 0 <= y1 < y2 <= 60


def test_skeleton_points_lie_on_the_crack_and_in_the_box() -> None:
    _, drawn = crack()
    near = cv2.dilate(drawn.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    (prompt,) = prompts_of("box_skeleton", question(BOXES[:1]), points=4)
    assert len(prompt.points_xy[0]) == 4
    assert all(near[int(y), int(x)] for x, y in prompt.points_xy[0])
    assert prompt.point_is_object[0] == (True,) * 4


def test_a_box_on_flat_ground_goes_without_points() -> None:
    (prompt,) = prompts_of("box_skeleton", question([(2.0, 40.0, 12.0, 58.0)]))
    assert prompt.points_xy == ((),)


def test_negative_points_come_from_neighbours_that_do_not_overlap_the_centre() -> None:
    apart = [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (40.0, 0.0, 50.0, 10.0), (2.0, 2.0, 9.0, 9.0)]
    (prompt,) = prompts_of("box_points", question(apart, [0]), negatives=1)
    assert prompt.points_xy == (((5.0, 5.0), (25.0, 5.0)),)
    assert prompt.point_is_object == ((True, False),)


def test_the_grid_keeps_stable_distinct_masks_and_gives_each_to_one_box() -> None:
    module: Any = registry.load("prompts", "grid")
    options = module.Options(side=4)
    asked = question([(10.0, 10.0, 30.0, 30.0), (11.0, 10.0, 31.0, 30.0)])
    (prompt,) = module.prompts(asked, options, 0)
    assert len(prompt.points_xy) == 16
    assert prompt.points_xy[0] == ((10.0, 7.5),)
    found = [
        filled((10, 10, 30, 30), score=0.9),
        filled((10, 10, 30, 31), score=0.8),  # nearly the same as the one before
        filled((11, 10, 31, 30), score=0.95, stability=0.1),
    ]
    ((first, second),) = module.chosen(asked, [found], options)
    assert first.mask == found[0].mask
    assert first.label == "a"
    assert second.mask is None


def test_text_asks_once_for_each_class_by_its_phrase() -> None:
    found = prompts_of("text", question(BOXES), phrases={"b": "a drywall seam"})
    assert [p.text for p in found] == ["a", "a drywall seam"]


def test_exemplars_are_the_largest_boxes_of_the_class_beside_its_phrase() -> None:
    found = prompts_of("exemplars", question([*BOXES, (0.0, 0.0, 30.0, 30.0), (90.0, 0.0, 99.0, 9.0)]), most=1)
    assert [(p.text, p.boxes_xyxy) for p in found] == [("a", (BOXES[0],)), ("b", ((0.0, 0.0, 30.0, 30.0),))]


def test_the_whole_image_is_cut_into_the_boxes() -> None:
    module: Any = registry.load("prompts", "whole_image")
    asked = question(BOXES[:1])
    everything = filled((0, 0, 80, 60), "a")
    ((cut,),) = module.chosen(asked, [[everything]], module.Options(margin=0.0))
    assert cut.mask is not None
    assert cut.mask.box_xyxy == BOXES[0]
