"""Objects that a teacher found on its own, and the boxes that asked for one."""

from segdist.core import masks
from segdist.core.records import Evidence, Instance
from segdist.labelling.overlaps import LEAST_BOX_IOU, assigned, assigned_by_label, distinct, inside_box, nothing

SIZE_HW = (40, 60)
Box = tuple[float, float, float, float]


def asked(box: Box, label: str = "a") -> Instance:
    return Instance(label, None, box)


def found(box: Box, score: float = 0.9) -> Instance:
    """With a box of its own that says nothing: only the mask's counts."""
    return Instance(
        "?", masks.from_box(box, size_hw=SIZE_HW), (0, 0, 60, 40), score=score, evidence=Evidence(stability=score)
    )


def test_found_objects_come_best_first_without_those_that_overlap_a_better_one() -> None:
    poor, best, half, away = (
        found((0, 0, 10, 9), 0.5),
        found((0, 0, 10, 10)),
        found((0, 0, 10, 5)),
        found((30, 0, 40, 9)),
    )
    empty, none = found((0, 0, 0, 0), 1.0), Instance("?", None, (0, 0, 9, 9), score=1.0)
    assert distinct([poor, empty, best, none, half, away], max_overlap=0.5) == [best, half, away], "0.5 is not above"
    assert distinct([poor, best, half], max_overlap=0.49) == [best]
    assert distinct([poor, best], max_overlap=1.0) == [best, poor]
    assert distinct([none], max_overlap=0.5) == []


def test_each_box_gets_the_object_whose_mask_fits_it_best_and_each_object_is_given_once() -> None:
    boxes = [asked((0, 0, 10, 10), "a"), asked((2, 0, 12, 10), "b"), asked((40, 20, 50, 30), "c")]
    exact, near = found((2, 0, 12, 10), 0.6), found((1, 0, 11, 10), 0.9)
    first, second, third = assigned(boxes, [near, exact, Instance("?", None, (40, 20, 50, 30))])
    assert (first.mask, first.score) == (near.mask, 0.9)
    assert (second.mask, second.score) == (exact.mask, 0.6), "it fits best, whatever its score"
    assert third == nothing(boxes[2])
    assert [(i.label, i.box_xyxy) for i in (first, second, third)] == [(i.label, i.box_xyxy) for i in boxes]
    assert first.evidence == near.evidence


def test_a_box_is_not_filled_twice() -> None:
    best, other = found((0, 0, 10, 10)), found((0, 0, 10, 9))
    (one,) = assigned([asked((0, 0, 10, 10))], [other, best])
    assert one.mask == best.mask


def test_an_object_that_fits_as_little_as_may_be_is_given_and_one_that_fits_less_is_not() -> None:
    assert LEAST_BOX_IOU == 0.3
    fits, other = assigned(
        [asked((0, 0, 10, 10)), asked((20, 0, 30, 10))], [found((0, 0, 3, 10)), found((20, 0, 29, 3))]
    )
    assert fits.mask is not None
    assert other.mask is None, "27 of 100 pixels"
    assert assigned([asked((0, 0, 10, 10))], []) == [nothing(asked((0, 0, 10, 10)))]


def test_objects_are_given_to_boxes_of_the_label_that_was_asked_for() -> None:
    boxes = [asked((0, 0, 10, 10), "b"), asked((0, 0, 10, 10), "a"), asked((1, 0, 11, 10), "a")]
    of_a, twin, of_b = found((0, 0, 10, 10), 0.9), found((0, 0, 10, 9), 0.8), found((1, 0, 11, 10), 0.7)
    ((first, second, third),) = assigned_by_label(boxes, [[of_a, twin], [of_b]], max_overlap=0.7)
    assert (first.label, first.mask) == ("b", of_b.mask)
    assert (second.label, second.mask) == ("a", of_a.mask)
    assert third == nothing(boxes[2]), "the twin overlaps a better one"
    ((_, _, third),) = assigned_by_label(boxes, [[of_a, twin], [of_b]], max_overlap=0.95)
    assert third.mask == twin.mask
    assert assigned_by_label([], [], max_overlap=0.5) == []


def test_what_lies_in_the_box_is_kept_with_the_margin_of_each_side() -> None:
    everything, box = found((0, 0, 60, 40), 0.4), asked((10, 10, 30, 20))
    inside = inside_box(everything, box, margin=0.2)
    assert inside.mask == masks.from_box((6, 8, 34, 22), size_hw=SIZE_HW)
    assert (inside.label, inside.box_xyxy, inside.score) == ("a", box.box_xyxy, 0.4)
    assert inside.evidence == everything.evidence
    assert inside_box(everything, box).mask == masks.from_box(box.box_xyxy, size_hw=SIZE_HW)
    assert inside_box(nothing(box), box) == Instance("a", None, box.box_xyxy, score=0.0)
