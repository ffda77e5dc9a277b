"""What people are asked to correct first."""

from segdist.core import masks
from segdist.core.records import Evidence, Instance, Sample
from segdist.labelling.election import ENOUGH
from segdist.labelling.lessons import TAUGHT, lessons

SIZE_HW = (10, 10)
BOX = (1.0, 1.0, 5.0, 5.0)


def made(label: str, score: float) -> Instance:
    return Instance(label, masks.from_box(BOX, size_hw=SIZE_HW), BOX, score, evidence=Evidence())


def drawn(label: str) -> Instance:
    return Instance(label, masks.from_box(BOX, size_hw=SIZE_HW), BOX)


def image(name: str, *instances: Instance, group: str = "", split: str = "train") -> Sample:
    return Sample(name, "", SIZE_HW, instances, split=split, group=group)


def test_the_class_with_most_in_doubt_comes_first_and_images_with_most_unsure_objects() -> None:
    found = lessons(
        [
            image("sure", *[made("a", 0.9)] * 3),
            image("one", made("a", 0.2)),
            image("many", *[made("a", 0.5)] * 4, made("b", 0.9)),
        ]
    )
    assert [(one.label, one.known, one.decides) for one in found] == [("a", 0, True), ("b", 0, False)]
    assert found[0].wanted == ENOUGH
    assert found[0].images == ("many", "one"), "five objects are enough"
    assert (found[1].wanted, found[1].images) == (1, ("many",)), "there is one, which decides nothing"


def test_a_second_image_of_a_group_is_worth_half() -> None:
    unsure = [made("a", 0.2)] * 2
    found = lessons(
        [
            image("a1", *unsure, made("a", 0.1), group="site a"),
            image("a2", *unsure, group="site a"),
            image("b1", made("a", 0.1), group="site b"),
        ]
    )
    assert found[0].images == ("a1", "b1", "a2")


def test_human_masks_count_and_many_end_the_lesson_but_those_of_the_test_split_do_not() -> None:
    rest = image("rest", *[made("a", 0.5)] * 30)
    few = lessons([image("v", *[drawn("a")] * ENOUGH, split="val"), rest])
    assert (few[0].known, few[0].wanted, few[0].decides) == (ENOUGH, TAUGHT - ENOUGH, False)
    assert not lessons([image("v", *[drawn("a")] * TAUGHT, split="val"), rest])
    assert lessons([image("t", *[drawn("a")] * TAUGHT, split="test"), rest])[0].known == 0
    assert not lessons([image("t", made("a", 0.1), split="test")])
