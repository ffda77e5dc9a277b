"""The job server of a cluster, as a client of it sees it: a stand-in on loopback."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segdist.core.errors import BackendError, SegdistError, SpecError
from segdist.pipeline.job_server import job_server
from segdist.pipeline.own_cluster import _reload_token

TOKEN = "0123456789abcdef" * 2
JOBS = [
    {"type": "SUBMISSION", "submission_id": "raysubmit_b", "status": "RUNNING", "entrypoint": "segdist run b.yaml",
     "start_time": 2000, "metadata": {"segdist.sweeps": "b"},
     "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}},
    {"type": "SUBMISSION", "submission_id": "raysubmit_a", "status": "FAILED", "entrypoint": "./a.yaml",
     "start_time": 1000, "end_time": 61000, "message": "no", "driver_exit_code": 2},
    {"type": "DRIVER", "job_id": "01000000", "status": "RUNNING", "entrypoint": "python"},
]  # fmt: skip
LOG = (
    "2026-11-29 10:42:42,372\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    "Running entrypoint for job raysubmit_a: ./a.yaml\ndata\n\ntook\n"
)
Answers = Callable[..., str]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Answers]:
    """Starts a server that answers as Ray's does, with a token or without; its address."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    _reload_token()
    servers = []

    def start(token: str = "", replies: dict[str, object] | None = None) -> str:
        known = {
            "/api/version": {"ray_version": "2.60.0"},
            "/api/jobs/": JOBS,
            "/api/jobs/raysubmit_a/logs": {"logs": LOG},
        } if replies is None else replies  # fmt: skip

        class Server(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shown = self.headers.get("Authorization", "")
                state = (200 if self.path in known else 404) if shown.removeprefix("Bearer ") == token else 0
                state = state or (401 if not shown else 403)
                text = {
                    401: "Unauthorized: Missing authentication token",
                    403: "Forbidden: Invalid authentication token",
                }
                self.send_response(state)
                self.end_headers()
                self.wfile.write((text.get(state) or json.dumps(known.get(self.path))).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    monkeypatch.undo()
    _reload_token()


def test_jobs_are_listed_by_when_they_began_and_drivers_are_none(answers: Answers) -> None:
    with job_server(answers()) as server:
        first, second = server.jobs()
    assert (first.name, first.state, first.sweeps, first.seconds, first.exit_code) == (
        "raysubmit_a",
        "FAILED",
        "./a.yaml",
        60,
        2,
    )
    assert (second.sweeps, second.stop_seconds, second.has_ended) == ("b", 120, False)
    assert first.stop_seconds == 3, "Ray's own"


def test_a_log_is_shown_without_rays_own_lines(answers: Answers) -> None:
    with job_server(answers()) as server:
        assert server.logs("raysubmit_a") == "data\ntook"


def test_a_job_that_is_not_there_is_an_error_with_the_nearest(answers: Answers) -> None:
    with job_server(answers()) as server:
        assert server.job().name == "raysubmit_b"
        assert server.job("raysubmit_a").name == "raysubmit_a"
        with pytest.raises(SpecError, match=r"no job raysubmit_bb .* Did you mean `raysubmit_b`"):
            server.job("raysubmit_bb")


@pytest.mark.parametrize("place", ["RAY_AUTH_TOKEN", "home"])
def test_a_server_that_asks_for_a_token_is_shown_it_also_where_nobody_said_so(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    if place == "home":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    else:
        monkeypatch.setenv(place, TOKEN)
    with job_server(answers(TOKEN)) as server:
        assert len(server.jobs()) == 2


@pytest.mark.parametrize(
    ("env", "fix"),
    [
        ({}, "RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": TOKEN[::-1]}, "RAY_AUTH_TOKEN_PATH"),
        ({"RAY_AUTH_TOKEN": TOKEN[::-1], "RAY_AUTH_MODE": "token"}, "ray get-auth-token"),
        ({"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is `disabled`"),
    ],
)
def test_a_server_that_refuses_us_is_named_with_the_fix_and_no_token(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], fix: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    _reload_token()
    address = answers(TOKEN)
    with pytest.raises(BackendError) as caught, job_server(address):
        pass
    assert fix in str(caught.value)
    assert address in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert TOKEN[::-1] not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "--address http://HOST:8265"),
        ("http://127.0.0.1:9", "No job server of Ray answers .* refused\n.*ray dashboard"),
        ("127.0.0.1:9", "No Ray cluster answers at 127.0.0.1:9"),
        ("http://me:planted-1234@127.0.0.1:9", "RAY_AUTH_TOKEN"),
        ("http://127.0.0.1:nine", "No job server"),
    ],
)
def test_an_address_where_nobody_is_is_an_error_of_a_few_lines(answers: Answers, address: str, said: str) -> None:
    with pytest.raises(SegdistError, match=said) as caught, job_server(address):
        pass
    assert len(str(caught.value).splitlines()) <= 3
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("replies", [{}, {"/api/version": "a page"}, {"/api/version": {"ray_version": "1.0.0"}}])
def test_what_is_no_job_server_is_named(answers: Answers, replies: dict[str, object]) -> None:
    with pytest.raises(BackendError, match="No job server of Ray answers"), job_server(answers(replies=replies)):
        pass


def test_what_ray_cannot_do_is_told_in_a_line_without_its_traceback(answers: Answers) -> None:
    with job_server(answers()) as server, pytest.raises(BackendError, match="does not do it") as caught:
        server.logs("raysubmit_b")
    assert len(str(caught.value).splitlines()) == 1


def test_the_address_that_is_given_counts_and_not_that_of_the_environment(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with job_server(answers()) as server:
        assert server.jobs()
