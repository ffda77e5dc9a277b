"""Jobs on real clusters with tokens on: checked, detached, watched, stopped, and gone on with at another address."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.pipeline.conftest import SECRETS, SWEEP, command, environment, leaks, signal_family

RAY = str(Path(sysconfig.get_path("scripts")) / "ray")
TOKENS = ("0123456789abcdef" * 2, "fedcba9876543210" * 2)
Typed = Callable[..., subprocess.CompletedProcess[str]]
PLANTED = {name: SECRETS[name] for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD")}


def runs(storage: Path, sweep: str) -> list[str]:
    """The states of a sweep's runs in MLflow, as its database has them."""
    if not (storage / "mlflow.db").exists():
        return []
    query = "select r.status from runs r join experiments e using (experiment_id) where e.name = ?"
    with closing(sqlite3.connect(f"file:{storage / 'mlflow.db'}?mode=ro", uri=True)) as database:
        try:
            return [state for (state,) in database.execute(query, (sweep,))]
        except sqlite3.OperationalError:  # its tables are being made
            return []


def until(done: Callable[[], object], what: str) -> None:
    """Wait until a function says yes."""
    deadline = time.monotonic() + 200
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


@contextmanager
def head(folder: Path, token: str, cache: Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """A cluster on loopback that asks for a token; the address of its job server."""
    ports = [str(port) for port in free_ports(4)]
    options = ("--port", "--dashboard-port", "--dashboard-agent-listen-port", "--ray-client-server-port")
    words = [RAY, "start", "--head", "--block", "--node-ip-address", "127.0.0.1"]
    words += [word for pair in zip(options, ports, strict=True) for word in pair]
    words += ["--dashboard-host", "127.0.0.1", "--num-cpus", "2", "--object-store-memory", "100000000"]
    words += ["--temp-dir", str(folder), "--disable-usage-stats"]
    env = {**environment(cache), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, **(env or {})}
    with started(words, env, folder / "head.log"):
        yield f"http://127.0.0.1:{ports[1]}"


@contextmanager
def started(words: Sequence[str], env: Mapping[str, str], file: Path) -> Iterator[None]:
    """A node that `ray start --block` has begun, until the block ends.

    Args:
        words: of the command.
        env: of the node's processes.
        file: for what it says.
    """
    own = {"PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    own["RAY_memory_monitor_refresh_ms"] = "0"  # what else fills this machine must end no job
    with file.open("w") as log:
        process = subprocess.Popen(words, env={**env, **own}, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: "--block" in file.read_text() or process.poll() is not None, "a node starts")
        assert process.poll() is None, file.read_text()
        yield
    finally:
        signal_family(process.pid, signal.SIGKILL)  # asked to end, `ray start --block` takes 30 seconds
        process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def typed(tmp_path: Path) -> Typed:
    """A command line at a cluster, with its token, in the test's folder."""

    def run(address: str, token: str, *words: str) -> subprocess.CompletedProcess[str]:
        env = {
            **environment(tmp_path),
            "HOME": str(tmp_path),
            "RAY_AUTH_TOKEN": token,
            "RAY_API_SERVER_ADDRESS": address,
        }
        return subprocess.run(
            command(*words), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500, check=False
        )

    return run


def test_a_job_is_submitted_and_seen_and_stopped_and_its_runs_end_as_killed(
    tmp_path: Path, short_folder: Path, typed: Typed
) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(storage=tmp_path / "storage"))
    with head(short_folder, TOKENS[0], tmp_path / "cache") as address:
        begun = typed(address, TOKENS[0], "submit", "tiny.yaml", "train.epochs=500", "--detach", "--unchecked")
        assert begun.returncode == 0, begun.stdout + begun.stderr
        (name,) = re.findall(r"^job +(\S+): tiny$", begun.stdout, re.MULTILINE)
        until(lambda: "RUNNING" in runs(tmp_path / "storage", "tiny"), "it begins")
        stopped = typed(address, TOKENS[0], "stop")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert "stopped by SIGTERM. Done: data" in stopped.stdout
        assert f"go on:\n  segdist submit tiny.yaml train.epochs=500 --address {address}\n" in stopped.stdout
        assert set(runs(tmp_path / "storage", "tiny")) == {"KILLED"}
        (listed,) = json.loads(typed(address, TOKENS[0], "status", "--json").stdout)
        assert (listed["name"], listed["state"], listed["stop_seconds"]) == (name, "STOPPED", 120)


@pytest.mark.slow  # two clusters, whole sweeps
def test_two_sweeps_run_one_is_stopped_and_gone_on_with_at_another_address_and_no_secret_is_written(
    tmp_path: Path, short_folder: Path, typed: Typed
) -> None:
    for name in ("tiny", "other"):
        text = SWEEP.format(storage=tmp_path / "storage").replace("name: tiny", f"name: {name}")
        (tmp_path / f"{name}.yaml").write_text(f"#!/usr/bin/env -S segdist run\n{text}")
        (tmp_path / f"{name}.yaml").chmod(0o755)
    folders = [short_folder / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    with head(folders[0], TOKENS[0], tmp_path / "cache", PLANTED) as first:
        refused = typed(first, TOKENS[1], "status")
        assert refused.returncode == 2
        assert "wants its token" in refused.stderr
        both = typed(first, TOKENS[0], "submit", "tiny.yaml", "other.yaml", "search.trials=1", "train.epochs=2")
        assert both.returncode == 0, both.stdout + both.stderr
        assert re.search(r"secrets .*AWS_SECRET_ACCESS_KEY, .*HF_TOKEN, MLFLOW_TRACKING_PASSWORD", both.stdout)
        assert "tiny.yaml  ok\nother.yaml  ok" in both.stdout
        again = typed(first, TOKENS[0], "submit", "tiny.yaml", "search.trials=1", "train.epochs=2", "--unchecked")
        assert "nothing to do" in again.stdout
        long = typed(first, TOKENS[0], "submit", "tiny.yaml", "train.epochs=40", "--detach", "--unchecked")
        assert long.returncode == 0, long.stderr
        until(lambda: re.search("epoch +3/40", typed(first, TOKENS[0], "logs").stdout), "three epochs")
        stopped = typed(first, TOKENS[0], "stop")
        assert "stopped by SIGTERM" in stopped.stdout, stopped.stdout + stopped.stderr
        assert "KILLED" in runs(tmp_path / "storage", "tiny")
        request = urllib.request.Request(f"{first}/api/jobs/", headers={"Authorization": f"Bearer {TOKENS[0]}"})
        (tmp_path / "jobs.json").write_bytes(urllib.request.urlopen(request, timeout=60).read())
    with head(folders[1], TOKENS[1], tmp_path / "cache") as second:
        resumed = typed(second, TOKENS[1], "submit", "tiny.yaml", "train.epochs=40")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert "goes on with 0 of 3 trials done" in resumed.stdout
        assert not re.search(r"trial 0 +epoch +1/40", resumed.stdout), "it began where it was stopped"
        states = runs(tmp_path / "storage", "tiny")
        assert set(states) == {"FINISHED"}
        plain = [RAY, "job", "submit", "--address", second]
        plain += ["--working-dir", str(tmp_path / "jobs"), "--", "./third.yaml"]
        (tmp_path / "jobs").mkdir()
        text = (tmp_path / "tiny.yaml").read_text().replace("name: tiny", "name: third")
        (tmp_path / "jobs" / "third.yaml").write_text(text.replace("trials: 3", "trials: 1"))
        (tmp_path / "jobs" / "third.yaml").chmod(0o755)
        env = {**environment(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKENS[1]}
        done = subprocess.run(plain, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert leaks(folders[0], tmp_path / "storage", secrets={**PLANTED, "RAY_AUTH_TOKEN": TOKENS[0]}) == []
    assert leaks(tmp_path / "jobs", secrets=PLANTED) == []
    assert not [value for value in PLANTED.values() if value in (tmp_path / "jobs.json").read_text()]
