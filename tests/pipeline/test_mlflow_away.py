"""An MLflow server behind a proxy that refuses in the middle of a sweep, or loses answers: all is told, and once."""

import threading
import time
from collections.abc import Iterator

import pytest
from mlflow import MlflowClient

from segdist.core.spec import SweepSpec
from segdist.pipeline.recording import Recording
from segdist.pipeline.trial import Job
from segdist.searching import Search, Trial
from segdist.tracking import Tracker
from tests.pipeline.test_recording import begin, job, report, spec
from tests.pipeline.test_servers import mlflow_server
from tests.proxy import Proxy
from tests.tracking.conftest import DATASET

__all__ = ["job", "mlflow_server", "spec"]

EPOCHS = 4
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a server


@pytest.fixture
def proxy(mlflow_server: str) -> Iterator[Proxy]:
    with Proxy(mlflow_server) as proxy:
        yield proxy


def opened(address: str) -> tuple[Tracker, str]:
    tracker = Tracker(address)
    parent = tracker.start_sweep("s", "f" * 16, spec_text="{}", spec_file="s.yaml", tags={}, params={}, dataset=DATASET)
    return tracker, parent


def train(search: Search, recording: Recording, trial: Trial) -> None:
    """A trial from its start to its end, told of as it goes."""
    search.start(trial.number)
    recording.changed(trial.number)
    for epoch in range(1, EPOCHS + 1):
        report(search, recording, trial, epoch)
    search.end(trial.number)
    recording.changed(trial.number)


def points(server: str, parent: str) -> dict[str, dict[int, list[float]]]:
    """By the name of each run below a sweep, deleted ones aside: the values of the search metric, by epoch."""
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_run(parent).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        assert run.info.status == "FINISHED"
        by_epoch = found.setdefault(str(run.data.tags["segdist.number"]), {})
        for point in client.get_metric_history(run.info.run_id, "val/iou"):
            by_epoch.setdefault(point.step, []).append(point.value)
    assert len(runs) == len(found), "each trial has one run"
    return found


@pytest.mark.parametrize(
    ("seconds", "retries"), [pytest.param(3.0, "1", id="shortly"), pytest.param(60.0, "", id="for_a_minute")]
)
def test_a_server_that_refuses_in_the_middle_of_a_sweep_is_told_all_of_it_once(
    seconds: float,
    retries: str,
    spec: SweepSpec,
    job: Job,
    proxy: Proxy,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if retries:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", retries)
    tracker, parent = opened(proxy.address)
    search, recording = begin(spec, job, tracker, parent)
    expected: dict[str, dict[int, list[float]]] = {}
    with recording.running():
        while trial := search.next():
            if trial.number == 1:
                began = time.monotonic()
                while proxy.requests["POST /api/2.0/mlflow/runs/create"] < 2:  # of the sweep, and of a trial
                    assert time.monotonic() < began + 120, proxy.requests
                    time.sleep(0.01)
                proxy.refuse()
            train(search, recording, trial)
            told = search.ledger[trial.number].epochs
            expected[str(trial.number)] = {e.epoch: [e.metrics["val/iou"]] for e in told}
        assert proxy.refused.is_set(), "no trial has waited for the server"
        threading.Timer(seconds, proxy.accept).start()
    recording.catch_up()
    assert points(mlflow_server, parent) == expected
    assert len(expected) == spec.search.trials


def test_what_the_server_did_without_its_answer_coming_is_there_once(
    spec: SweepSpec, job: Job, proxy: Proxy, mlflow_server: str
) -> None:
    """MLflow's client asks again by itself, and the server does again what it is asked for."""
    tracker, parent = opened(proxy.address)
    search, recording = begin(spec, job, tracker, parent)
    proxy.loses_every = 3
    with recording.running():
        while trial := search.next():
            train(search, recording, trial)
    recording.catch_up()
    proxy.loses_every = 0
    found = points(mlflow_server, parent)
    assert len(found) == spec.search.trials
    assert {tuple((epoch, len(values)) for epoch, values in sorted(one.items())) for one in found.values()} == {
        tuple((epoch, 1) for epoch in range(1, EPOCHS + 1))
    }
