"""A round of self-training: whose mask an object has, with which score, and which student may look at which image."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.core.records import Evidence, Instance, Sample
from segdist.core.spec import StudentSpec
from segdist.labelling.election import Choice, Poll
from segdist.labelling.rounds import (
    BOTH,
    COMMON,
    STUDENT,
    can_teach,
    halves_of,
    is_relabelled,
    label_name,
    proposals,
    relabelled,
)

SIZE_HW = (20, 30)
BOX = (2.0, 3.0, 22.0, 13.0)
NAME = label_name(1)


def _mask(x1: int, x2: int) -> Mask:
    drawn = np.zeros(SIZE_HW, np.bool_)
    drawn[4:10, x1:x2] = True
    return drawn


def _object(drawn: Mask | None, score: float = 0.9) -> Instance:
    return Instance("crack", None if drawn is None else masks.encode(drawn), BOX, score, evidence=Evidence())


@pytest.mark.parametrize(("x1", "x2"), [(4, 20), (6, 18), (4, 12), (4, 11), (12, 20), (20, 24), (2, 14)])
@pytest.mark.parametrize("becomes", ["label", "student", "both", "common"])
def test_where_both_agree_the_mask_becomes_what_is_asked_and_the_agreement_is_the_score(
    x1: int, x2: int, becomes: Literal["label", "student", "both", "common"]
) -> None:
    label, drawn = _mask(4, 20), _mask(x1, x2)
    iou = (label & drawn).sum() / (label | drawn).sum()
    wanted = {"label": label, "student": drawn, "both": label | drawn, "common": label & drawn}[becomes]
    options = StudentSpec(where_agreed=becomes)
    found = relabelled(_object(label), _object(drawn), choice=None, name=NAME, options=options)
    assert found.instance.mask == masks.encode(wanted if iou >= 0.5 else label)
    assert (found.strategy == NAME) == (iou < 0.5 or becomes == "label")
    assert found.instance.score == pytest.approx(iou)
    assert found.instance.evidence is not None
    assert found.instance.evidence.agreement == pytest.approx(iou)


@pytest.mark.parametrize("nothing", [None, np.zeros(SIZE_HW, np.bool_)])
@pytest.mark.parametrize("who", ["", STUDENT, COMMON])
def test_where_the_student_sees_nothing_the_label_stays_and_nobody_vouches_for_it(
    nothing: Mask | None, who: str
) -> None:
    label, choice = _object(_mask(4, 20)), Choice(who, "masks", 9, {NAME: 0.1, STUDENT: 0.9}) if who else None
    found = relabelled(label, _object(nothing), choice=choice, name=NAME, options=StudentSpec(where_agreed="common"))
    assert (found.strategy, found.instance.mask, found.instance.score) == (NAME, label.mask, 0.0)


@pytest.mark.parametrize("nearer", [NAME, STUDENT, BOTH, COMMON])
def test_human_masks_decide_which_is_nearer_and_what_scores_say(nearer: str) -> None:
    poll, random = Poll(), np.random.default_rng(0)
    label, drawn = _object(_mask(4, 14)), _object(_mask(10, 20))
    for _ in range(40):
        shift = int(random.integers(0, 3))
        label, drawn = _object(_mask(4 + shift, 14)), _object(_mask(10 - shift, 20))
        said = proposals(label, drawn, name=NAME)
        truth = next(one.instance.mask for one in said if one.strategy == nearer)
        poll.add(_object(None), said, truth)
    (choice,) = poll.choices(NAME).values()
    assert (choice.by, choice.teacher) == ("masks", nearer)
    assert choice.would_give[nearer] == pytest.approx(1.0)
    found = relabelled(label, drawn, choice=choice, name=NAME, options=StudentSpec(agree_iou=0.99))
    assert found.strategy == nearer, "whether or not they agree"
    assert found.instance.score == pytest.approx(1.0, abs=0.1), "as near to the truth as this one always was"


@pytest.mark.parametrize("by", [STUDENT, BOTH, COMMON])
def test_masks_too_few_to_learn_scores_from_leave_the_agreement_of_student_and_label(by: str) -> None:
    label, drawn, choice = _mask(4, 14), _mask(10, 20), Choice(by, "masks", 6, {})
    found = relabelled(_object(label), _object(drawn), choice=choice, name=NAME, options=StudentSpec())
    assert found.strategy == by
    assert found.instance.score == pytest.approx((label & drawn).sum() / (label | drawn).sum())


def _samples(counts: dict[str, int]) -> list[Sample]:
    return [
        Sample(f"{group}-{n}", "", SIZE_HW, (), "train", group) for group, count in counts.items() for n in range(count)
    ]


@pytest.mark.parametrize(
    "counts", [{"a": 1, "b": 1}, {"a": 9, "b": 1, "c": 1}, {f"g{n}": 1 + n % 3 for n in range(50)}, {"": 31}, {"a": 7}]
)
def test_halves_keep_groups_together_and_are_about_equal(counts: dict[str, int]) -> None:
    samples = _samples(counts)
    halves = halves_of(samples)
    assert halves is not None
    of = [halves.of(sample) for sample in samples]
    together = len(counts) > 1
    assert not together or len({(s.group, half) for s, half in zip(samples, of, strict=True)}) == len(counts)
    largest = max(counts.values()) if together else 1
    assert abs(2 * sum(of) - len(of)) <= max(largest, len(of) - 2 * min(counts.values()))
    assert 0 < sum(of) < len(of)
    assert {halves.of(replace(s, split="test")) for s in samples} == {0, 1}, "any image is of one of them"


def test_one_image_has_no_halves() -> None:
    assert halves_of(_samples({"a": 1})) is None
    assert halves_of([]) is None


def test_masks_of_people_are_never_looked_at_and_boxes_without_a_mask_teach_nothing() -> None:
    human = Instance("crack", masks.encode(_mask(4, 9)), BOX)
    assert not is_relabelled(human)
    assert not is_relabelled(_object(None))
    assert is_relabelled(_object(_mask(4, 9)))
    empty, *_ = _samples({"a": 1})
    assert can_teach(empty)
    assert can_teach(replace(empty, instances=(human, _object(None))))
    assert not can_teach(replace(empty, instances=(_object(None),)))
