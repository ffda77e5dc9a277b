import errno
import http.server
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import EndpointConnectionError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from segdist.core import storage
from segdist.core.errors import BackendError, StorageError
from segdist.core.spec import SweepSpec
from segdist.tracking import Measured, Tracker, connection
from segdist.tracking.connection import Connection
from tests.tracking.conftest import DATASET, start_sweep, start_trial


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_address_nobody_answers_on_is_an_error_within_seconds(free_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"No MLflow server answers.*tracking\.uri"):
        Tracker(f"http://127.0.0.1:{free_port}").check()
    assert time.monotonic() - started < 5


def test_an_address_that_accepts_and_stays_silent_is_an_error_within_seconds() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(BackendError, match="No MLflow server answers"):
            Tracker(f"http://127.0.0.1:{listener.getsockname()[1]}").check()


def test_a_server_that_is_not_mlflow_is_an_error(free_port: int) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(BackendError, match="no usable MLflow address"):
            Tracker(f"http://127.0.0.1:{free_port}").check()
    finally:
        server.shutdown()
        server.server_close()


def test_credentials_in_the_address_are_never_shown(free_port: int) -> None:
    tracker = Tracker(f"http://me:secret@127.0.0.1:{free_port}")
    assert "secret" not in tracker.uri
    with pytest.raises(BackendError) as error:
        tracker.check()
    assert "secret" not in str(error.value)


def test_a_storage_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot be written.*Set storage or tracking\.uri"):
        Tracker.at(str(tmp_path / "file" / "storage")).check()


def test_embedded_tracking_on_an_object_store_is_an_error_with_both_fixes() -> None:
    with pytest.raises(StorageError, match=r"MLflow server.*or storage to a folder"):
        Tracker.at("s3://bucket/segdist")


def test_a_plain_folder_as_address_is_an_error_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="`embedded`"):
        Tracker.at(str(tmp_path), str(tmp_path / "mlruns")).check()


def test_a_broken_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, but long enough to be read as one " * 20)
    with pytest.raises(BackendError, match=r"mlflow\.db"):
        Tracker.at(str(tmp_path)).check()


def test_an_open_tracker_can_be_pickled(tracker: Tracker) -> None:
    tracker.check()
    pickle.loads(pickle.dumps(tracker)).check()


def test_the_first_use_of_a_new_database_prints_nothing(tmp_path: Path) -> None:
    code = "import sys; from segdist.tracking import Tracker; Tracker.at(sys.argv[1]).check()"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.fixture
def server(served: tuple[str, subprocess.Popen[bytes]]) -> str:
    """The address of a real MLflow server."""
    return served[0]


@pytest.fixture
def served(tmp_path: Path, free_port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real MLflow server on loopback, and its process, of a group of its own."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(free_port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path / "files"),
    ]  # fmt: skip
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            _wait_for(free_port, process)
            yield f"http://127.0.0.1:{free_port}", process
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail("the MLflow server did not start")


@pytest.mark.slow
def test_everything_works_through_a_server(server: str, spec: SweepSpec, tmp_path: Path) -> None:
    tracker = Tracker.at(spec.storage, server)
    parent = start_sweep(tracker, spec)
    runs = [start_trial(tracker, parent, n) for n in (0, 1, 1)]
    assert runs[1] == runs[2]
    tracker.log_epochs(runs[1], [Measured(n, {"val/iou": 0.5 / n}, seconds=1.0) for n in (1, 2)])
    tracker.log_text(runs[1], "weights", "model/model.safetensors")
    tracker.end(runs[1])
    tracker.close_orphans(parent)
    assert [(t.status, t.metrics.get("val/iou")) for t in tracker.trials(parent)] == [
        ("FINISHED", 0.5),
        ("KILLED", None),
    ]
    assert tracker.history(runs[1], "val/iou") == [(1, 0.5), (2, 0.25)]
    assert tracker.register_champion("cracks", runs[1]) == 1
    assert tracker.register_champion("cracks", runs[1]) == 1
    assert (tracker.model_files("cracks@champion", tmp_path / "out") / "model.safetensors").read_text() == "weights"
    sweep = tracker.latest_sweep("cracks")
    assert sweep.dataset is not None
    assert sweep.dataset.digest == DATASET.content_hash


def test_a_temporary_folder_that_holds_no_file_of_a_run_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Connection("http://127.0.0.1:5000", "")
    server._client = MlflowClient("http://127.0.0.1:5000")  # it answered once
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(StorageError, match=r"0 MB are free in .* set TMPDIR"), server.client():
        raise MlflowException("Failed to download artifacts from path 'model'")


@pytest.mark.slow
def test_a_server_that_hung_has_each_trial_once_with_all_that_was_told(
    served: tuple[str, subprocess.Popen[bytes]],
    spec: SweepSpec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    server, process = served
    tracker = Tracker.at(spec.storage, server)
    parent = start_sweep(tracker, spec)
    start_trial(tracker, parent, 0)
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(start_trial, tracker, parent, 1)
            time.sleep(7)
            os.killpg(process.pid, signal.SIGCONT)
            run = started.result(120)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    tracker.log_metrics(run, {"val/iou": 0.5}, step=1)
    tracker.close_orphans(parent)
    assert [(t.number, t.metrics.get("val/iou")) for t in tracker.trials(parent)] == [(1, 0.5), (0, None)]
    children = MlflowClient(server).search_runs(["1"], "tags.`mlflow.parentRunId` LIKE '%'")
    assert len(children) == 2
    assert capsys.readouterr().err.count(f"MLflow at {server} does not answer; waiting for it") == 1


def test_a_process_that_ends_does_not_wait_for_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection._NO_PATIENCE, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "9999")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        server = Connection(uri, "")
        server._client = MlflowClient(uri)  # it answered once
        with server.impatient(), pytest.raises(BackendError, match="does not answer"), server.client() as client:
            client.get_run("0" * 32)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "9999"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("uri", ["embedded", "sqlite:///{folder}/own.db", "http://127.0.0.1:1"])
def test_a_database_on_a_network_disk_is_warned_of_with_the_fix(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(storage, "_MOUNTS", mounts)
    risk = Tracker.at(str(tmp_path), uri.format(folder=tmp_path)).risk
    assert bool(risk) is not uri.startswith("http")
    if risk:
        assert f"{tmp_path}/" in risk
        assert "nfs4" in risk
        assert "Set tracking.uri to an MLflow server" in risk
    mounts.write_text("/dev/a / ext4 rw 0 0\n")
    assert not Tracker.at(str(tmp_path), uri.format(folder=tmp_path)).risk


def test_a_database_whose_making_was_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(client: MlflowClient) -> MlflowClient:
        connected(client)
        raise SQLAlchemyError("(sqlite3.OperationalError) database or disk is full")

    connected = connection._connected
    monkeypatch.setattr(connection, "_connected", cut)
    with pytest.raises(StorageError, match="Free some space"):
        Tracker.at(str(tmp_path)).check()
    assert [f.name for f in tmp_path.iterdir() if f.stat().st_size] == []
    monkeypatch.undo()
    Tracker.at(str(tmp_path)).check()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("(sqlite3.OperationalError) database or disk is full", "Free some space"),
        ("(sqlite3.OperationalError) database is locked", "Let no other program hold it"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "Mount it for writing"),
        ("(sqlite3.DatabaseError) database disk image is malformed", "Restore it from a backup"),
    ],
)
def test_what_a_database_lacks_is_told_with_its_file_and_the_fix(storage: Path, said: str, fix: str) -> None:
    database = Connection(f"sqlite:///{storage}/mlflow.db", str(storage))
    with pytest.raises(StorageError, match=f"mlflow.db cannot be used: .*{fix}"), database.client():
        raise SQLAlchemyError(f"{said}\n[SQL: INSERT INTO x]\n(Background on this error at: https://...)")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1/x"), "The object store does not answer"),
        (S3UploadFailedError("Failed to upload x: An error occurred (AccessDenied)"), "Set AWS_PROFILE"),
        (OSError(errno.ENOSPC, "No space left on device"), "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), "Check their folder"),
    ],
)
def test_what_artifacts_lack_is_told_with_their_place_and_the_fix(storage: Path, error: Exception, fix: str) -> None:
    database = Connection(f"sqlite:///{storage}/mlflow.db", "s3://bucket/x")
    with pytest.raises(StorageError, match=f"files under s3://bucket/x cannot be used: .*{fix}"), database.client():
        raise error


def test_a_server_that_went_away_is_told_with_its_address_and_the_fix() -> None:
    server = Connection("http://127.0.0.1:5000", "")
    server._client = MlflowClient("http://127.0.0.1:5000")  # it answered once
    gone = MlflowException("API request to http://127.0.0.1:5000/api/x failed with exception HTTPConnectionPool(...)")
    with (
        pytest.raises(BackendError, match="5000 cannot be used: The MLflow server does not answer"),
        server.client(),
    ):
        raise gone
