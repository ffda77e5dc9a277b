"""What the trials of a sweep were scored against is recalled with its pseudo-labels, where it has them."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import pytest

from segdist.commands.recalled import dataset_of, recall, rows_of_sweep
from segdist.core.masks import decode, encode
from segdist.core.records import Sample
from segdist.core.spec import SweepSpec
from segdist.datasets.cache import Rows
from segdist.datasets.shards import Dataset, write_manifest, write_shard
from segdist.metrics import evaluator_of
from segdist.pipeline.evaluate import evaluate_trials
from segdist.pipeline.ingest import ingest
from segdist.tracking import Tracker, names
from tests.pipeline.inline import Inline
from tests.pipeline.test_evaluate import job_of, sweep, trial
from tests.tracking.conftest import storage, tracker

__all__ = ["storage", "sweep", "tracker"]


@pytest.fixture
def labels(sweep: SweepSpec, tmp_path: Path) -> Dataset:
    """A teacher labelled all validation images but the first; it sees every object three pixels to the right."""
    known = [s for s in ingest(sweep).samples() if s.split == "val"][1:]
    part = write_shard(str(tmp_path / "labels" / "0.parquet"), [(_moved(sample), None) for sample in known])
    return write_manifest(str(tmp_path / "labels"), "labels", ("roof",), [part])


@pytest.mark.parametrize("boxes_only", [(), ("val",)])
def test_trials_are_shown_against_the_very_truth_that_they_were_scored_against(
    tracker: Tracker, sweep: SweepSpec, labels: Dataset, boxes_only: tuple[str, ...]
) -> None:
    spec = sweep.model_copy(update={"data": sweep.data.model_copy(update={"boxes_only": boxes_only})})
    parent = tracker.start_sweep(
        spec.name, spec.sweep_fingerprint, spec_text=spec.model_dump_json(), spec_file="", params={},
        tags={"segdist.kind": "sweep", names.LABELS_PLACE: labels.uri}, dataset=ingest(spec).manifest,
    )  # fmt: skip
    run_id = trial(tracker, spec, parent, 1)
    job = replace(job_of(spec), labels_uri=labels.uri, boxes_only=boxes_only)
    evaluate_trials(cast("ModuleType", Inline), tracker, parent, job)
    scored = tracker.read_json(run_id, "evaluation/val.json")["metrics"]["iou"]
    record = tracker.sweep(parent)
    dataset = dataset_of(record)
    rows, human = rows_of_sweep(record, dataset, "val"), dataset.reader("val", Path(spec.storage) / "cache")
    first, *others = [rows.sample(k) for k in range(len(rows))]
    assert [sample.source for sample in others] == ["teacher"] * len(others)
    assert all((i.mask is None) == bool(boxes_only) for i in first.instances), "nobody labelled it"
    assert _iou(tracker, run_id, rows) == pytest.approx(scored)
    assert _iou(tracker, run_id, human) != pytest.approx(scored), "people's masks would give another score"
    of_training = rows_of_sweep(record, dataset, "train")
    assert all(i.mask is not None for i in of_training.sample(0).instances), "masks are hidden in val alone"


def _iou(tracker: Tracker, run_id: str, rows: Rows) -> float:
    """Over all images, by what the trial left."""
    left = recall(tracker, run_id, "val")
    assert left is not None
    evaluator = evaluator_of(left.classes, left.evaluate, ["iou"])
    for sample in (rows.sample(k) for k in range(len(rows))):
        evaluator.add(sample, left.predictions.get(sample.image_id))
    return evaluator.values()["iou"]


def _moved(sample: Sample) -> Sample:
    masks = [(i, np.roll(decode(i.mask), 3, axis=1)) for i in sample.instances if i.mask is not None]
    found = [replace(i, mask=encode(mask_HW), box_xyxy=encode(mask_HW).box_xyxy) for i, mask_HW in masks]
    return replace(sample, instances=tuple(found), source="teacher")
