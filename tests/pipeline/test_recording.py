"""MLflow shows what the ledger knows: each trial once, also after MLflow was away, and after a move to another one."""

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from segdist.core.errors import BackendError
from segdist.core.interruption import Interrupted
from segdist.core.panels import encode_jpeg
from segdist.core.spec import RunSpec, SweepSpec
from segdist.datasets.shards import Manifest
from segdist.pipeline import recording as recording_module
from segdist.pipeline.recording import Recording
from segdist.pipeline.trial import Job
from segdist.searching import Ledger, Search, Trial
from segdist.tracking import Tracker, names
from tests.searching.sweeps import begun, score, sweep
from tests.tracking.conftest import storage

__all__ = ["storage"]


@pytest.fixture
def spec() -> SweepSpec:
    return sweep(trials=3, asha=None)


@pytest.fixture
def job(spec: SweepSpec, tmp_path: Path) -> Job:
    folder = str(tmp_path / "sweep")
    return Job(
        run=spec.run, dataset_uri="", labels_uri="", boxes_only=(), storage_path=folder, metric=spec.search.metric
    )


def opened(spec: SweepSpec, folder: Path) -> tuple[Tracker, str]:
    tracker = Tracker.at(str(folder))
    manifest = Manifest(kind="dataset", content_hash="0" * 16, classes=("roof",), splits={}, findings={}, shards=())
    run = tracker.start_sweep(
        "s", "f" * 16, spec_text=spec.model_dump_json(), spec_file="s.yaml", tags={}, params={}, dataset=manifest
    )
    return tracker, run


def do(search: Search, recording: Recording, *, epochs: int = 3) -> Iterator[int]:
    """Run all trials as Tune's loop does."""
    while trial := search.next():
        search.start(trial.number)
        recording.changed(trial.number)
        for epoch in range(1, epochs + 1):
            report(search, recording, trial, epoch)
            yield trial.number
        search.end(trial.number)
        recording.changed(trial.number)


def told_to_another(spec: SweepSpec, job: Job, empty_storage: Path, folder: Path) -> tuple[Tracker, str]:
    """Another server, told all that the ledger holds, and the sweep's run there."""
    second, other = opened(spec, Path(shutil.copytree(empty_storage, folder / "second")))
    Recording(second, other, job, {}, Ledger(job.storage_path)).catch_up()
    return second, other


def report(search: Search, recording: Recording, trial: Trial, epoch: int, checkpoint: str = "") -> None:
    iou = score(trial.values, epoch)
    metrics = {"epoch": float(epoch), "seconds": 1.0, "val/iou": iou, "val/iou/roof": iou / 2}
    search.report(trial.number, metrics, checkpoint)
    recording.changed(trial.number)


def begin(spec: SweepSpec, job: Job, tracker: Tracker, parent: str) -> tuple[Search, Recording]:
    """A start of the search, and what tells MLflow of it."""
    search = begun(spec, job.storage_path)
    return search, Recording(tracker, parent, job, {}, search.ledger)


class Away(Tracker):
    """A server that answers only while `is_there`; what it is told last may be stored and its answer lost."""

    is_there = threading.Event()
    loses_answers = 0
    asked = 0

    def start_trial(self, *given: Any, **more: Any) -> str:
        self._ask()
        return super().start_trial(*given, **more)

    def log_epochs(self, *given: Any, **more: Any) -> None:
        self._ask()
        super().log_epochs(*given, **more)
        if self.loses_answers:
            type(self).loses_answers -= 1
            raise BackendError("MLflow at http://nowhere: the answer did not come.")

    def _ask(self) -> None:
        type(self).asked += 1
        if not self.is_there.is_set():
            raise BackendError("MLflow at http://nowhere does not answer.")


class Hanging(Tracker):
    """A server that takes what it is told and answers when `is_released`."""

    is_released = threading.Event()

    def start_trial(self, *given: Any, **more: Any) -> str:
        self.is_released.wait(60)
        return super().start_trial(*given, **more)


def _do_and_stop(search: Search, recording: Recording) -> None:
    assert list(do(search, recording))
    raise Interrupted(signal.SIGTERM)


def shown(tracker: Tracker, run: str) -> list[tuple[int, str, int, float]]:
    found = [(t.number, t.status, t.epochs, t.metrics["val/iou"]) for t in tracker.trials(run)]
    return sorted(found)


def test_mlflow_shows_each_trial_once_as_the_ledger_knows_it(spec: SweepSpec, job: Job, storage: Path) -> None:
    tracker, run = opened(spec, storage)
    search, recording = begin(spec, job, tracker, run)
    with recording.running():
        assert list(do(search, recording))
    expected = [(t.number, "FINISHED", 3, score(t.values, 3)) for t in search.ledger.trials]
    assert shown(tracker, run) == expected
    assert [t.is_baseline for t in sorted(tracker.trials(run), key=lambda t: t.number)] == [True, False, False]
    assert {t.tracked for t in search.ledger.trials} == {tracker.uri}
    assert {t.metrics["val/iou/roof"] / t.metrics["val/iou"] for t in tracker.trials(run)} == {0.5}


def test_a_server_that_is_away_stops_no_trial_and_is_told_everything_when_it_is_back(
    spec: SweepSpec, job: Job, storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording_module, "_LONGEST_PAUSE", 0.05)
    tracker, run = opened(spec, storage)
    away = Away.at(str(storage))
    Away.is_there.clear()
    search, recording = begin(spec, job, away, run)
    with recording.running():
        assert list(do(search, recording))  # to the end, whether or not MLflow is there
        assert search.is_done
        while not Away.asked:
            time.sleep(0.01)
        assert shown(tracker, run) == []
        Away.is_there.set()
    assert shown(tracker, run) == [(t.number, "FINISHED", 3, score(t.values, 3)) for t in search.ledger.trials]
    histories = [[step for step, _ in tracker.history(t.run_id, "val/iou")] for t in tracker.trials(run)]
    assert histories == [[1, 2, 3]] * 3
    assert capsys.readouterr().out.count("tracking  MLflow at http://nowhere does not answer.") >= 1


def test_a_server_that_hangs_keeps_no_trial_waiting_and_none_that_stops_the_search(
    spec: SweepSpec, job: Job, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_module, "_PATIENCE_WHEN_STOPPED", 0.1)
    tracker, run = opened(spec, storage)
    hanging = Hanging.at(str(storage))
    Hanging.is_released.clear()
    search, recording = begin(spec, job, hanging, run)
    with pytest.raises(Interrupted), recording.running():
        _do_and_stop(search, recording)
    assert shown(tracker, run) == []
    Hanging.is_released.set()
    Recording(tracker, run, job, {}, Ledger(job.storage_path)).catch_up()
    assert shown(tracker, run) == [(t.number, "FINISHED", 3, score(t.values, 3)) for t in search.ledger.trials]


def test_what_mlflow_stored_without_its_answer_coming_is_stored_once(
    spec: SweepSpec, job: Job, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_module, "_LONGEST_PAUSE", 0.01)
    tracker, run = opened(spec, storage)
    away = Away.at(str(storage))
    Away.is_there.set()
    monkeypatch.setattr(Away, "loses_answers", 2)
    search, recording = begin(spec, job, away, run)
    with recording.running():
        assert list(do(search, recording))
    assert Away.loses_answers == 0
    client = MlflowClient(tracker.uri)
    for trial in tracker.trials(run):
        assert [p.step for p in client.get_metric_history(trial.run_id, "val/iou")] == [1, 2, 3]
        assert trial.seconds == 3.0


def test_epochs_that_were_done_again_are_shown_as_they_are_now(spec: SweepSpec, job: Job, storage: Path) -> None:
    tracker, run = opened(spec, storage)
    search, recording = begin(spec, job, tracker, run)
    assert search.next()
    search.start(0)
    with recording.running():
        for epoch, iou in ((1, 0.5), (2, 0.9), (3, 0.1)):
            search.report(0, {"epoch": epoch, "seconds": 1.0, "val/iou": iou}, f"place/{epoch}" if epoch < 2 else "")
            recording.changed(0)
    search.interrupt(0, "its loss was not finite")
    search.start(0)
    with recording.running():
        for epoch, iou in ((2, 0.6), (3, 0.7)):
            search.report(0, {"epoch": epoch, "seconds": 1.0, "val/iou": iou})
            recording.changed(0)
        search.end(0)
        recording.changed(0)
    (found,) = tracker.trials(run)
    assert tracker.history(found.run_id, "val/iou") == [(1, 0.5), (2, 0.6), (3, 0.7)]
    assert (found.metrics["val/iou"], found.best_epoch, found.seconds, found.status) == (0.7, 3, 3.0, "FINISHED")


def test_an_epoch_that_a_killed_driver_wrote_down_and_did_not_tell_is_told(
    spec: SweepSpec, job: Job, storage: Path
) -> None:
    tracker, run = opened(spec, storage)
    first = begun(spec, job.storage_path)
    trial = first.next()
    assert trial
    first.start(0)
    recording = Recording(tracker, run, job, {}, first.ledger)
    with recording.running():
        report(first, recording, trial, 1, "place/1")
    report(first, recording, trial, 2, "place/2")
    second = begun(spec, job.storage_path)  # the first is killed here
    recording = Recording(tracker, run, job, {}, second.ledger)
    recording.catch_up()
    assert second.next()
    second.start(0)
    with recording.running():
        report(second, recording, trial, 3)
        second.end(0)
        recording.changed(0)
    (shown_trial,) = tracker.trials(run)
    assert [step for step, _ in tracker.history(shown_trial.run_id, "val/iou")] == [1, 2, 3]
    assert shown_trial.seconds == 3.0


def test_another_server_is_told_of_all_trials_that_were_done_before(
    spec: SweepSpec, job: Job, storage: Path, empty_storage: Path, tmp_path: Path
) -> None:
    first, run = opened(spec, storage)
    search, recording = begin(spec, job, first, run)
    with recording.running():
        list(do(search, recording))
    second, other = told_to_another(spec, job, empty_storage, tmp_path)
    assert shown(second, other) == shown(first, run)
    assert len(shown(second, other)) == 3


def test_a_thinned_trial_is_told_to_another_server_without_a_model_and_with_the_place_of_it(
    spec: SweepSpec, job: Job, storage: Path, empty_storage: Path, tmp_path: Path
) -> None:
    first, run = opened(spec, storage)
    search, recording = begin(spec, job, first, run)
    with recording.running():
        list(do(search, recording))
    recording.catch_up()
    search.ledger.change(0, thinned=True)
    second, other = told_to_another(spec, job, empty_storage, tmp_path)
    thinned = next(t for t in second.trials(other) if t.number == 0)
    assert MlflowClient(second.uri).get_run(thinned.run_id).data.tags[names.MODEL_AT] == first.uri
    assert not second.has_model(thinned.run_id)


def test_a_failed_trial_shows_its_error(spec: SweepSpec, job: Job, storage: Path, tmp_path: Path) -> None:
    tracker, run = opened(spec, storage)
    search, recording = begin(spec, job, tracker, run)
    trial = search.next()
    assert trial
    search.start(0)
    search.fail(0, "ValueError: no")
    with recording.running():
        recording.changed(0, error="Traceback\nValueError: no")
    (found,) = tracker.trials(run)
    assert (found.status, found.reason) == ("FAILED", "ValueError: no")
    text = tracker.download(found.run_id, "error.txt", tmp_path / "out").read_text()
    assert text == "Traceback\nValueError: no"


def test_mlflow_knows_which_constraint_a_trial_breaks_and_shows_costs_that_were_measured_alone(
    storage: Path, tmp_path: Path, job: Job
) -> None:
    spec = sweep(trials=2, asha=None, constraints={"runtime/latency_p50_ms": 50})
    tracker, parent = opened(spec, storage)
    search = begun(spec, tmp_path / "sweep")
    recording = Recording(tracker, parent, job, {}, search.ledger)
    for latency in (40.0, 62.5):
        trial = search.next()
        assert trial
        search.start(trial.number)
        metrics = {"epoch": 1.0, "seconds": 1.0, "val/iou": 0.5, "runtime/latency_p50_ms": latency, "model/bytes": 9.0}
        search.report(trial.number, metrics)
        search.end(trial.number)
    recording.catch_up()
    recorded = {t.number: t for t in tracker.trials(parent)}
    assert [recorded[n].broken for n in range(2)] == [{}, {"runtime/latency_p50_ms": 12.5}]
    assert [recorded[n].status for n in range(2)] == ["FINISHED", "FINISHED"]
    assert all(not name.startswith(("runtime/", "model/bytes")) for t in recorded.values() for name in t.metrics)


def test_runs_have_few_parameters_the_searched_first_and_all_of_them_in_a_file(
    spec: SweepSpec, job: Job, storage: Path, tmp_path: Path
) -> None:
    tracker, parent = opened(spec, storage)
    search, recording = begin(spec, job, tracker, parent)
    with recording.running():
        assert list(do(search, recording, epochs=1))
    client = MlflowClient(tracker.uri)
    trials = sorted(tracker.trials(parent), key=lambda t: t.number)
    assert len(trials) == 3
    for trial, known in zip(trials, search.ledger.trials, strict=True):
        run = client.get_run(trial.run_id)
        assert len(run.data.params) <= 40
        assert {key: trial.params[key] for key in known.values} == known.values
        assert trial.params["train.epochs"] == job.run.train.epochs
        assert "train.betas" not in run.data.params
        whole = yaml.safe_load(tracker.download(trial.run_id, "run.yaml", tmp_path / trial.run_id).read_text())
        assert RunSpec.model_validate(whole) == job.run_of(known.values)
        assert run.data.tags["mlflow.user"] == client.get_run(parent).data.tags["mlflow.user"]
        assert "run.yaml" in run.data.tags["mlflow.note.content"]
    said = [client.get_run(t.run_id).info.run_name for t in trials]
    lr = search.ledger[1].values["train.lr"]
    assert said[0] == "s-000 unet_cbam untuned"
    assert said[1].startswith("s-001 unet_cbam ")
    assert f"lr={lr:.1e}".replace("e-0", "e-") in said[1] or f"lr={lr:.3g}" in said[1]


def test_the_run_of_the_sweep_shows_how_far_it_came(spec: SweepSpec, job: Job, storage: Path) -> None:
    tracker, parent = opened(spec, storage)
    search, recording = begin(spec, job, tracker, parent)
    with recording.running():
        assert list(do(search, recording))
    recording.catch_up()
    shown = tracker.sweep(parent).metrics
    assert shown["trials/ended"] == 3
    assert shown["best/val/iou"] == max(score(t.values, 3) for t in search.ledger.trials)
    experiment = MlflowClient(tracker.uri).get_experiment_by_name("s")
    assert experiment
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_mlflow_shows_the_same_pictures_of_every_trial_over_epochs_and_not_too_many(
    spec: SweepSpec, job: Job, storage: Path, tmp_path: Path
) -> None:
    tracker, parent = opened(spec, storage)
    search, recording = begin(spec, job, tracker, parent)
    trial = search.next()
    assert trial
    search.start(0)
    for epoch in range(1, 10):
        folder = tmp_path / "checkpoint" / f"{epoch:05d}" / "pictures"
        folder.mkdir(parents=True)
        for number in range(6):
            panel = np.full((40, 2000, 3), 20 * epoch, np.uint8)
            (folder / f"{number:03d}.jpg").write_bytes(encode_jpeg(panel))
        report(search, recording, trial, epoch, folder.parent.as_uri())
        recording._tell(0)  # as the thread does, after every epoch
    search.end(0)
    recording._tell(0)
    (found,) = tracker.trials(parent)
    client = MlflowClient(tracker.uri)
    files = [Path(one.path).name.split("+") for one in client.list_artifacts(found.run_id, "images")]
    whole = [(name, int(step)) for name, _, step, *rest in files if rest[-1].endswith("png")]
    over_epochs = {(f"validation~{number:03d}", epoch) for number in range(4) for epoch in (1, 2, 4, 8)}
    of_the_best = {(f"best_epoch~{number:03d}", 1) for number in range(4)}
    assert sorted(whole) == sorted(over_epochs | of_the_best), "of the best at one step, whichever epoch that was"
    assert client.get_run(found.run_id).data.tags["mlflow.loggedImages"] == "True"
    assert max(one.file_size or 0 for one in client.list_artifacts(found.run_id, "images")) < 300_000


def test_a_repeat_is_a_run_of_its_own_that_names_its_trial_and_shows_its_seed(storage: Path, tmp_path: Path) -> None:
    spec = sweep(trials=2, asha=None, confirm={"trials": 1, "seeds": 2})
    folder = str(tmp_path / "sweep")
    job = Job(run=spec.run, dataset_uri="", labels_uri="", boxes_only=(), storage_path=folder, metric="val/iou")
    tracker, parent = opened(spec, storage)
    search = begun(spec, folder)
    recording = Recording(tracker, parent, job, {}, search.ledger)
    with recording.running():
        assert list(do(search, recording))
    recorded = {t.number: t for t in tracker.trials(parent)}
    assert sorted(recorded) == [0, 1, 2, 3]
    best = recorded[search.confirmed[0]]
    assert [recorded[n].repeats for n in range(4)] == ["", "", best.trial_key, best.trial_key]
    assert [recorded[n].params.get("seed", 0) for n in range(4)] == [t.seed for t in search.ledger.trials]
    assert all(recorded[n].params["train.lr"] == best.params["train.lr"] for n in (2, 3))
    assert tracker.run_of("s#3") == recorded[3].run_id
    assert len({t.params.get("seed", 0) for t in recorded.values()}) == 3
    assert tracker.sweep(parent).metrics["trials/ended"] == 2
    Recording(tracker, parent, job, {}, Ledger(folder)).catch_up()
    assert len(tracker.trials(parent)) == 4


def test_how_far_mlflow_is_behind_is_known_at_any_time(
    spec: SweepSpec, job: Job, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = opened(spec, storage)
    away = Away.at(str(storage))
    monkeypatch.setattr(Away, "is_there", threading.Event())
    monkeypatch.setattr(Away, "asked", 0)
    search, recording = begin(spec, job, away, run)
    assert recording.spool == 0
    assert recording.told_at == pytest.approx(time.time(), abs=5)
    with recording.running():
        for _ in range(2):
            trial = search.next()
            assert trial
            search.start(trial.number)
            report(search, recording, trial, 1)
        until = time.monotonic() + 60
        while Away.asked == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert recording.spool == 2, "one that is being told is not told yet"
        assert recording.told_at < time.time()
        Away.is_there.set()
        while recording.spool and time.monotonic() < until:
            time.sleep(0.01)
        assert recording.spool == 0
