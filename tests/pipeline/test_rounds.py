"""Rounds of self-training: two students, each of which labels what the other has learned, and what becomes of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segdist.core import masks, storage
from segdist.core.errors import DataError
from segdist.core.spec import LabelSpec, SweepSpec
from segdist.datasets.shards import Dataset
from segdist.pages.labels import label_choices
from segdist.pipeline import label_pool, students
from segdist.pipeline.gpus import Given
from segdist.pipeline.ingest import ingest
from segdist.pipeline.label import label, label_key
from segdist.pipeline.students import student_run

OTSU: dict[str, Any] = {"family": "classical", "classical": {"method": "otsu"}}
BOX: dict[str, Any] = {"family": "classical", "classical": {"method": "box"}}
SMALL: dict[str, Any] = {
    "model": {"family": "unet_cbam", "unet_cbam": {"image_size": 64, "width": 8, "depth": 2}},
    "epochs": 12,
    "encoder_lr_factor": 1.0,
    "lr": 5e-3,
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds without Ray, in this process."""

    def asked(
        units: Sequence[dict[str, Any]], job: object, teacher: object, actor: Callable[..., Any]
    ) -> Iterator[str]:
        one = actor(job, teacher)
        for unit in units:
            yield one(unit)["text"]

    def mapped(_: object, function: Callable[..., Any], units: Sequence[dict[str, Any]], **__: object) -> Iterator[str]:
        for unit in units:
            answer = function(unit)
            assert not answer["error"], answer
            yield answer["text"]

    monkeypatch.setattr(label_pool, "asked", asked)
    monkeypatch.setattr(students, "map_items", mapped)
    monkeypatch.setattr(students, "connected", lambda: nullcontext(SimpleNamespace()))
    monkeypatch.setattr(students, "given", lambda *_: Given(0.0))
    monkeypatch.setattr(students, "slots", lambda *_, **__: 1)


def sweep(folder: Path, *, boxes_only: Sequence[str] = ("train", "val", "test"), **policy: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "storage": str(folder / "storage"),
            "data": {
                "sources": [{"format": "synthetic", "scene": "roofs", "count": 16, "size": 64, "empty_share": 0.0}],
                "split": {"val": 0.2, "test": 0.2, "seed": 0},
                "boxes_only": list(boxes_only),
            },
            "label": {"teacher": OTSU, "student": SMALL, "images_per_shard": 6, **policy},
            "model": {"family": "unet_cbam"},
        }
    )


def made(spec: SweepSpec, said: Callable[[str], None] = lambda _: None) -> Dataset:
    return label(spec, ingest(spec), said)


def test_a_round_adds_what_a_student_sees_where_it_and_the_label_agree_and_scores_by_that(tmp_path: Path) -> None:
    lines = list[str]()
    labels = made(sweep(tmp_path, rounds=1, student={**SMALL, "where_agreed": "both"}), lines.append)
    first = made(sweep(tmp_path))
    (this,) = labels.manifest.details["rounds"]
    assert set(this["taken"]) == {"both together", "first labels"}
    assert this["choices"] == {}, "there is no human mask that may be seen"
    before = {s.image_id: s for s in first.samples()}
    replaced = 0
    for sample in labels.samples():
        assert sample.source != before[sample.image_id].source
        for was, now in zip(before[sample.image_id].instances, sample.instances, strict=True):
            assert (was.label, was.box_xyxy) == (now.label, now.box_xyxy)
            if was.mask is None:
                assert now == was
                continue
            assert now.mask is not None
            replaced += now.mask != was.mask
            assert masks.intersection(was.mask, now.mask) == was.mask
            assert now.mask == was.mask or now.score >= 0.5
            assert now.evidence is not None
            assert now.score == now.evidence.agreement
    assert 5 < replaced <= this["taken"]["both together"]
    assert set(labels.manifest.details["quality"]["strategies"]) == {
        "first labels",
        "student",
        "both together",
        "what both have",
    }
    (said,) = label_choices(labels.manifest.details)
    assert said.startswith("round 1 of self-training: ")
    assert sum("has learned" in line for line in lines) == 2
    assert {s.image_id for s in labels.samples()} == set(before)


def test_students_look_only_at_images_that_they_have_not_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, set[str]] = {}
    taught: dict[str, set[str]] = {}
    learn, look = students._learn, students_look()

    def learning(run: Any, half: int, halves: Any, place: str, dataset: Dataset, *rest: Any, **more: Any) -> str:
        taught[place] = {s.image_id for s in dataset.samples("train") if halves.of(s) == half}
        return learn(run, half, halves, place, dataset, *rest, **more)

    def looking(spec: LabelSpec, classes: tuple[str, ...], uri: str) -> Any:
        teacher = look(spec, classes, uri)
        asked = teacher.candidates

        def candidates(questions: Sequence[Any]) -> Any:
            shown.setdefault(uri, set()).update(q.sample.image_id for q in questions)
            return asked(questions)

        monkeypatch.setattr(teacher, "candidates", candidates)
        return teacher

    monkeypatch.setattr(students, "_learn", learning)
    monkeypatch.setattr("segdist.pipeline.rounds.student", looking)
    labels = made(sweep(tmp_path, rounds=1))
    assert len(taught) == len(shown) == 2
    assert all(taught[place] and shown[place] and not taught[place] & shown[place] for place in taught)
    asked_about = {s.image_id for s in labels.samples() if any(i.evidence for i in s.instances)}
    assert set.union(*shown.values()) == asked_about


def students_look() -> Any:
    from segdist.pipeline.round_rows import student

    return student


def test_human_masks_stay_and_decide_whether_the_student_is_nearer(tmp_path: Path) -> None:
    labels = made(sweep(tmp_path, teacher=BOX, boxes_only=["train"], rounds=1))
    truth = {s.image_id: s for s in ingest(sweep(tmp_path)).samples()}
    for split in ("val", "test"):
        for sample in labels.samples(split):
            assert sample.instances == truth[sample.image_id].instances
    (this,) = labels.manifest.details["rounds"]
    choice = this["choices"]["roof"]
    assert choice["by"] == "masks"
    assert {"first labels", "student"} <= set(choice["would_give"])
    quality = labels.manifest.details["quality"]
    assert quality["iou"] >= quality["box_fill_iou"] - 0.02, "filled boxes were what there was"


def test_two_rounds_begin_with_one_and_an_interrupted_round_does_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = sweep(tmp_path, boxes_only=["train"], rounds=2)
    labels = made(spec)
    assert len(labels.manifest.details["rounds"]) == 2
    root = Path(labels.uri)
    (root / "manifest.json").unlink()
    (root / labels.manifest.shards[0]).unlink()
    kept = {e.uri: e.stamp for e in storage.find(labels.uri) if "poll" not in e.uri}
    monkeypatch.setattr(students, "_learn", lambda *_, **__: pytest.fail("learned again"))
    again = made(spec)
    assert again.manifest.content_hash == labels.manifest.content_hash
    now = {e.uri: e.stamp for e in storage.find(labels.uri)}
    assert {uri: now[uri] for uri in kept if "findings" not in uri} == {
        uri: stamp for uri, stamp in kept.items() if "findings" not in uri
    }


def test_labels_have_another_key_only_where_there_are_rounds(tmp_path: Path) -> None:
    dataset = ingest(sweep(tmp_path))
    none = label_key(sweep(tmp_path, student=None), dataset)
    assert none == label_key(sweep(tmp_path), dataset), "without rounds nobody learns"
    policies: list[dict[str, Any]] = [{"rounds": 1}, {"rounds": 2}, {"rounds": 1, "student": None}]
    keys = [label_key(sweep(tmp_path, **policy), dataset) for policy in policies]
    assert len({none, *keys}) == 4
    assert sweep(tmp_path, student=None).sweep_fingerprint != sweep(tmp_path, rounds=1).sweep_fingerprint


def test_nothing_to_learn_from_is_said_before_a_teacher_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_pool, "asked", lambda *_: pytest.fail("asked"))
    spec = sweep(tmp_path, rounds=1)
    dataset = ingest(spec)
    others = {name: counts for name, counts in dataset.manifest.splits.items() if name != "train"}
    untaught = Dataset(dataset.uri, dataset.manifest.model_copy(update={"splits": others}))
    with pytest.raises(DataError, match=r"`label.rounds: 1` .* `train` has 0 images .* set `label.rounds: 0`"):
        label(spec, untaught)


def test_a_student_takes_no_more_steps_than_it_may() -> None:
    policy = LabelSpec.model_validate({"teacher": BOX, "student": {"epochs": 10, "max_steps": 50}, "rounds": 1})
    assert student_run(policy, 16, seed=0).train.epochs == 10
    assert student_run(policy, 100, seed=0).train.epochs == 4
    assert student_run(policy, 9999, seed=0).train.epochs == 1
    assert students._most(policy, student_run(policy, 9999, seed=0)) == 400
