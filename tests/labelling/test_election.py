"""Who labels a class: the nearest to people's masks, or to the other teachers; and how sure its answers then are."""

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.records import Instance, Rle
from segdist.labelling.consensus import CandidateMask
from segdist.labelling.election import ENOUGH, Poll, elected

SIZE_HW = (20, 40)


def bar(start: int, stop: int) -> Rle:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[5:15, start:stop] = True
    return masks.encode(mask)


def said(**spans: tuple[int, int] | None) -> list[CandidateMask]:
    """What each teacher drew: columns, or nothing."""
    boxes = (0.0, 0.0, 40.0, 20.0)
    return [
        CandidateMask(name, Instance("a", bar(*span) if span else None, boxes, score=0.9))
        for name, span in spans.items()
    ]


def test_with_enough_human_masks_the_nearest_to_them_labels() -> None:
    poll = Poll()
    for _ in range(ENOUGH):
        poll.add("a", said(sam=(0, 10), box=(0, 20), thin=(0, 18)), bar(0, 10))
    choice = poll.choices()["a"]
    assert (choice.teacher, choice.by, choice.objects) == ("sam", "masks", ENOUGH)
    assert choice.would_give == pytest.approx({"sam": 1.0, "box": 0.5, "thin": 10 / 18})


def test_with_fewer_the_nearest_to_the_others_labels() -> None:
    poll = Poll()
    for n in range(ENOUGH):
        poll.add("a", said(sam=(0, 10), box=(0, 20), thin=(0, 18)), bar(0, 10) if n else None)
    choice = poll.choices()["a"]
    assert (choice.teacher, choice.by) == ("thin", "agreement")
    assert choice.would_give["thin"] == pytest.approx((10 / 18 + 18 / 20) / 2)


def test_classes_choose_for_themselves_and_polls_add_up() -> None:
    first, second, both = Poll(), Poll(), Poll()
    for n in range(2 * ENOUGH):
        truth, label = (bar(0, 10), "a") if n % 2 else (bar(0, 20), "b")
        for poll in (both, first if n < ENOUGH else second):
            poll.add(label, said(sam=(0, 10), box=(0, 20)), truth)
    added = Poll()
    added.add_sums(first.sums)
    added.add_sums(second.sums)
    assert added.choices() == both.choices()
    assert {label: choice.teacher for label, choice in both.choices().items()} == {"a": "sam", "b": "box"}


def test_a_teacher_without_an_answer_agrees_with_nobody() -> None:
    poll = Poll()
    poll.add("a", said(sam=None, box=(0, 20), thin=(0, 18)), None)
    assert poll.choices()["a"].would_give["sam"] == 0


def test_the_chosen_answer_is_scored_by_who_agrees_with_it_and_not_by_itself() -> None:
    poll = Poll()
    poll.add("a", said(sam=(0, 10), thin=(0, 12), box=(0, 20)), None)
    choice = poll.choices()["a"]
    assert choice.teacher == "thin"
    (answer,) = elected(said(sam=(0, 10), thin=(0, 12), box=(0, 20)), choice)
    assert answer.instance.mask == bar(0, 12)
    assert answer.instance.score == pytest.approx(10 / 12)
    assert answer.instance.evidence is not None
    assert answer.instance.evidence.agreement == pytest.approx(10 / 12)
    (alone,) = elected(said(sam=(30, 40), thin=(0, 12), box=None), choice)
    assert alone.instance.score == 0


def test_where_nobody_was_chosen_all_answers_stand() -> None:
    answers = said(sam=(0, 10), box=(0, 20))
    assert elected(answers, None) == answers
