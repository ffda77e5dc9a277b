"""Boxes and points of prompts: views against NumPy's flips, and several prompts as one."""

import hashlib
import struct
from collections.abc import Callable

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.plugins import Question
from segdist.core.records import Evidence, Instance, Prompt, Sample
from segdist.core.spec import View
from segdist.labelling.boxes import asked_of, has_size, joined, part_of, random_for, seen_back, seen_from

SIZE_HW = (20, 30)
FLIPS: dict[View, Callable[[np.ndarray], np.ndarray]] = {
    "as_is": lambda image: image,
    "mirrored": np.fliplr,
    "upside_down": np.flipud,
    "turned": lambda image: np.rot90(image, 2),
    "transposed": lambda image: image.swapaxes(0, 1),
}


def _drawn() -> tuple[np.ndarray, Instance]:
    """An L in an image, which no flip leaves as it is."""
    mask_HW = np.zeros(SIZE_HW, np.bool_)
    mask_HW[3:13, 5:8] = mask_HW[10:13, 5:17] = True
    rle = masks.encode(mask_HW)
    return mask_HW, Instance("crack", rle, rle.box_xyxy, score=0.7, evidence=Evidence(stability=0.5))


@pytest.mark.parametrize("view", FLIPS)
def test_a_view_shows_image_and_boxes_flipped_and_brings_the_answer_back(view: View) -> None:
    mask_HW, instance = _drawn()
    image_HWC = np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3), np.uint8)
    seen = seen_from(Question(Sample("i", "", SIZE_HW, (instance,)), [0], image_HWC), view)
    flipped_HW = FLIPS[view](mask_HW)
    np.testing.assert_array_equal(seen.image_HWC, FLIPS[view](image_HWC))
    assert seen.image_HWC.flags.c_contiguous
    assert seen.sample.size_hw == flipped_HW.shape
    assert list(seen.indices) == [0]
    (asked,) = seen.sample.instances
    answer = masks.encode(flipped_HW)
    assert asked.box_xyxy == answer.box_xyxy
    if view != "as_is":
        assert (asked.mask, asked.evidence, asked.label) == (None, None, "crack"), "what is asked for stays hidden"
    back = seen_back(Instance("crack", answer, (0, 0, 1, 1), score=0.4), view, instance)
    assert back == Instance("crack", instance.mask, instance.box_xyxy, score=0.4)
    assert seen_back(Instance("crack", None, (0, 0, 1, 1)), view, instance).box_xyxy == instance.box_xyxy


def test_random_numbers_follow_the_image_and_the_seed_alone() -> None:
    def first(image_id: str, seed: int) -> float:
        return float(random_for(Sample(image_id, f"{seed}.png", SIZE_HW, ()), seed).random())

    assert first("a", 1) == first("a", 1)
    assert len({first("a", 1), first("a", 2), first("b", 1)}) == 3
    (named,) = struct.unpack("<Q", hashlib.sha256(b"7:a.png").digest()[:8])
    assert first("a.png", 7) == np.random.default_rng(named).random(), "on every machine, in every version"


@pytest.mark.parametrize(
    ("box", "there"),
    [
        ((0, 0, 1, 1), True),
        ((-5, -5, 0.5, 0.5), True),
        ((29.5, 19.5, 40, 40), True),
        ((-9, -9, 99, 99), True),
        ((3, 3, 3, 9), False),
        ((3, 3, 9, 3), False),
        ((-5, 3, 0, 9), False),
        ((3, -5, 9, 0), False),
        ((30, 3, 40, 9), False),
        ((3, 20, 9, 30), False),
    ],
)
def test_a_box_can_be_asked_for_where_any_of_it_lies_in_the_image(box: tuple[float, ...], *, there: bool) -> None:
    assert has_size(box, SIZE_HW) is there


BOXES = Prompt(boxes_xyxy=((0, 0, 1, 1), (2, 2, 3, 3)), labels=("a", "b"))
POINTED = Prompt(
    boxes_xyxy=((4, 4, 5, 5),), labels=("c",), points_xy=(((4, 4), (5, 5)),), point_is_object=((True, False),)
)


def test_prompts_are_joined_in_order_and_those_without_points_keep_none() -> None:
    found = joined([BOXES, POINTED])
    assert found.boxes_xyxy == BOXES.boxes_xyxy + POINTED.boxes_xyxy
    assert found.labels == ("a", "b", "c")
    assert list(found.points_xy) == [(), (), ((4, 4), (5, 5))]
    assert list(found.point_is_object) == [(), (), (True, False)]
    without = joined([BOXES, BOXES])
    assert (without.points_xy, without.point_is_object) == ((), ())
    assert joined([Prompt(text="seam")]) == Prompt(text="seam")


def test_a_part_of_joined_prompts_is_that_of_its_objects() -> None:
    both = joined([BOXES, POINTED])
    assert part_of(both, 0, 2) == Prompt(BOXES.boxes_xyxy, BOXES.labels, ((), ()), ((), ()))
    assert part_of(both, 2, 3) == POINTED


def test_a_prompt_asks_for_a_mask_a_box_or_a_group_of_points_and_a_phrase_for_whatever_there_is() -> None:
    assert asked_of(BOXES) == 2
    assert asked_of(POINTED) == 1
    assert asked_of(Prompt(points_xy=(((1, 1),), ((2, 2),), ((3, 3),)), point_is_object=((True,),) * 3)) == 3
    assert asked_of(Prompt(boxes_xyxy=BOXES.boxes_xyxy, labels=BOXES.labels, text="seam")) == 0
