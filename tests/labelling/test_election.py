"""Who labels a class: the nearest to people's masks, or to the other teachers; and how sure its answers then are."""

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.records import Instance, Rle
from segdist.labelling.consensus import CandidateMask
from segdist.labelling.election import EACH, ENOUGH, SURE, Poll, elected

SIZE_HW = (20, 40)


def bar(start: int, stop: int) -> Rle:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[5:15, start:stop] = True
    return masks.encode(mask)


def asked(label: str = "a") -> Instance:
    return Instance(label, None, (0.0, 0.0, 40.0, 20.0))


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
        poll.add(asked(), said(sam=(0, 10), box=(0, 20), thin=(0, 18)), bar(0, 10))
    choice = poll.choices()["a"]
    assert (choice.teacher, choice.by, choice.objects) == ("sam", "masks", ENOUGH)
    assert choice.would_give == pytest.approx({"sam": 1.0, "box": 0.5, "thin": 10 / 18})


def test_with_fewer_the_nearest_to_the_others_labels() -> None:
    poll = Poll()
    for n in range(ENOUGH):
        poll.add(asked(), said(sam=(0, 10), box=(0, 20), thin=(0, 18)), bar(0, 10) if n else None)
    choice = poll.choices()["a"]
    assert (choice.teacher, choice.by) == ("thin", "agreement")
    assert choice.would_give["thin"] == pytest.approx((10 / 18 + 18 / 20) / 2)


def test_without_human_masks_the_named_one_labels_where_another_agrees_beyond_chance() -> None:
    """Two large masks overlap more than a thin one does with any, and know nothing of it."""
    poll = Poll()
    poll.add(asked(), said(box=(0, 40), sam=(0, 36), otsu=(4, 20), thin=(4, 8)), None)
    assert (poll.choices(floor="box")["a"].teacher, poll.choices()["a"].by) == ("sam", "agreement")
    choice = poll.choices("thin", floor="box")["a"]
    assert (choice.teacher, choice.by, choice.objects) == ("thin", "name", 1)


def test_one_whom_nobody_agrees_with_but_by_chance_does_not_label() -> None:
    poll = Poll()
    poll.add(asked(), said(box=(0, 40), sam=(0, 30), otsu=(2, 28), thin=(32, 36)), None)
    assert poll.choices("thin", floor="box")["a"].teacher in ("sam", "otsu")
    assert poll.choices("thin", floor="box")["a"].by == "agreement"


def test_the_only_teacher_labels_where_nothing_speaks_for_or_against_it() -> None:
    poll = Poll()
    poll.add(asked(), said(box=(0, 40), thin=(4, 8)), None)
    assert poll.choices("thin", floor="box")["a"].teacher == "thin"


def test_agreement_beyond_chance_is_cohens_kappa_over_the_box() -> None:
    """Against the definition, on the table of the pixels of the box."""
    poll, rng = Poll(), np.random.default_rng(5)
    drawn = [rng.random(SIZE_HW) < share for share in (0.1, 0.4, 0.7)]
    drawn.append(drawn[0] | (rng.random(SIZE_HW) < 0.1))
    whole = (0.0, 0.0, 40.0, 20.0)
    poll.add(
        asked(), [CandidateMask(str(n), Instance("a", masks.encode(one), whole)) for n, one in enumerate(drawn)], None
    )
    found, compared = poll.content["pairs"]["a"], 0
    for n, one in enumerate(drawn):
        for k, other in enumerate(drawn):
            chance = one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean())
            kappa = ((one == other).mean() - chance) / (1 - chance)
            assert found[str(n)][str(k)][-1] == pytest.approx(kappa, abs=1e-9)
            compared += 1
    assert compared == 16


def test_classes_choose_for_themselves_and_polls_add_up() -> None:
    first, second, both = Poll(), Poll(), Poll()
    for n in range(2 * ENOUGH):
        truth, label = (bar(0, 10), "a") if n % 2 else (bar(0, 20), "b")
        for poll in (both, first if n < ENOUGH else second):
            poll.add(asked(label), said(sam=(0, 10), box=(0, 20)), truth)
    added = Poll()
    added.add_content(first.content)
    added.add_content(second.content)
    assert added.choices() == both.choices()
    assert {label: choice.teacher for label, choice in both.choices().items()} == {"a": "sam", "b": "box"}


def test_a_teacher_without_an_answer_agrees_with_nobody() -> None:
    poll = Poll()
    poll.add(asked(), said(sam=None, box=(0, 20), thin=(0, 18)), None)
    assert poll.choices()["a"].would_give["sam"] == 0


def test_the_chosen_answer_is_scored_by_who_agrees_with_it_and_not_by_itself() -> None:
    poll = Poll()
    poll.add(asked(), said(sam=(0, 10), thin=(0, 12), box=(0, 20)), None)
    choice = poll.choices()["a"]
    assert choice.teacher == "thin"
    (answer,) = elected(asked(), said(sam=(0, 10), thin=(0, 12), box=(0, 20)), choice)
    assert answer.instance.mask == bar(0, 12)
    assert answer.instance.score == pytest.approx(10 / 12)
    assert answer.instance.evidence is not None
    assert answer.instance.evidence.agreement == pytest.approx(10 / 12)
    (alone,) = elected(asked(), said(sam=(30, 40), thin=(0, 12), box=None), choice)
    assert alone.instance.score == 0


def taught() -> Poll:
    """Two teachers of which that one is right with whom a third agrees, more or less; the box is always too large."""
    poll = Poll()
    for n in range(2 * SURE):
        right, wrong = (0, 10 + n % 5), (20 + n % 3, 38)
        by_turns = {"sam": right, "otsu": wrong} if n % 2 else {"sam": wrong, "otsu": right}
        poll.add(asked(), said(**by_turns, thin=(0, 12 + n % 4), box=(0, 40)), bar(*right))
    return poll


def test_with_human_masks_each_object_gets_the_mask_that_is_foretold_to_be_the_best() -> None:
    choice = taught().choices()["a"]
    assert (choice.teacher, choice.by, choice.objects) == (EACH, "masks", 2 * SURE)
    single = max(value for name, value in choice.would_give.items() if name not in (EACH, "thin"))
    assert choice.would_give[EACH] > single + 0.2
    for right in ("sam", "otsu"):
        wrong = "otsu" if right == "sam" else "sam"
        (answer,) = elected(asked(), said(**{right: (0, 11), wrong: (22, 38)}, thin=(0, 13), box=(0, 40)), choice)
        assert answer.strategy in (right, "thin")
        assert answer.instance.score > 0.6, "foretold from what people drew elsewhere"


def test_scores_learned_from_human_masks_are_the_iou_on_average() -> None:
    rng = np.random.default_rng(3)
    poll, pairs = Poll(), []
    for n in range(80):
        end = int(rng.integers(12, 30))
        answers = said(sam=(0, end), otsu=(0, max(end + int(rng.integers(-4, 5)), 2)), box=(0, 40))
        truth = bar(0, max(end + int(rng.integers(-3, 4)), 2))
        if n < 40:
            poll.add(asked(), answers, truth)
        else:
            pairs.append((answers, truth))
    choice = poll.choices()["a"]
    found = [(elected(asked(), answers, choice)[0].instance, truth) for answers, truth in pairs]
    scores, ious = (
        np.array(v) for v in zip(*((i.score, masks.iou(i.mask, t)) for i, t in found if i.mask), strict=True)
    )
    assert abs(scores.mean() - ious.mean()) < 0.05


def test_a_class_with_few_human_masks_goes_by_those_of_others_too() -> None:
    poll = taught()
    for _ in range(3):
        poll.add(asked("rare"), said(sam=(0, 10), otsu=(0, 30), thin=(0, 12), box=(0, 40)), None)
    choice = poll.choices()["rare"]
    assert (choice.by, choice.objects) == ("masks", 0)
    assert choice.teacher == "thin", "the best of all classes, where the box agrees with otsu"
    assert set(choice.foretells) == {"sam", "otsu", "thin", "box"}


def test_few_human_masks_teach_no_scores() -> None:
    poll = Poll()
    for _ in range(SURE - 1):
        poll.add(asked(), said(sam=(0, 10), box=(0, 20)), bar(0, 10))
    assert poll.choices()["a"].foretells == {}


def test_where_nobody_was_chosen_all_answers_stand() -> None:
    answers = said(sam=(0, 10), box=(0, 20))
    assert elected(asked(), answers, None) == answers


def test_the_preferred_teacher_labels_unless_another_is_better_by_more_than_chance() -> None:
    poll = Poll()
    ends = [(10, 12), (14, 12), (11, 12), (13, 11)] * 2
    for sam, otsu in ends:
        poll.add(asked(), said(sam=(0, sam), otsu=(0, otsu), box=(0, 40)), bar(0, 12))
    ious = {
        name: [min(end, 12) / max(end, 12) for end in of]
        for name, of in zip(("sam", "otsu"), zip(*ends, strict=True), strict=True)
    }
    differences = np.array(ious["otsu"]) - np.array(ious["sam"])
    assert differences.mean() > differences.std(ddof=1) / np.sqrt(len(differences)), "so it is clear"
    assert poll.choices("sam")["a"].teacher == "otsu"
    close = Poll()
    for sam, otsu in [(10, 12), (12, 11), (13, 12), (12, 11)] * 2:
        close.add(asked(), said(sam=(0, sam), otsu=(0, otsu), box=(0, 40)), bar(0, 12))
    means = close.choices()["a"].would_give
    assert means["otsu"] > means["sam"]
    assert close.choices("sam")["a"].teacher == "sam"
    assert close.choices()["a"].teacher == close.choices("otsu")["a"].teacher == "otsu"


def test_nobody_is_preferred_to_the_filled_box_where_that_is_better_at_all() -> None:
    poll = Poll()
    for sam, box in [(10, 12), (12, 11), (13, 12), (12, 11)] * 2:
        poll.add(asked(), said(sam=(0, sam), box=(0, box)), bar(0, 12))
    assert poll.choices("sam")["a"].teacher == "sam"
    assert poll.choices("sam", floor="box")["a"].teacher == "box"
