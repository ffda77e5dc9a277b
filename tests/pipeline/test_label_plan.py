"""What a plan counts for labels: each set once, whoever shares it, and the students of each round."""

from dataclasses import replace
from typing import Any

import pytest

from segdist.core.errors import SpecError
from segdist.core.spec import SweepSpec
from segdist.datasets.excerpt import Excerpt
from segdist.engine.probe import Request
from segdist.pipeline import label_plan
from segdist.pipeline.label_plan import label_seconds, sets_of_labels, student_taken, students_of
from segdist.pipeline.packing import Node
from segdist.pipeline.probing import Answer, Taught
from tests.pipeline.test_plan import GB, taken

TEACHER = Taught(setup_seconds=2.0, image_seconds=0.5, memory=GB)
ROWS: dict[str, Any] = {"train": [], "val": []}
DATA = Excerpt(
    classes=("roof",),
    images={"train": 100, "val": 20},
    unmasked=frozenset(),
    rows=ROWS,
    shard_bytes=1e6,
    open_seconds=0.01,
    uri="",
)


def _sweep(space: dict[str, Any] | None = None, **policy: Any) -> SweepSpec:
    student = {"epochs": 8, "max_steps": 50, "batch_size": 10}
    return SweepSpec.model_validate(
        {
            "name": "s",
            "data": {"sources": [{"format": "synthetic"}], "boxes_only": ["train", "val"]},
            "model": {"family": "unet_cbam"},
            "label": {"teacher": {"family": "classical"}, "student": student, **policy},
            "space": space or {},
        }
    )


@pytest.mark.parametrize(("cpus", "at_once"), [(2, 2), (1, 1)])
def test_a_round_takes_its_students_steps_and_a_look_at_every_image(cpus: int, at_once: int) -> None:
    nodes = [Node("here", cpus, 0, 16 * GB)]
    none, one, two = (label_seconds(_sweep(rounds=rounds), DATA, TEACHER, taken({}), nodes) for rounds in range(3))
    assert none == pytest.approx(9 + 2 + 120 * 0.5 / at_once)
    steps = 8 * 5  # eight epochs of fifty images in batches of ten
    student = (6 + 1.0 + steps * 0.5) * (2 / at_once)
    assert one - none == pytest.approx(2 * 9 + student + 120 * 0.1 / at_once)
    assert two - one == pytest.approx(one - none)


@pytest.mark.parametrize("cpus", [2, 1])
def test_where_a_teacher_is_elected_all_are_asked_about_some_images_first(cpus: int) -> None:
    nodes = [Node("here", cpus, 0, 16 * GB)]
    alone, elected = (label_seconds(_sweep(policy=how), DATA, TEACHER, None, nodes) for how in ("vote", "auto"))
    assert elected - alone == pytest.approx(9 + 2 + 96 * 0.5 / cpus)
    few = replace(DATA, images={"train": 5, "val": 2, "test": 90})
    alone, elected = (label_seconds(_sweep(policy=how), few, TEACHER, None, nodes) for how in ("vote", "auto"))
    assert elected - alone == pytest.approx(9 + 2 + 7 * 0.5), "the test split is not asked about"


def test_what_searched_policies_have_in_common_is_counted_once() -> None:
    searched = _sweep({"label.rounds": [0, 1, 2]})
    assert (sets_of_labels(searched, DATA), students_of(searched, DATA)) == (3, 4)
    twice = _sweep({"label.rounds": [0, 1], "label.prompt": [{"strategy": "box"}, {"strategy": "jittered_box"}]})
    assert (sets_of_labels(twice, DATA), students_of(twice, DATA)) == (4, 4)
    assert (sets_of_labels(_sweep(), DATA), students_of(_sweep(), DATA)) == (1, 0)


def test_where_every_object_has_a_mask_nobody_is_asked_and_no_student_learns() -> None:
    whole = _sweep({"label.rounds": [0, 1]}, rounds=1)
    whole = whole.model_copy(update={"data": whole.data.model_copy(update={"boxes_only": ()})})
    assert (sets_of_labels(whole, DATA), students_of(whole, DATA)) == (2, 0)
    assert student_taken(whole, DATA, ROWS, most_bytes=0, beside=0) is None
    lacks_one = replace(DATA, unmasked=frozenset({"val"}))
    assert (sets_of_labels(whole, lacks_one), students_of(whole, lacks_one)) == (2, 2)
    node = [Node("here", 1, 0, 16 * GB)]
    none, some = (label_seconds(whole, data, TEACHER, None, node) for data in (DATA, lacks_one))
    assert some - none == pytest.approx(20 * 0.5)


def test_a_student_that_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def ask(request: Request, *, most_bytes: float) -> Answer:
        asked.append(request)
        answer = Answer(own=taken({}))
        answer.lack = "it needs more than 1.0 GB" if most_bytes < GB else ""
        return answer

    monkeypatch.setattr(label_plan, "ask", ask)
    assert student_taken(_sweep(), DATA, ROWS, most_bytes=2 * GB, beside=0) is None
    assert student_taken(_sweep(rounds=1), DATA, ROWS, most_bytes=2 * GB, beside=0) == taken({})
    assert asked[0].run.train.epochs == 8
    with pytest.raises(SpecError, match=r"student of `label.rounds` does not fit .* Lower `label.student.batch_size`"):
        student_taken(_sweep(rounds=1), DATA, ROWS, most_bytes=GB / 2, beside=0)
