"""One command takes a sweep file to a compared winner; the same command resumes what was killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from segdist.core.errors import BackendError
from segdist.pipeline.cluster import connected
from segdist.tracking import Tracker
from tests.pages.test_side_by_side import page_data
from tests.pipeline.conftest import SECRETS, Command, command, draw_roofs, environment, leaks, processes, wait_for

# Whole sweeps, each in processes of its own; on a busy machine they take minutes.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def sweep(sweep: Path, empty_storage: Path) -> Path:
    """The sweep file, and in its storage an empty database: making one takes seconds."""
    shutil.copytree(empty_storage, sweep.parent / "storage")
    return sweep


def _is_kept_among_the_models(tracker: Tracker, trials: list[dict[str, Any]]) -> None:
    """Each trial has one model of MLflow's, measured on the validation split; the winner's is registered."""
    client = MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    models = {m.source_run_id: m for m in client.search_logged_models([experiment.experiment_id])}
    assert len(client.search_logged_models([experiment.experiment_id])) == len(trials)
    for trial in trials:
        model = models[trial["run_id"]]
        found = {m.key: m.value for m in model.metrics or () if m.dataset_name == "tiny/val"}
        assert {"val/iou", "val/dice", "val/boundary_iou"} <= found.keys()
        assert found["val/iou"] == trial["metrics"]["val/iou"]
    of_test = {m.source_run_id for m in models.values() for one in m.metrics or () if one.dataset_name == "tiny/test"}
    assert of_test == {trials[0]["run_id"]}
    version = client.get_model_version_by_alias("tiny", "champion")
    assert version.source == f"models:/{models[trials[0]['run_id']].model_id}"


def leaderboard(segdist: Command, storage: Path) -> dict[str, object]:
    answer = segdist("compare", "tiny", "--storage", storage, "--json")
    assert answer.returncode == 0, answer.stderr
    content: dict[str, object] = json.loads(answer.stdout)
    return content


def test_beside_a_broken_file_a_sweep_runs_to_a_champion_that_predicts_and_the_second_run_does_nothing(
    sweep: Path, segdist: Command, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: broken\n")
    first = segdist("run", broken, sweep)
    assert first.returncode == 2, first.stdout + first.stderr
    assert re.search(rf"{broken}  failed", first.stdout)
    assert re.search(rf"{sweep}  ok", first.stdout)

    board = leaderboard(segdist, tmp_path / "storage")
    trials = _trials(segdist, tmp_path / "storage")
    assert len(trials) == 3
    assert board["best"] == trials[0]["run_id"]
    scores = [t["metrics"]["val/iou"] for t in trials]
    assert scores == sorted(scores, reverse=True)
    assert all(t["status"] == "FINISHED" for t in trials)
    assert 0.001 in [t["params"]["train.lr"] for t in trials], "the file's own values must be among the trials"
    assert "test/iou" in trials[0]["metrics"]
    assert all("test/iou" not in t["metrics"] for t in trials[1:]), "the test split is for the winner alone"
    _is_kept_among_the_models(Tracker.at(str(tmp_path / "storage")), trials)
    page = (tmp_path / "storage" / "sweeps" / "tiny" / "report.html").read_text()
    assert "Where are the roofs?" in page
    assert 'href="side_by_side/index.html"' in page
    beside = tmp_path / "storage" / "sweeps" / "tiny" / "side_by_side" / "index.html"
    assert f"images    {beside}" in first.stdout
    shown = page_data(beside.read_text("utf-8"))
    assert sorted(t["number"] for t in shown["trials"]) == [0, 1, 2]
    beside_it = [len([*(beside.parent / kind).iterdir()]) for kind in ("maps", "photos")]
    assert beside_it == [len(shown["images"])] * 2

    start = time.monotonic()
    second = segdist("run", sweep)
    assert second.returncode == 0, second.stderr
    assert "nothing to do" in second.stdout
    assert time.monotonic() - start < 30
    assert leaderboard(segdist, tmp_path / "storage") == board

    picture = tmp_path / "photos" / "one.png"
    picture.parent.mkdir()
    draw_roofs(picture)
    (picture.parent / "cut.png").write_bytes(picture.read_bytes()[:200])
    out = tmp_path / "out"
    answer = segdist("predict", "tiny@champion", picture, "-o", out, "--storage", tmp_path / "storage")
    assert answer.returncode == 0, answer.stderr
    coco = json.loads((out / "predictions.json").read_text())
    assert [c["name"] for c in coco["categories"]] == ["roof"]
    assert coco["images"][0]["height"] == 96
    assert len(list((out / "overlays").iterdir())) == 1

    answer = segdist("predict", "tiny@champion", picture.parent, "-o", out, "--storage", tmp_path / "storage")
    assert answer.returncode == 2
    assert "cut.png" in answer.stderr
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 1, "the readable image is there"


def test_after_driver_and_trial_were_killed_the_same_command_finishes_the_sweep_and_each_trial_is_there_once(
    sweep: Path, segdist: Command, tmp_path: Path, short_folder: Path
) -> None:
    env = {**SECRETS, "RAY_TMPDIR": str(short_folder)}
    driver = _started(sweep, tmp_path / "log", env)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    (session,) = short_folder.iterdir()
    assert session.stat().st_mode & 0o777 == 0o700
    assert list(session.rglob("runtime_env_agent.log")), "it holds what Ray wrote"
    assert not leaks(session, tmp_path)
    os.utime(session, (0, 0))  # long ago

    driver = _started(sweep, tmp_path / "log_2", env)
    assert session not in short_folder.iterdir(), "what was left behind goes with the next start"
    os.killpg(driver.pid, signal.SIGTERM)  # as `timeout` and systemd do: Ray must not be gone before its driver
    assert driver.wait(60) == 128 + signal.SIGTERM, (tmp_path / "log_2").read_text()
    assert "Run the same command again to go on" in (tmp_path / "log_2").read_text()
    statuses = [t["status"] for t in _trials(segdist, tmp_path / "storage")]
    assert "RUNNING" not in statuses
    assert "KILLED" in statuses

    assert not list(short_folder.iterdir()), "what ends in order leaves nothing"

    driver = _started(sweep, tmp_path / "log_3", env)
    os.kill(_training(tmp_path), signal.SIGKILL)
    assert driver.wait(300) == 0, (tmp_path / "log_3").read_text()
    assert "raylet" not in (tmp_path / "log_3").read_text(), "no line of Ray's own"
    trials = _trials(segdist, tmp_path / "storage")
    assert [t["status"] for t in trials] == ["FINISHED"] * 3, "each trial once, and all of them done"
    tracker = Tracker.at(str(tmp_path / "storage"))
    for trial in trials:
        epochs = [step for step, _ in tracker.history(trial["run_id"], "val/iou")]
        assert epochs == list(range(1, len(epochs) + 1)), "it went on where its checkpoint was"
    _is_kept_among_the_models(tracker, trials)


def test_a_sweep_that_learned_nothing_says_so_names_the_reasons_and_registers_no_champion(
    sweep: Path, segdist: Command, tmp_path: Path
) -> None:
    useless = [
        "data.boxes_only=[train]",
        "+label={teacher: {family: classical, classical: {method: line}}}",  # draws lines where the roofs are
        "evaluate.min_score=1.0",
        "train.epochs=1",
        "search.trials=1",
    ]
    answer = segdist("run", sweep, *useless)
    assert answer.returncode == 0, answer.stderr
    assert "warning   labels worse than filled boxes: roof (" in answer.stdout
    assert "No trial found an object: the best val/iou is 0.000." in answer.stdout
    assert re.search(
        r"champion  none: .*\n.*- labels worse than filled boxes: roof .*\n.*- few steps: \d", answer.stdout
    )
    assert ".cc:" not in answer.stderr
    tracker = Tracker.at(str(tmp_path / "storage"))
    assert not tracker.champion_run("tiny")
    page = (tmp_path / "storage" / "sweeps" / "tiny" / "report.html").read_text()
    assert "No trial found an object" in page
    assert 'class="mark best">winner' not in page

    again = segdist("run", sweep, *useless)
    assert "nothing to do" in again.stdout
    assert "champion  none" in again.stdout


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["storage=/proc/nowhere"], "/proc/nowhere"),
        (["tracking.uri=http://127.0.0.1:9"], "127.0.0.1:9"),
        (["data.sources=[{format: coco, path: missing}]"], "missing"),
        (["resources.cpus_per_worker=512"], "cpus_per_worker"),
    ],
)
def test_what_cannot_work_is_one_message_and_exit_code_2(
    sweep: Path, segdist: Command, overrides: list[str], said: str
) -> None:
    answer = segdist("run", sweep, *overrides)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout
    assert said in answer.stderr


@pytest.mark.parametrize(("address", "fix"), [("127.0.0.1:9", "ray start"), ("http://127.0.0.1:8265", "HOST:6379")])
def test_a_ray_address_that_no_driver_can_use_is_named_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, address: str, fix: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(BackendError, match=fix) as error, connected():
        pass
    assert address in str(error.value)


def _trials(segdist: Command, storage: Path) -> list[dict[str, Any]]:
    trials = leaderboard(segdist, storage)["trials"]
    assert isinstance(trials, list)
    return trials


def _training(folder: Path) -> int:
    """A process in which a trial trains; between two trials there is none for a moment."""
    deadline = time.monotonic() + 60
    while not (found := processes(folder, "ray::ImplicitFunc.train")):
        assert time.monotonic() < deadline, "a trial trains inside Tune's process"
        time.sleep(0.02)
    return found[0]


def _started(sweep: Path, log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """A driver whose first trial has reported an epoch."""
    with log.open("w") as file:
        driver = subprocess.Popen(
            command("run", sweep),
            stdout=file,
            stderr=file,
            env={**environment(sweep.parent), **env},
            start_new_session=True,
        )
    wait_for(log, r"trial \d+ +epoch", driver)
    return driver
