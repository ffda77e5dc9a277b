"""Labelling: boxes become masks, human masks stay, truth stays hidden, and a killed run goes on where it was."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdist import metrics
from segdist.core import masks, storage
from segdist.core.errors import SpecError, WeightsError
from segdist.core.plugins import Question
from segdist.core.records import Instance, Prediction, Sample, Verdict
from segdist.core.spec import LabelSpec, SweepSpec
from segdist.datasets.rows import without_masks
from segdist.datasets.shards import MANIFEST, Dataset, ShardSummary, write_manifest, write_shard
from segdist.formats.synthetic import Format, Options
from segdist.labelling.consensus import CandidateMask
from segdist.labelling.quality import summarise
from segdist.pages.labels import are_made
from segdist.pipeline import label as module
from segdist.pipeline import label_pool
from segdist.pipeline.label import label, label_key, label_root
from segdist.pipeline.label_rows import LabelJob, LabelShard, LabelUnit, TeacherMaker, calls, label_samples
from segdist.pipeline.teacher import Teacher

LABEL = {"teacher": {"family": "sam"}, "images_per_shard": 4, "actors": 2}


class Ellipses(Teacher):
    """A teacher that answers each box with the ellipse in it, and asserts that it sees no mask."""

    def candidates(self, questions: Sequence[Question]) -> list[list[list[CandidateMask]]]:
        found = []
        for question in questions:
            size_hw = question.sample.size_hw
            assert question.image_HWC.shape[:2] == size_hw
            assert question.indices, "images without boxes must never be shown to a teacher"
            assert all(i.mask is None for i in question.asked)
            found.append([[CandidateMask("box", _ellipse(i, size_hw))] for i in question.asked])
        return found


class Unloadable(Teacher):
    """A teacher whose weights are not there."""

    def candidates(self, questions: Sequence[Question]) -> list[list[list[CandidateMask]]]:
        raise WeightsError("There are no weights at nowhere.pth. Download them.")


class Unasked(Teacher):
    """A teacher that nobody has a question for."""

    def candidates(self, questions: Sequence[Question]) -> list[list[list[CandidateMask]]]:
        assert not questions
        return []


def _ellipse(instance: Instance, size_hw: tuple[int, int]) -> Instance:
    x1, y1, x2, y2 = instance.box_xyxy
    y, x = np.mgrid[0 : size_hw[0], 0 : size_hw[1]] + 0.5
    inside = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 <= 0.25
    return Instance(instance.label, masks.encode(inside), instance.box_xyxy, score=0.8)


def _rows(count: int, split: str = "train") -> list[tuple[Sample, bytes]]:
    source = Format(Options(scene="roofs", count=count, size=64))
    return [(replace(s, split=split), source.image_bytes(s)) for s in source.read(lambda _: None)]


def _job(**fields: Any) -> LabelJob:
    spec = LabelSpec.model_validate({**LABEL, **fields.pop("spec", {})})
    return LabelJob(**{"label": spec, "classes": ("roof",), "hidden": ("train",), "source": "label-x", **fields})


def _teacher(job: LabelJob) -> Ellipses:
    return Ellipses(job.label, job.classes)


def test_hidden_masks_are_replaced_and_measured_as_the_reference_measures_them() -> None:
    rows, job = _rows(6), _job()
    made, findings, notes = label_samples(rows, job, _teacher(job))
    truth = [sample for sample, _ in rows]
    assert findings == []
    assert all(s.source == "label-x" for s in made if s.instances)
    for true, guess in zip(truth, made, strict=True):
        assert [i.box_xyxy for i in guess.instances] == [i.box_xyxy for i in true.instances]
        assert all(g.mask != t.mask for g, t in zip(guess.instances, true.instances, strict=True))
        assert {i.score for i in guess.instances} <= {0.8}
    predictions = [Prediction(s.image_id, s.instances) for s in made]
    objects = sum(len(s.instances) for s in truth)
    for row in ("label", "accepted", "box"):
        sums = notes["quality"]["roof"][row]
        assert sums[0] == objects
        assert sums[1] / objects == pytest.approx(metrics.prompted_iou(truth, predictions)["prompted_iou"])
    assert sums[3] / objects == pytest.approx(metrics.prompted_iou(truth, metrics.box_fill(truth))["prompted_iou"])


def test_human_masks_are_kept_where_they_are_not_hidden() -> None:
    rows, job = _rows(3, "val"), _job()
    made, _, notes = label_samples(rows, job, _teacher(job))
    assert made == [sample for sample, _ in rows]
    assert notes["quality"] == {}
    assert notes["counts"] == {"labelled": 0, "review": 0, "rejected": 0, "kept": sum(len(s.instances) for s in made)}


def test_only_the_instances_without_a_mask_are_asked_for() -> None:
    ((sample, content), *_) = _rows(1, "val")
    first, *others = sample.instances
    mixed = replace(sample, instances=(replace(first, mask=None), *others))
    job = _job()
    ((made,), _, notes) = label_samples([(mixed, content)], job, _teacher(job))
    assert made.instances[0].mask is not None
    assert made.instances[1:] == tuple(others)
    assert notes["counts"]["labelled"] == 1


def test_masks_under_a_limit_stay_boxes_and_wait_or_are_dropped_with_what_was_proposed() -> None:
    rows = _rows(2)
    objects = sum(len(s.instances) for s, _ in rows)
    for limit, verdict, count in (("reject", Verdict.REJECT, "rejected"), ("review", Verdict.REVIEW, "review")):
        job = _job(spec={limit: {"score": 0.9}})
        made, _, notes = label_samples(rows, job, _teacher(job))
        labels = [i for s in made for i in s.instances]
        assert all(i.mask is None and i.evidence and i.evidence.verdict == verdict for i in labels)
        assert notes["counts"][count] == objects
        found = summarise([notes])["quality"]
        assert found["accepted"] is None
        assert found["iou"] > 0.5, "what was proposed is measured all the same"


def test_images_without_boxes_and_crowds_pass_through_unasked_and_empty_boxes_are_named() -> None:
    ((sample, content), *_) = _rows(1)
    empty = replace(sample, instances=())
    outside = Instance("roof", None, (70, 3, 90, 9))
    crowd = Instance("roof", None, (0, 0, 9, 9), is_crowd=True)
    odd = replace(sample, instances=(crowd, Instance("roof", None, (3, 3, 3, 9)), outside))
    job = _job()
    made, findings, _ = label_samples([(empty, content), (odd, content)], job, _teacher(job))
    assert made == [empty, odd]
    assert [(f.code, f.annotation) for f in findings] == [("box-empty", "1"), ("box-empty", "2")]


def test_one_bad_image_is_named_and_the_rest_is_labelled() -> None:
    rows, job = _rows(4), _job()
    rows[1] = (rows[1][0], rows[1][1][:50])
    made, findings, _ = label_samples(rows, job, _teacher(job))
    assert [(f.code, f.image) for f in findings] == [("image-unreadable", rows[1][0].image_id)]
    assert made[1] == without_masks(rows[1][0])
    assert all(i.mask is not None for s in (made[0], made[2], made[3]) for i in s.instances)


def test_bad_images_among_many_are_named_in_order_although_several_are_decoded_ahead() -> None:
    rows, job = _rows(19), _job()
    bad = (3, 7, 8, 18)
    for n in bad:
        rows[n] = (rows[n][0], rows[n][1][:50])
    made, findings, notes = label_samples(rows, job, _teacher(job))
    assert [f.image for f in findings] == [rows[n][0].image_id for n in bad]
    assert [s.image_id for s in made] == [s.image_id for s, _ in rows]
    assert notes["counts"]["labelled"] == sum(len(s.instances) for n, (s, _) in enumerate(rows) if n not in bad)


def test_large_images_are_shown_a_few_at_once_and_small_ones_in_eights() -> None:
    (small, _), *_ = _rows(1)
    large, huge = replace(small, size_hw=(5184, 7744)), replace(small, size_hw=(13_000, 13_000))
    shown = [small] * 9 + [large] * 3 + [huge] * 2 + [small]
    found = list(calls(shown))
    assert [n for call in found for n in range(len(shown))[call]] == list(range(len(shown)))
    assert [call.stop - call.start for call in found] == [8, 2, 1, 1, 1, 1, 1]
    assert list(calls([])) == []


def test_the_quality_of_several_shards_is_the_mean_over_objects() -> None:
    notes = [
        {"counts": {"labelled": 3}, "quality": {"a": {"label": [3, 1.5, 1, 0.6, 0], "accepted": [2, 1.4, 1, 0.4, 0]}}},
        {
            "counts": {"labelled": 2},
            "quality": {"a": {"label": [1, 0.9, 1, 0.2, 0]}, "b": {"label": [1, 0.1, 0, 0.1, 0]}},
        },
    ]
    found = summarise(notes)
    assert found["labelled"] == 5
    assert found["quality"]["iou"] == pytest.approx(2.5 / 5)
    assert found["quality"]["box_fill_iou"] == pytest.approx(0.9 / 5)
    assert found["quality"]["accepted"]["iou"] == pytest.approx(0.7)
    assert found["quality"]["per_class"]["a"]["iou"] == pytest.approx(0.6)
    assert summarise([])["quality"] is None


def _dataset(root: Path, count: int = 14) -> Dataset:
    rows = _rows(count)
    shards = [write_shard(str(root / f"train-{n:05d}.parquet"), rows[n * 7 : n * 7 + 7]) for n in range(-(-count // 7))]
    return write_manifest(str(root), "dataset", ("roof",), shards)


def _sweep(folder: Path, **fields: Any) -> SweepSpec:
    content = {
        "name": "t",
        "storage": str(folder),
        "model": {"family": "unet_cbam"},
        "data": {"sources": [{"format": "synthetic"}], "boxes_only": ["train"]},
        "label": {**LABEL, **fields},
    }
    return SweepSpec.model_validate(content)


@pytest.mark.usefixtures("cluster")
def test_a_pool_of_teachers_labels_every_image_once_and_the_second_time_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, spec, said = _dataset(tmp_path / "d"), _sweep(tmp_path), list[str]()
    labels = label(spec, dataset, said.append, teacher=Ellipses)
    assert {s.image_id for s in labels.samples()} == {s.image_id for s in dataset.samples()}
    assert len(list(labels.samples())) == 14
    assert len(labels.manifest.shards) == 4
    assert labels.manifest.details["quality"]["iou"] > 0.5
    assert (said[0], len(said)) == ("labelling 14 images in 4 shards", 1 + 4)
    rows = dataset.reader("train", tmp_path / "cache", labels=labels, hide_masks=True)
    truth = {s.image_id: s for s in dataset.samples()}
    for index in range(len(rows)):
        sample, _ = rows[index]
        hidden = {i.mask for i in truth[sample.image_id].instances}
        assert not hidden & {i.mask for i in sample.instances}
    monkeypatch.setattr(module, "_run", lambda *_: pytest.fail("labelled again"))
    assert label(spec, dataset).manifest == labels.manifest


@pytest.mark.parametrize("hidden", [(), ("val",)])
def test_where_every_object_has_a_mask_nobody_is_asked_and_no_student_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: tuple[str, ...]
) -> None:
    def inline(units: Sequence[LabelUnit], job: LabelJob, maker: TeacherMaker) -> Iterator[ShardSummary]:
        for unit in units:
            yield ShardSummary.model_validate_json(LabelShard(job, maker)(unit)["text"])

    monkeypatch.setattr(module, "_run", inline)
    monkeypatch.setattr(label_pool, "asked", lambda *_: pytest.fail("a poll was held"))
    monkeypatch.setattr(module, "self_trained", lambda *_: pytest.fail("students learned"))
    dataset, spec = _dataset(tmp_path / "d"), _sweep(tmp_path, policy="auto", rounds=1)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"boxes_only": hidden})})
    labels = label(spec, dataset, teacher=Unasked)
    assert [s.instances for s in labels.samples()] == [s.instances for s in dataset.samples()]
    assert not are_made(labels.manifest.details)
    assert (labels.manifest.details["kept"], labels.manifest.details["choices"]) == (
        sum(len(s.instances) for s in dataset.samples()), {},
    )  # fmt: skip
    assert storage.exists(storage.join(label_root(spec, dataset), MANIFEST))


@pytest.mark.usefixtures("cluster")
def test_what_is_wrong_with_some_images_is_counted_and_named_and_the_rest_is_labelled(tmp_path: Path) -> None:
    rows = _rows(6)
    rows[2] = (rows[2][0], rows[2][1][:50])
    rows[3] = (replace(rows[3][0], instances=()), rows[3][1])
    outside = Instance("roof", None, (70.0, 3.0, 90.0, 9.0))
    rows[4] = (replace(rows[4][0], instances=(*rows[4][0].instances, outside)), rows[4][1])
    shard = write_shard(str(tmp_path / "d" / "train-00000.parquet"), rows)
    dataset = write_manifest(str(tmp_path / "d"), "dataset", ("roof",), [shard])
    labels = label(_sweep(tmp_path), dataset, teacher=Ellipses)
    assert labels.manifest.findings == {"skipped": {"box-empty": 1, "image-unreadable": 1}}
    assert {f.image for f in labels.findings()} == {rows[2][0].image_id, rows[4][0].image_id}
    masks_of = {s.image_id: [i.mask for i in s.instances] for s in labels.samples()}
    assert list(masks_of) == [s.image_id for s, _ in rows]
    assert set(masks_of[rows[2][0].image_id]) == {None}
    assert masks_of[rows[4][0].image_id][-1] is None
    labelled = [m for n in (0, 1, 5) for m in masks_of[rows[n][0].image_id]] + masks_of[rows[4][0].image_id][:-1]
    assert labelled
    assert None not in labelled


@pytest.mark.usefixtures("cluster")
def test_a_pool_that_may_grow_beyond_the_cluster_makes_the_same_labels(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", 7)
    steady = label(_sweep(tmp_path / "a", actors=1), dataset, teacher=Ellipses)
    growing = label(_sweep(tmp_path / "b", actors=1, max_actors=9, images_per_shard=1), dataset, teacher=Ellipses)
    assert [s.instances for s in growing.samples()] == [s.instances for s in steady.samples()]


def test_the_pool_grows_where_it_may() -> None:
    import ray

    steady, growing = label_pool._pool(ray, 2, 2), label_pool._pool(ray, 2, 5)
    assert (steady.min_size, steady.max_size) == (2, 2)
    assert (growing.min_size, growing.max_size, growing.initial_size) == (2, 5, 2)
    with pytest.raises(ValueError, match="`actors <= max_actors` must hold"):
        LabelSpec.model_validate({**LABEL, "max_actors": 1})


@pytest.mark.usefixtures("cluster")
def test_a_killed_run_labels_only_what_is_missing_and_ends_the_same(tmp_path: Path) -> None:
    dataset, spec = _dataset(tmp_path / "d"), _sweep(tmp_path)
    whole = label(spec, dataset, teacher=Ellipses)
    manifest = Path(whole.uri) / "manifest.json"
    manifest.unlink()
    lost = Path(whole.uri) / whole.manifest.shards[1]
    lost.unlink()
    stamps = {e.uri: e.stamp for e in storage.find(whole.uri, suffix=".parquet")}
    again = label(spec, dataset, teacher=Ellipses)
    assert again.manifest.content_hash == whole.manifest.content_hash
    now = {e.uri: e.stamp for e in storage.find(whole.uri, suffix=".parquet")}
    assert {uri: now[uri] for uri in stamps} == stamps
    assert set(now) - set(stamps) == {str(lost)}


@pytest.mark.usefixtures("cluster")
def test_missing_weights_are_a_plain_error_although_they_are_missed_on_a_worker(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"^There are no weights at nowhere\.pth"):
        label(_sweep(tmp_path), _dataset(tmp_path / "d"), teacher=Unloadable)


def test_the_key_follows_the_policy_and_not_how_many_work_on_it(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", 7)
    key = label_key(_sweep(tmp_path), dataset)
    assert key == label_key(_sweep(tmp_path, actors=1, images_per_shard=9), dataset)
    assert key == label_key(_sweep(tmp_path, max_actors=9, compile=True), dataset)
    on_cpu = _sweep(tmp_path, precision="bfloat16", gpus_per_actor=0)
    assert key == label_key(on_cpu, dataset), "without a GPU it is float32"
    assert key != label_key(_sweep(tmp_path, precision="bfloat16"), dataset), "there may be one"
    assert key != label_key(_sweep(tmp_path, precision="bfloat16", gpus_per_actor=1), dataset)
    assert key != label_key(_sweep(tmp_path, reject={"score": 0.5}), dataset)
    space = {"teacher": {"family": "sam", "sam": {"embeddings_gb": 1.5}}}
    assert key == label_key(_sweep(tmp_path, **space), dataset), "how much may be kept changes no label"
    (tmp_path / "w.pth").write_bytes(b"one")
    weights = {"teacher": {"family": "sam", "sam": {"checkpoint": str(tmp_path / "w.pth")}}}
    before = label_key(_sweep(tmp_path, **weights), dataset)
    (tmp_path / "w.pth").write_bytes(b"other")
    assert before != label_key(_sweep(tmp_path, **weights), dataset)


def test_a_teacher_that_takes_no_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs a teacher that takes box prompts"):
        label(_sweep(tmp_path, teacher={"family": "unet_cbam"}), _dataset(tmp_path / "d", 7))
