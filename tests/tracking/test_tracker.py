import json
import math
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from segdist.core.drivers import is_gone, this_driver
from segdist.core.errors import BackendError
from segdist.core.spec import SweepSpec
from segdist.tracking import Measured, Tracker, names
from tests.tracking.conftest import DATASET, log_epochs, start_sweep, start_trial


def client(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracker.uri)


def test_a_sweep_started_again_is_the_same_run_and_shows_what_it_was_started_with(
    tracker: Tracker, spec: SweepSpec, tmp_path: Path
) -> None:
    file = tmp_path / "cracks.yaml"
    file.write_text("name: cracks  # ä\n", "utf-8")
    first = start_sweep(tracker, spec, str(file))
    tracker.end(first)
    assert start_sweep(Tracker.for_sweep(spec), spec, str(file)) == first
    record = tracker.latest_sweep("cracks")
    assert (record.run_id, record.status, record.question) == (first, "RUNNING", "Where is the wall cracked?")
    assert record.spec == spec.model_dump(mode="json")
    assert record.file_text == "name: cracks  # ä\n"
    assert record.dataset is not None
    assert (record.dataset.digest, record.dataset.profile["classes"]) == (DATASET.content_hash, ["crack", "seam"])
    assert {"mlflow", "torch", "numpy"} <= set(record.environment["packages"])
    found = tracker.find_sweep("cracks", spec.sweep_fingerprint)
    assert found is not None
    assert found.run_id == first


def test_a_sweep_with_other_values_is_another_run_and_the_last_started_one_is_the_latest(
    tracker: Tracker, spec: SweepSpec
) -> None:
    first = start_sweep(tracker, spec)
    other = spec.model_copy(update={"seed": 1})
    assert tracker.find_sweep("cracks", other.sweep_fingerprint) is None
    second = start_sweep(tracker, other)
    assert first != second
    assert tracker.latest_sweep("cracks").run_id == second
    start_sweep(tracker, spec)
    assert tracker.latest_sweep("cracks").run_id == first


def test_a_resumed_trial_keeps_its_run_and_the_parameters_it_had(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    run = start_trial(tracker, parent, params={"train.lr": 1e-3})
    tracker.end(run, "KILLED")
    again = start_trial(Tracker.for_sweep(spec), parent, params={"train.lr": 5e-3, "train.epochs": 4})
    assert again == run
    (trial,) = tracker.trials(parent)
    assert trial.status == "RUNNING"
    assert trial.params == {"train.lr": 1e-3, "train.epochs": 4}


def test_parameters_come_back_with_the_types_they_had(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    params = {
        "train": {"lr": 3e-4, "epochs": 4, "augment": ["flip", "brightness"], "loss": {}},
        "model": {"family": "sam", "sam": {"size": "tiny", "checkpoint": None, "looks_like": "1e-3", "yes": True}},
    }
    start_trial(tracker, parent, params=params)
    (trial,) = tracker.trials(parent)
    assert trial.params == {
        "train.lr": 3e-4,
        "train.epochs": 4,
        "train.augment": ["flip", "brightness"],
        "train.loss": {},
        "model.family": "sam",
        "model.sam.size": "tiny",
        "model.sam.checkpoint": None,
        "model.sam.looks_like": "1e-3",
        "model.sam.yes": True,
    }


def test_long_parameters_many_parameters_and_foreign_names_are_accepted(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    many = {f"option {i}": i for i in range(250)}
    run = start_trial(tracker, parent, params={"long": "ä" * 20_000, **many, "größe (m²)/../a//b": 1})
    tracker.log_metrics(run, {"val/iou/Fenster & Türen: 50%": 0.5, "val/iou": 0.5}, step=1)
    (trial,) = tracker.trials(parent)
    assert len(trial.params["long"]) == 6000
    assert trial.params["long"].endswith("…")
    assert trial.params["option 249"] == 249
    assert trial.params["größe (m²)/../a//b"] == 1
    assert trial.metrics["val/iou/Fenster & Türen: 50%"] == 0.5


def test_classes_that_differ_in_one_foreign_character_are_two_metrics(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    run = start_trial(tracker, parent, params={"min_scores": {"<1mm": 0.1, ">1mm": 0.2}})
    values = {f"val/iou/{name}": n / 10 for n, name in enumerate(["<1mm", ">1mm", "?1mm", "a//b", "a/b", ".", ""])}
    tracker.log_metrics(run, {"val/iou": 0.5, **values}, step=1)
    (trial,) = tracker.trials(parent)
    assert {name: trial.metrics[name] for name in values} == values
    assert [trial.params[f"min_scores.{name}"] for name in ("<1mm", ">1mm")] == [0.1, 0.2]
    assert tracker.history(run, "val/iou/>1mm") == [(1, 0.1)]


def test_a_record_shows_the_best_epoch_and_mlflow_the_last_one_too(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    run = start_trial(tracker, parent)
    scores = enumerate((0.2, 0.6, 0.4), start=1)
    epochs = [{"val/iou": iou, "val/dice": iou + 0.1, "train/loss": 1 / epoch} for epoch, iou in scores]
    log_epochs(tracker, run, *epochs, seconds=5.0)
    (trial,) = tracker.trials(parent)
    assert trial.metrics["val/iou"] == 0.6
    assert trial.metrics["val/dice"] == pytest.approx(0.7)
    assert trial.metrics["train/loss"] == pytest.approx(1 / 3)
    assert (trial.epochs, trial.best_epoch, trial.seconds) == (3, 2, 15.0)
    assert tracker.history(run, "val/iou") == [(1, 0.2), (2, 0.6), (3, 0.4)]
    assert client(tracker).get_run(run).data.metrics["val/iou"] == 0.4


def test_the_best_survives_a_resumption_and_a_repeated_epoch_counts_once(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    run = start_trial(tracker, parent)
    log_epochs(tracker, run, {"val/iou": 0.6}, {"val/iou": 0.3})
    resumed = pickle.loads(pickle.dumps(tracker))
    first = Measured(1, {"val/iou": 0.6}, 2.0)
    resumed.log_epochs(run, [first, Measured(2, {"val/iou": 0.5}, 3.0)], new={2})
    (trial,) = resumed.trials(parent)
    assert (trial.metrics["val/iou"], trial.best_epoch, trial.seconds) == (0.6, 1, 5.0)
    assert resumed.history(run, "val/iou") == [(1, 0.6), (2, 0.5)]


def test_values_that_are_not_finite_are_left_out(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    run = start_trial(tracker, parent)
    values = {"val/iou": math.nan, "val/iou/door": math.nan, "loss": math.inf, "lr": 0.1}
    tracker.log_metrics(run, values, step=1)
    (trial,) = tracker.trials(parent)
    assert trial.metrics == {"lr": 0.1}
    json.dumps(trial.metrics, allow_nan=False)


def test_trials_come_best_first_and_those_without_a_score_last(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    for number, iou in enumerate((0.3, None, 0.7, 0.5)):
        run = start_trial(tracker, parent, number)
        if iou is not None:
            tracker.log_metrics(run, {"val/iou": iou}, step=1)
        tracker.end(run, "FINISHED" if iou else "FAILED", reason="" if iou else "CUDA out of memory")
    trials = tracker.trials(parent)
    assert [t.number for t in trials] == [2, 3, 0, 1]
    assert [t.is_baseline for t in trials] == [False, False, True, False]
    assert (trials[-1].status, trials[-1].reason) == ("FAILED", "CUDA out of memory")


def test_of_a_distance_the_lowest_is_best_of_epochs_and_of_trials(storage: Path, spec: SweepSpec) -> None:
    tracker = Tracker.at(str(storage), metric="val/hausdorff_95")
    parent = start_sweep(tracker, spec)
    for number, first in enumerate((9.0, None, 5.0)):
        run = start_trial(tracker, parent, number)
        distances = (first, first - 3, first + 1) if first else ()
        log_epochs(tracker, run, *({"val/hausdorff_95": distance} for distance in distances))
    found = [(t.number, t.metrics.get("val/hausdorff_95"), t.best_epoch) for t in tracker.trials(parent)]
    assert found == [(2, 2.0, 2), (0, 6.0, 2), (1, None, 0)]


def test_orphans_are_killed_living_trials_kept_and_second_runs_deleted(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    alive, orphan, done = (start_trial(tracker, parent, number) for number in range(3))
    tracker.end(done)
    twin = client(tracker).get_run(done)  # what two drivers on one server could leave behind
    client(tracker).create_run(twin.info.experiment_id, tags=dict(twin.data.tags))
    closed = tracker.close_orphans(parent, keep={"key-0"})
    assert orphan in closed
    assert len(closed) == 2
    assert {t.run_id: t.status for t in tracker.trials(parent)} == {
        alive: "RUNNING",
        orphan: "KILLED",
        done: "FINISHED",
    }
    assert len(client(tracker).search_runs([twin.info.experiment_id])) == 4  # the parent and three children


def test_a_discarded_trial_is_gone_and_its_key_free_again(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    run = start_trial(tracker, parent)
    tracker.discard(run)
    assert tracker.trials(parent) == []
    assert start_trial(tracker, parent) != run


def test_children_are_nested_under_the_parent_and_carry_the_data_set(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    run = client(tracker).get_run(start_trial(tracker, parent))
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.info.run_name == "cracks-000"
    assert run.inputs is not None
    (item,) = run.inputs.dataset_inputs
    assert (item.dataset.name, item.dataset.digest, item.tags[0].value) == ("cracks", DATASET.content_hash, "training")


def test_two_processes_write_one_sweep_at_once_and_every_trial_has_one_run(storage: Path, spec: SweepSpec) -> None:
    command = [sys.executable, "-m", "tests.tracking.driver", str(storage), "once"]
    drivers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [driver.communicate(timeout=120)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], errors
    tracker = Tracker.for_sweep(spec)
    sweep = tracker.latest_sweep("cracks")
    trials = tracker.trials(sweep.run_id)
    runs = client(tracker).search_runs([client(tracker).get_run(sweep.run_id).info.experiment_id])
    assert len(runs) == 4
    assert [tracker.history(t.run_id, "val/iou")[-1] for t in trials] == [(5, 0.5)] * 3


def test_drivers_on_one_file_name_their_data_set_one_after_the_other(
    storage: Path, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_inputs, inside, most = MlflowClient.log_inputs, threading.Semaphore(0), []

    def slow(*args: Any, **kwargs: Any) -> None:
        inside.release()
        time.sleep(0.5)  # long enough for the other driver to come in, were it not kept out
        most.append(inside.acquire(blocking=False) and not inside.acquire(blocking=False))
        log_inputs(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_inputs", slow)
    trackers = [Tracker.for_sweep(spec) for _ in range(2)]
    specs = [spec.model_copy(update={"seed": number}) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(start_sweep, trackers, specs))) == 2
    assert most == [True, True]


def test_a_data_set_that_another_driver_adds_to_a_server_at_the_same_moment_is_used(
    tracker: Tracker, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_inputs, refusals = MlflowClient.log_inputs, ["UNIQUE constraint failed: datasets.digest"]

    def refused_once(*args: Any, **kwargs: Any) -> None:
        if refusals:
            raise MlflowException(refusals.pop())
        log_inputs(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_inputs", refused_once)
    start_sweep(tracker, spec)
    assert tracker.latest_sweep("cracks").dataset is not None


def test_after_the_driver_was_killed_whoever_comes_next_closes_its_runs_and_the_same_sweep_goes_on_in_them(
    storage: Path, spec: SweepSpec
) -> None:
    command = [sys.executable, "-m", "tests.tracking.driver", str(storage), "stay"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        tracker = Tracker.for_sweep(spec)
        assert tracker.close_abandoned() == [], "it lives"
        driver.kill()
    other = start_sweep(tracker, spec.model_copy(update={"name": "other"}))
    abandoned = tracker.latest_sweep(spec.name)
    assert abandoned.status == "RUNNING"
    assert tracker.close_abandoned() == [abandoned.run_id]
    assert tracker.sweep(abandoned.run_id).status == "KILLED"
    assert {trial.status for trial in tracker.trials(abandoned.run_id)} == {"KILLED"}
    assert tracker.sweep(other).status == "RUNNING"

    parent = start_sweep(tracker, spec)
    assert parent == abandoned.run_id
    resumed = start_trial(tracker, parent, 1)
    assert {t.run_id: t.status for t in tracker.trials(parent)}[resumed] == "RUNNING"
    assert sorted(t.status for t in tracker.trials(parent)) == ["KILLED", "KILLED", "RUNNING"]


@pytest.mark.parametrize("mark", ["", "no json", "[]", '{"host": "elsewhere", "pid": 1, "started": 0}'])
def test_a_driver_that_cannot_be_known_from_here_is_not_called_gone(mark: str) -> None:
    assert not is_gone(mark)


def test_a_process_number_that_was_given_away_again_is_another_driver() -> None:
    driver = json.loads(this_driver())
    assert not is_gone(json.dumps(driver))
    assert is_gone(json.dumps({**driver, "started": driver["started"] - 3600}))


def test_files_of_a_run_come_back_and_missing_ones_are_reported(
    tracker: Tracker, spec: SweepSpec, tmp_path: Path
) -> None:
    run = start_sweep(tracker, spec)
    (tmp_path / "panels").mkdir()
    (tmp_path / "panels" / "0.jpg").write_bytes(b"\xff\xd8")
    tracker.log_files(run, tmp_path / "panels", "panels")
    tracker.log_json(run, {"best": "a"}, "summary.json")
    fetched = tracker.download(run, "panels", tmp_path / "out")
    assert (fetched / "0.jpg").read_bytes() == b"\xff\xd8"
    assert tracker.find_files(run, "nothing", tmp_path / "out") is None
    with pytest.raises(BackendError, match="no files at `nothing`"):
        tracker.download(run, "nothing", tmp_path / "out")
    assert tracker.read_json(run, "summary.json") == {"best": "a"}
    assert tracker.read_json(run, "other.json") == {}


def test_an_unknown_sweep_is_an_error_that_names_the_nearest(tracker: Tracker, spec: SweepSpec) -> None:
    with pytest.raises(BackendError, match="None was run there yet"):
        tracker.latest_sweep("crack")
    start_sweep(tracker, spec)
    with pytest.raises(BackendError, match=r"no sweep `crack`.*Did you mean `cracks`\?"):
        tracker.latest_sweep("crack")


def test_a_deleted_experiment_is_an_error_with_the_fix(tracker: Tracker, spec: SweepSpec) -> None:
    run = client(tracker).get_run(start_sweep(tracker, spec))
    client(tracker).delete_experiment(run.info.experiment_id)
    with pytest.raises(BackendError, match="mlflow experiments restore"):
        start_sweep(tracker, spec)


def test_a_single_training_does_not_hide_the_sweep_of_its_name(tracker: Tracker, spec: SweepSpec) -> None:
    search = start_sweep(tracker, spec)
    single = start_sweep(tracker, spec.model_copy(update={"seed": 1}))
    tracker.tag(single, "segdist.kind", "train")
    assert tracker.latest_sweep("cracks").run_id == search
    assert tracker.sweep(single).tags["segdist.kind"] == "train"


def test_a_sweep_that_was_recorded_under_old_names_is_read_under_new_ones(
    tracker: Tracker,
    spec: SweepSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = spec.model_dump(mode="json")
    content["train"]["start"] = content["train"].pop("init_from") + "a"
    content["train"]["accumulate"] = 2
    content["space"]["train.start"] = {"choices": ["a", "b"]}
    monkeypatch.setattr(SweepSpec, "model_dump_json", lambda _: json.dumps(content))
    parent = start_sweep(tracker, spec)
    params = {
        "train.batch_size": 4,
        "train.accumulate": 2,
        "evaluate.post.min_area": 9.0,
        "train.augment": ["turn"],
        "train.lr": 0.1,
    }
    start_trial(tracker, parent, params=params)
    recorded = tracker.latest_sweep("cracks").spec
    assert (recorded["train"]["init_from"], recorded["train"]["batch_size"]) == ("a", 2 * spec.train.batch_size)
    assert recorded["space"]["train.init_from"] == {"choices": ["a", "b"]}
    (trial,) = tracker.trials(parent)
    assert trial.params == {
        "train.batch_size": 8,
        "evaluate.post.min_area_pixels": 9.0,
        "evaluate.post.min_area_fraction": 0.0,
        "train.augment": ["rotate"],
        "train.lr": 0.1,
    }


def test_the_models_that_a_trial_kept_are_found_by_its_number_too(tracker: Tracker, spec: SweepSpec) -> None:
    parent = start_sweep(tracker, spec)
    run_id = start_trial(tracker, parent)
    client(tracker).set_tag(run_id, names.KEPT, "/somewhere")
    assert tracker.kept_models("cracks#0") == tracker.kept_models(run_id) == "/somewhere"
    assert names.names_model("cracks#0")
    assert not names.names_model("cracks")
