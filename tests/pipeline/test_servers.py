"""The same sweep with nothing on the local disk: storage under `s3://`, trials on an MLflow server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from segdist.core import storage
from tests.pipeline.conftest import SWEEP, Command, draw_roofs


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server on loopback, with SQLite and files of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", "artifacts"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # spares eight idle processes
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(words, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


@pytest.mark.slow  # a whole sweep beside two servers
def test_a_sweep_keeps_its_files_in_s3_and_its_trials_on_a_server_and_is_found_there_again(
    tmp_path: Path, segdist: Command, s3_bucket: str, mlflow_server: str
) -> None:
    root = f"{s3_bucket}/{tmp_path.name}"
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP.format(storage=root))
    file.write_text(file.read_text() + f"tracking: {{uri: {mlflow_server}}}\nlabel: {{teacher: {{family: sam}}}}\n")

    first = segdist("run", file, "data.boxes_only=[train]")
    assert first.returncode == 0, first.stdout + first.stderr
    assert b"Where are the roofs?" in storage.read_bytes(f"{root}/sweeps/tiny/report.html")
    for part in ("datasets", "labels"):
        assert [e.uri for e in storage.find(f"{root}/{part}", suffix="manifest.json")]
    assert not (tmp_path / "storage").exists()

    second = segdist("run", file, "data.boxes_only=[train]")
    assert "nothing to do" in second.stdout, second.stdout + second.stderr

    board = segdist("compare", "tiny", "--storage", root, "--tracking", mlflow_server, "--json")
    trials = json.loads(board.stdout)["trials"]
    assert [t["status"] for t in trials] == ["FINISHED"] * 3
    assert "test/iou" in trials[0]["metrics"]

    scene = tmp_path / "roofs.png"
    draw_roofs(scene)
    where = ("--storage", root, "--tracking", mlflow_server)
    answer = segdist("predict", "tiny@champion", scene, "-o", tmp_path / "out", *where)
    assert answer.returncode == 0, answer.stderr
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
