"""What MLflow's own page is told to show of a sweep."""

import base64
import json
import zlib
from typing import Any

import pytest
from mlflow import MlflowClient

from segdist.core.spec import SweepSpec
from segdist.tracking import Tracker, notes, views
from tests.tracking.conftest import start_sweep


def kept(tracker: Tracker, parent: str) -> dict[str, Any]:
    """The state as MLflow's page reads it."""
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment(client.get_run(parent).info.experiment_id)
    head, _, text = experiment.tags[views.TAG + views.key_of(parent)].partition(";")
    assert head == "deflate"
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return state


def test_a_sweep_has_a_view_of_its_trials_best_first_with_charts(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    tracker.save_view(parent, searched={"train.lr": True}, pictures=[["best/000", "best/001"], ["val/000", "val/001"]])
    state = kept(tracker, parent)
    assert state["searchFilter"] == f"tags.`mlflow.parentRunId` = '{parent}'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/val/iou`", False)
    assert "params.`train.lr`" in state["selectedColumns"]
    charts = {(chart["type"], chart["metricSectionId"]) for chart in state["compareRunCharts"]}
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {kind for kind, _ in charts} == {"LINE", "PARALLEL", "SCATTER", "IMAGE"}
    assert {section for _, section in charts} == sections
    grids = [chart["imageKeys"] for chart in state["compareRunCharts"] if chart["type"] == "IMAGE"]
    assert grids == [["best/000", "best/001"], ["val/000", "val/001"]], "tables: images in rows, trials in columns"
    client = MlflowClient(tracker.uri)
    assert client.search_runs([client.get_run(parent).info.experiment_id], state["searchFilter"]) == []


def test_of_a_distance_the_lowest_come_first(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    by_distance = Tracker(tracker.uri, metric="val/hausdorff_95")
    by_distance.save_view(parent, searched={})
    assert kept(tracker, parent)["orderByAsc"] is True


def test_a_view_of_many_keys_fits_mlflow_and_a_later_one_takes_its_place(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    for many in (1, 60):
        keys = {f"model.a_family.some_long_key_{i}": i < 3 for i in range(many)}
        tracker.save_view(parent, searched=keys, pictures=[["a"] * 8])
    state = kept(tracker, parent)
    assert len(state["selectedColumns"]) == 12 + 5
    (parallel,) = (chart for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert len(parallel["selectedParams"]) == 3, "what not every trial has would hide it"


def test_links_open_the_view_on_the_server_or_where_mlflow_ui_shows_a_database(
    tracker: Tracker, spec: SweepSpec
) -> None:
    parent = start_sweep(tracker, spec)
    links = tracker.links(parent, winner="w")
    experiment = MlflowClient(tracker.uri).get_run(parent).info.experiment_id
    assert links["charts"].startswith(
        f"http://127.0.0.1:5000/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=segdist-"
    )
    assert "/runs/w?" in links["winner"]
    assert "winner" not in tracker.links(parent)
    assert views.links("http://host:1/", "2", parent)["models"].startswith("http://host:1/#/experiments/2/models?")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train.lr": 0.0093}, "lr=9.3e-3"),
        ({"train.lr": 0.25, "train.adapter.rank": 8}, "lr=0.25 rank=8"),
        ({"a.width": 1, "b.width": 2}, "a.width=1 b.width=2"),
        ({"train.augment": ["flip", "blur"], "x": None}, 'augment=["flip", "blur"] x=null'),
        ({"train.weight_decay": 0.0, "label.prompt": "box"}, "weight_decay=0 prompt=box"),
    ],
)
def test_the_name_of_a_trial_says_what_differs(values: dict[str, object], said: str) -> None:
    assert notes.differing(values) == said
