"""MLflow shows what the ledger knows: each trial once, also after MLflow was away, and after a move to another one."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segdist.core.errors import BackendError
from segdist.core.spec import SweepSpec
from segdist.datasets.shards import Manifest
from segdist.pipeline.recording import Recording
from segdist.pipeline.trial import Job
from segdist.searching import Ledger, Search
from segdist.tracking import Tracker
from tests.searching.sweeps import begun, score, sweep
from tests.tracking.conftest import empty_storage, storage

__all__ = ["empty_storage", "storage"]


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
        recording.start(search.start(trial.number))
        for epoch in range(1, epochs + 1):
            metrics = {"epoch": float(epoch), "seconds": 1.0, "val/iou": score(trial.values, epoch)}
            search.report(trial.number, metrics, _checkpoint(search, trial.number, epoch))
            recording.epoch(trial.number, metrics, epoch=epoch)
            yield trial.number
        recording.end(search.end(trial.number))


def _checkpoint(search: Search, number: int, epoch: int) -> str:
    return ""


class Away(Tracker):
    """A server that answers only while `is_there`."""

    is_there = True
    asked = 0

    def start_trial(self, *given: Any, **more: Any) -> str:
        self._ask()
        return super().start_trial(*given, **more)

    def log_metrics(self, *given: Any, **more: Any) -> None:
        self._ask()
        super().log_metrics(*given, **more)

    def end(self, *given: Any, **more: Any) -> None:
        self._ask()
        super().end(*given, **more)

    def _ask(self) -> None:
        type(self).asked += 1
        if not self.is_there:
            raise BackendError("MLflow at http://nowhere does not answer.")


def shown(tracker: Tracker, run: str) -> list[tuple[int, str, int, float]]:
    found = [(t.number, t.status, t.epochs, t.metrics["val/iou"]) for t in tracker.trials(run)]
    return sorted(found)


def test_mlflow_shows_each_trial_once_as_the_ledger_knows_it(spec: SweepSpec, job: Job, storage: Path) -> None:
    tracker, run = opened(spec, storage)
    search = begun(spec, job.storage_path)
    assert list(do(search, Recording(tracker, run, job, {}, search.ledger)))
    expected = [(t.number, "FINISHED", 3, score(t.values, 3)) for t in search.ledger.trials]
    assert shown(tracker, run) == expected
    assert [t.is_baseline for t in sorted(tracker.trials(run), key=lambda t: t.number)] == [True, False, False]
    assert {t.tracked for t in search.ledger.trials} == {tracker.uri}


def test_a_server_that_is_away_stops_no_trial_and_is_told_everything_afterwards(
    spec: SweepSpec, job: Job, storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, run = opened(spec, storage)
    away = Away.at(str(storage))
    search = begun(spec, job.storage_path)
    recording = Recording(away, run, job, {}, search.ledger)
    for step, _ in enumerate(do(search, recording)):
        monkeypatch.setattr(Away, "is_there", step < 4)  # in the middle of the second trial
    assert search.is_done
    said = capsys.readouterr().out
    assert said.count("tracking  MLflow at http://nowhere does not answer.") == 1
    assert Away.asked < 15, "it is not asked for every epoch whether it is there again"
    with pytest.raises(BackendError):
        recording.catch_up()
    monkeypatch.setattr(Away, "is_there", True)
    recording.catch_up()
    assert shown(tracker, run) == [(t.number, "FINISHED", 3, score(t.values, 3)) for t in search.ledger.trials]
    histories = [[step for step, _ in tracker.history(t.run_id, "val/iou")] for t in tracker.trials(run)]
    assert histories == [[1, 2, 3]] * 3


def test_an_epoch_that_a_killed_driver_wrote_down_and_did_not_tell_is_told(
    spec: SweepSpec, job: Job, storage: Path
) -> None:
    tracker, run = opened(spec, storage)
    first = begun(spec, job.storage_path)
    trial = first.next()
    assert trial
    recording = Recording(tracker, run, job, {}, first.ledger)
    recording.start(first.start(0))
    for epoch in (1, 2):
        metrics = {"epoch": float(epoch), "seconds": 1.0, "val/iou": score(trial.values, epoch)}
        first.report(0, metrics, f"place/{epoch}")
        if epoch == 1:
            recording.epoch(0, metrics, epoch=epoch)
    second = begun(spec, job.storage_path)  # the first is killed here
    recording = Recording(tracker, run, job, {}, second.ledger)
    recording.catch_up()
    assert second.next()
    recording.start(second.start(0))
    metrics = {"epoch": 3.0, "seconds": 1.0, "val/iou": score(trial.values, 3)}
    second.report(0, metrics)
    recording.epoch(0, metrics, epoch=3)
    recording.end(second.end(0))
    (shown_trial,) = tracker.trials(run)
    assert [step for step, _ in tracker.history(shown_trial.run_id, "val/iou")] == [1, 2, 3]
    assert shown_trial.seconds == 3.0


def test_another_server_is_told_of_all_trials_that_were_done_before(
    spec: SweepSpec, job: Job, storage: Path, empty_storage: Path, tmp_path: Path
) -> None:
    first, run = opened(spec, storage)
    search = begun(spec, job.storage_path)
    list(do(search, Recording(first, run, job, {}, search.ledger)))
    second, other = opened(spec, Path(shutil.copytree(empty_storage, tmp_path / "second")))
    Recording(second, other, job, {}, Ledger(job.storage_path)).catch_up()
    assert shown(second, other) == shown(first, run)
    assert len(shown(second, other)) == 3


def test_a_failed_trial_shows_its_error(spec: SweepSpec, job: Job, storage: Path, tmp_path: Path) -> None:
    tracker, run = opened(spec, storage)
    search = begun(spec, job.storage_path)
    recording = Recording(tracker, run, job, {}, search.ledger)
    trial = search.next()
    assert trial
    recording.start(search.start(0))
    recording.end(search.fail(0, "ValueError: no"), error="Traceback\nValueError: no")
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
        recording.start(search.start(trial.number))
        metrics = {"epoch": 1.0, "seconds": 1.0, "val/iou": 0.5, "runtime/latency_p50_ms": latency, "model/bytes": 9.0}
        search.report(trial.number, metrics)
        recording.epoch(trial.number, metrics, epoch=1)
        recording.end(search.end(trial.number))
    recorded = {t.number: t for t in tracker.trials(parent)}
    assert [recorded[n].broken for n in range(2)] == [{}, {"runtime/latency_p50_ms": 12.5}]
    assert [recorded[n].status for n in range(2)] == ["FINISHED", "FINISHED"]
    assert all(not name.startswith(("runtime/", "model/bytes")) for t in recorded.values() for name in t.metrics)
