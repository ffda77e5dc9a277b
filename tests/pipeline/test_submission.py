"""Sweeps as jobs: against a server that is played here, and against a real one."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from segdist.cli import app
from segdist.core.errors import BackendError, SpecError
from segdist.pipeline import submission
from segdist.pipeline.job_server import Job, JobServer
from tests.pipeline.conftest import SWEEP

ADDRESS = "http://127.0.0.1:8265"


class Server:
    """A job server that does what a test says, and remembers what was asked of it."""

    def __init__(self, *ends: Job, logs: Mapping[str, str] | None = None) -> None:
        self.address = ADDRESS
        self.left = {job.name: job for job in ends}
        self.said = logs or {}
        self.submitted = list[tuple[str, dict[str, str], dict[str, str], list[str]]]()
        self.stopped = list[str]()
        self.breaks = 0

    def submit(self, entrypoint: str, folder: Path, values: dict[str, str], metadata: dict[str, str]) -> str:
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        self.submitted.append((entrypoint, values, metadata, files))
        return list(self.left)[len(self.submitted) - 1]

    def jobs(self) -> list[Job]:
        return list(self.left.values())

    def job(self, name: str = "") -> Job:
        return self.left[name]

    def logs(self, name: str) -> str:
        return self.said.get(name, "")

    def follow(self, name: str, show: Callable[[str], None]) -> None:
        lines = self.logs(name).splitlines()
        if self.breaks:
            self.breaks -= 1
            for line in lines[:1]:
                show(line)
            raise BackendError("the tunnel broke")
        for line in lines:
            show(line)

    def stop(self, name: str) -> bool:
        self.stopped.append(name)
        self.left[name] = ended(name, "STOPPED")
        return True


def ended(
    name: str, state: str, *, code: int | None = 0, sweeps: str = "roofs", message: str = "", seconds: int = 120
) -> Job:
    return Job(name, state, sweeps, 1.0, 2.0, message, code, seconds)


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Server], Server]:
    """Puts a server in the place of a cluster's; the current folder holds a sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submission, "_POLL_SECONDS", 0.0)
    Path("roofs.yaml").write_text(SWEEP.format(storage=tmp_path / "storage").replace("name: tiny", "name: roofs"))

    def play(server: Server) -> Server:
        @contextmanager
        def opened(address: str) -> Iterator[JobServer]:
            assert address == ADDRESS
            yield cast("JobServer", server)

        monkeypatch.setattr(submission, "job_server", opened)
        return server

    return play


def typed(*words: str) -> Any:
    """A command line at that address."""
    return CliRunner().invoke(app, [*words, "--address", ADDRESS])


def test_a_sweep_is_checked_then_run_with_time_to_save_and_found_by_its_name(plays: Callable[[Server], Server]) -> None:
    server = plays(Server(ended("check", "SUCCEEDED"), ended("run", "SUCCEEDED"), logs={"run": "data\ntook 0:10\n"}))
    done = typed("submit", "roofs.yaml", "search.trials=2")
    assert done.exit_code == 0, done.output
    (checked, _, checking, _), (entrypoint, values, metadata, files) = server.submitted
    assert checked.startswith("segdist preflight roofs.yaml search.trials=2 --wanted ")
    assert checking["segdist.sweeps"] == "segdist.preflight"
    assert entrypoint == "segdist run roofs.yaml search.trials=2"
    typed_here = f"segdist submit roofs.yaml search.trials=2 --address {ADDRESS}"
    assert values == {"RAY_JOB_STOP_WAIT_TIME_S": "120", "SEGDIST_TYPED": typed_here}
    assert metadata == {"segdist.sweeps": "roofs"}
    assert files == ["roofs.yaml"]
    assert "1 file, 0." in done.output
    assert "took 0:10" in done.output


def test_a_cluster_that_is_not_fit_is_told_as_its_nodes_tell_it_and_nothing_starts(
    plays: Callable[[Server], Server],
) -> None:
    said = (
        "cluster   1 node\nerror: The cluster must be fit for the sweeps, but:\n- node a has segdist 0.0.9, not 0.1.0\n"
        "Versions: install on every node what the driver's has.\n"
    )
    server = plays(Server(ended("check", "FAILED", code=2), ended("run", "SUCCEEDED"), logs={"check": said}))
    done = typed("submit", "roofs.yaml")
    assert done.exit_code == 2
    assert len(server.submitted) == 1
    assert "error: The cluster must be fit for the sweeps, but:\n- node a has segdist 0.0.9" in done.stderr
    assert "Nothing was started." in done.stderr
    assert done.output.count("segdist 0.0.9") == done.output.count("Versions: install") == 1


@pytest.mark.parametrize(
    ("code", "log", "said"),
    [
        (127, "/bin/sh: 1: segdist: not found\n", "segdist is not installed on its head"),
        (2, "error: No such command 'preflight'.\n", "may be of another version"),
        (1, "Traceback\nImportError: x\n", "ended with 1"),
    ],
)
def test_a_cluster_that_cannot_be_checked_is_told_with_what_it_said(
    plays: Callable[[Server], Server], code: int, log: str, said: str
) -> None:
    server = plays(Server(ended("check", "FAILED", code=code), ended("run", "SUCCEEDED"), logs={"check": log}))
    done = typed("submit", "roofs.yaml")
    assert done.exit_code == 2
    assert len(server.submitted) == 1
    assert said in done.stderr
    assert log.splitlines()[-1] in done.stderr


def test_detached_it_returns_with_the_commands_that_go_on(plays: Callable[[Server], Server]) -> None:
    plays(Server(ended("run", "RUNNING", code=None)))
    done = typed("submit", "roofs.yaml", "--detach", "--unchecked")
    assert done.exit_code == 0, done.output
    assert f"segdist logs --follow run --address {ADDRESS}" in done.output
    assert f"segdist stop run --address {ADDRESS}" in done.output


@pytest.mark.parametrize(
    ("job", "code", "said"),
    [
        (ended("run", "FAILED", code=2), 2, "failed: it ended with code 2. What it said stands above."),
        (ended("run", "FAILED", code=None, message="out of memory\nmore"), 2, "failed: Ray ended it. out of memory"),
        (ended("run", "STOPPED", code=None), 143, ""),
    ],
)
def test_the_end_of_a_job_is_the_end_of_the_command(
    plays: Callable[[Server], Server], job: Job, code: int, said: str
) -> None:
    plays(Server(job, logs={"run": "error: of the job\n"}))
    done = typed("submit", "roofs.yaml", "--unchecked")
    assert done.exit_code == code
    assert "error: of the job" in done.output
    assert said in done.output


def test_ctrl_c_leaves_the_job_alone(plays: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = plays(Server(ended("run", "RUNNING", code=None)))

    def pressed(name: str, show: Callable[[str], None]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "follow", pressed)
    done = typed("submit", "roofs.yaml", "--unchecked")
    assert done.exit_code == 130
    assert "The job goes on without being watched." in done.stderr
    assert "segdist logs --follow run" in done.stderr
    assert not server.stopped


def test_a_connection_that_breaks_is_made_again_and_no_line_is_shown_twice(plays: Callable[[Server], Server]) -> None:
    server = plays(Server(ended("run", "SUCCEEDED"), logs={"run": "one\ntwo\nthree\n"}))
    server.breaks = 3
    done = typed("submit", "roofs.yaml", "--unchecked")
    assert done.exit_code == 0
    assert re.findall("^(?:one|two|three)$", done.output, re.MULTILINE) == ["one", "two", "three"]
    server.breaks, server.submitted = 100, []
    done = typed("submit", "roofs.yaml", "--unchecked")
    assert done.exit_code == 2
    assert "the tunnel broke" in done.stderr


def test_status_shows_sweeps_and_no_checks(plays: Callable[[Server], Server]) -> None:
    check = ended("check", "SUCCEEDED", sweeps="segdist.preflight")
    plays(Server(check, ended("run", "RUNNING", code=None, sweeps="roofs, seams")))
    done = typed("status")
    assert "roofs, seams" in done.output
    assert "running" in done.output
    assert "check" not in done.output
    (found,) = json.loads(typed("status", "--json").output)
    assert (found["name"], found["state"]) == ("run", "RUNNING")
    plays(Server(check))
    assert "No sweep was submitted" in typed("status").output


def test_logs_are_those_of_the_latest_or_of_the_one_that_is_named(plays: Callable[[Server], Server]) -> None:
    plays(Server(ended("a", "SUCCEEDED"), ended("b", "STOPPED"), logs={"a": "of a\n", "b": "of b\n"}))
    assert typed("logs").output == "of b\n"
    assert typed("logs", "a").output == "of a\n"
    plays(Server())
    assert typed("logs").exit_code == 2


def test_stop_takes_the_one_that_runs_and_waits_for_its_end(plays: Callable[[Server], Server]) -> None:
    server = plays(
        Server(ended("a", "SUCCEEDED"), ended("b", "RUNNING", code=None), logs={"b": "stopped by SIGTERM\n"})
    )
    done = typed("stop")
    assert done.exit_code == 0, done.output
    assert server.stopped == ["b"]
    assert done.output == "stopped by SIGTERM\nb stopped\n"


def test_a_job_that_has_no_time_to_save_is_told(plays: Callable[[Server], Server]) -> None:
    plays(Server(ended("b", "RUNNING", code=None, seconds=3)))
    assert "Ray gives this job 3 s to save" in typed("stop").stderr


@pytest.mark.parametrize(
    ("jobs", "words", "said"),
    [
        ([], [], "No job runs"),
        ([ended("a", "RUNNING"), ended("b", "PENDING")], [], "Name the job to stop, for 2 run: a, b."),
        ([ended("a", "FAILED")], ["a"], "has ended already: FAILED"),
    ],
)
def test_what_cannot_be_stopped_is_named(
    plays: Callable[[Server], Server], jobs: list[Job], words: list[str], said: str
) -> None:
    server = plays(Server(*jobs))
    done = typed("stop", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not server.stopped


def test_a_sweep_file_that_is_wrong_is_told_before_anybody_is_asked(plays: Callable[[Server], Server]) -> None:
    server = plays(Server())
    done = typed("submit", "roofs.yaml", "search.trails=2")
    assert done.exit_code == 2
    assert "Did you mean `trials`" in done.stderr
    with pytest.raises(SpecError):
        submission.submit([("roofs.yaml", ["storage=out"])], ADDRESS, typed="", is_detached=True, is_checked=False)
    assert not server.submitted
