"""The server on real sockets: whoever sends or reads slowly is cut off, and stops nobody else; a signal drains it."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("uvicorn")
import httpx

from segdist.core.errors import BackendError
from segdist.core.panels import encode_png
from segdist.serving.limits import Limits
from segdist.serving.server import Server, bound
from tests.serving.test_app import CLASSES, HEADERS, PICTURE, TOKEN, app_of

QUICK = Limits(patience_seconds=2, bytes_per_second=1_000_000)
FIELDS = b"Host: localhost\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"


@contextmanager
def served(limits: Limits = QUICK, **options: Any) -> Iterator[tuple[str, int]]:
    """The application with a model anybody can compute, on a port of this machine."""
    listening = bound("127.0.0.1", 0)
    server = Server(app_of(limits=limits, **options), limits=limits, say=lambda _: None, ready="")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    where: tuple[str, int] = listening.getsockname()
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield where
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


def opened(where: tuple[str, int], content: bytes) -> socket.socket:
    client = socket.create_connection(where, timeout=20)
    client.sendall(content)
    return client


def all_of(client: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    with client:
        found = b""
        try:
            while piece := client.recv(65_536):
                found += piece
        except ConnectionError:
            pass
        return found


def is_well(where: tuple[str, int]) -> bool:
    url = f"http://{where[0]}:{where[1]}"
    reply = httpx.post(f"{url}/v1/segment", files={"image": encode_png(PICTURE)}, headers=HEADERS, timeout=20)
    return reply.status_code == 200 and httpx.get(f"{url}/health", timeout=20).json()["status"] == "ok"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: local",
        b"POST /v1/segment HTTP/1.1\r\n" + FIELDS,
        b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\n" + FORM + b"Content-Length: 9999\r\n\r\n--x",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n" + b"x" * 99,
    ],
    ids=["silence", "half a line", "half the headers", "half a body without the token", "half a body of a GET"],
)
def test_a_connection_that_says_nothing_more_is_closed(sent: bytes) -> None:
    with served() as where:
        all_of(opened(where, sent))  # ends, or the socket's own patience does
        assert is_well(where)


def test_many_slow_bodies_stop_nobody_and_are_reported_that_they_are_slow() -> None:
    head = b"POST /v1/segment HTTP/1.1\r\n" + FIELDS + FORM
    kinds = [
        head + b"Content-Length: 9999\r\n\r\n--x\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n--x\r\n\r\n",
    ]
    with served(Limits(patience_seconds=3)) as where:
        slow = [opened(where, kinds[k % 2]) for k in range(280)]
        assert is_well(where)
        answers = [all_of(client) for client in slow]
    assert len(answers) == 280
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 408 Request Timeout"}


def test_where_there_are_too_many_connections_the_one_that_has_dawdled_longest_goes() -> None:
    with served(Limits(max_connections=20)) as where:
        idle = [opened(where, b"POST /v1/segment HTTP/1.1\r\n" + FIELDS) for _ in range(20)]
        assert is_well(where)
        assert all_of(idle[0]) == b""
        idle[-1].sendall(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        assert all_of(idle[-1]).startswith(b"HTTP/1.1 422")
        for client in idle:
            client.close()


def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    name = "x" * 40_000_000  # more than the kernel keeps
    with served(Limits(patience_seconds=2, bytes_per_second=80_000_000), classes=(name,)) as where:
        client = opened(where, b"GET /v1/model HTTP/1.1\r\n" + FIELDS + b"\r\n")
        time.sleep(4)
        assert len(all_of(client)) < len(name)


def test_answers_that_nobody_reads_make_room_for_the_next() -> None:
    name = "x" * 40_000_000
    with served(Limits(max_bytes=1_000_000, max_bytes_at_once=50_000_000), classes=(*CLASSES, name)) as where:
        ask = b"GET /v1/model HTTP/1.1\r\nConnection: close\r\n" + FIELDS + b"\r\n"
        idle = opened(where, ask)
        assert idle.recv(1)
        assert len(all_of(opened(where, ask))) > len(name)
        assert len(all_of(idle)) < len(name)
        assert is_well(where)


NO_HTTP = {
    "a long header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000, b"400"),
    "many headers": (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 9_999, b"400"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"400"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    "no host in HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", b"421"),
    "two lengths": (b"GET / HTTP/1.1\r\n" + FIELDS + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", b"400"),
    "5,000 digits": (b"GET / HTTP/1.1\r\n" + FIELDS + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n", b"400"),
    "a negative length": (b"GET / HTTP/1.1\r\n" + FIELDS + b"Content-Length: -1\r\n\r\n", b"400"),
    "a second encoding": (b"GET / HTTP/1.1\r\n" + FIELDS + b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"400"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, b"400"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"421"),
}


@pytest.mark.parametrize("what", NO_HTTP)
def test_what_is_no_http_is_refused(what: str) -> None:
    sent, status = NO_HTTP[what]
    with served() as where:
        assert all_of(opened(where, sent)).split(b" ")[1:2] == [status]
        assert is_well(where)


@pytest.mark.parametrize("path", ["/v1/segment", "/health"], ids=["with the token", "refused before"])
def test_a_body_that_breaks_off_into_nonsense_ends_quietly(path: str, caplog: pytest.LogCaptureFixture) -> None:
    fields = FIELDS if path == "/v1/segment" else b"Host: localhost\r\n"
    head = b"POST " + path.encode() + b" HTTP/1.1\r\n" + fields + FORM + b"Transfer-Encoding: chunked\r\n\r\n"
    with served() as where, opened(where, head) as client:
        time.sleep(0.2)
        client.sendall(b"nonsense\r\n" * 100)
        assert all_of(client).startswith(b"HTTP/1.1 4")
        assert is_well(where)
    assert caplog.text == ""


def test_a_body_in_pieces_of_a_byte_is_cut_off() -> None:
    head = b"POST /v1/segment HTTP/1.1\r\n" + FIELDS + FORM + b"Transfer-Encoding: chunked\r\n\r\n"
    with served(Limits()) as where:
        client = opened(where, head)
        with pytest.raises(ConnectionError):
            client.sendall(b"1\r\nx\r\n" * 10_000_000)
        client.close()
        assert is_well(where)


def test_a_client_that_asks_whether_to_send_is_refused_before_it_does() -> None:
    head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 99\r\n\r\n"
    with served() as where:
        assert all_of(opened(where, head)).startswith(b"HTTP/1.1 401")


def test_requests_one_behind_the_other_are_answered_in_turn() -> None:
    one = b"GET /v1/model HTTP/1.1\r\n" + FIELDS + b"\r\n"
    with served() as where:
        assert all_of(opened(where, one * 50)).count(b"HTTP/1.1 200 OK") == 50


def test_an_address_that_is_taken_is_named() -> None:
    with bound("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(BackendError, match=f"127.0.0.1:{port}: Address already in use"):
            bound("127.0.0.1", port)


CHILD = """
import asyncio, sys
from segdist.core.records import Instance
from segdist.serving.limits import Limits
from segdist.serving.server import Server, bound
from tests.serving.test_app import app_of, brightest

async def slow(image, prompt):
    print("looking", flush=True)
    await asyncio.sleep(float(sys.argv[1]))
    return await brightest(image, prompt)

limits = Limits(drain_seconds=int(sys.argv[2]))
listening = bound("127.0.0.1", 0)
server = Server(app_of(slow, limits=limits), limits=limits, say=lambda text: print(text, flush=True),
                ready=f"ready {listening.getsockname()[1]}")
server.run(sockets=[listening])
print("stopped", flush=True)
"""


class Child:
    """A server in a process of its own, one request under way."""

    def __init__(self, seconds: float, drain: int) -> None:
        words = [sys.executable, "-c", textwrap.dedent(CHILD), str(seconds), str(drain)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ)
        self.url = f"http://127.0.0.1:{self.line().split()[1]}"
        self.answers: list[httpx.Response | httpx.TransportError] = []
        self.client = threading.Thread(target=self._ask)
        self.client.start()
        assert self.line() == "looking"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _ask(self) -> None:
        files = {"image": ("a.png", encode_png(PICTURE), "image/png")}
        try:
            self.answers.append(httpx.post(f"{self.url}/v1/segment", files=files, headers=HEADERS, timeout=60))
        except httpx.TransportError as error:
            self.answers.append(error)


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    made = Child(*request.param)
    yield made
    made.process.kill()
    made.client.join(20)
    made.process.communicate()


@pytest.mark.parametrize("child", [(1.5, 30)], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_the_request_under_way_is_answered(child: Child, number: signal.Signals) -> None:
    child.process.send_signal(number)
    assert child.line().startswith("stopping  takes no more requests; 1 under way")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{child.url}/health", timeout=20)
    child.client.join(20)
    (answer,) = child.answers
    assert isinstance(answer, httpx.Response)
    assert json.loads(answer.text)["size_hw"] == [40, 48]
    assert child.line() == "stopped"
    assert child.process.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("child", [(60, 1), (60, 60)], indirect=True, ids=["patience ends", "a second signal"])
def test_a_request_that_takes_too_long_does_not_keep_it(child: Child) -> None:
    child.process.send_signal(signal.SIGTERM)
    child.line()
    child.process.send_signal(signal.SIGTERM)
    assert child.line() == "stopped"
    assert child.process.wait(20) == 0
