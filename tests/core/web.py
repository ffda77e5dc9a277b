"""A web server on loopback that does what it is told, right or wrong."""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SIZE = 3 << 20
CONTENT = bytes(range(256)) * (SIZE // 256)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = bytes(SIZE)
TAG = '"one"'
Act = Callable[["Handler"], object]


class Handler(BaseHTTPRequestHandler):
    """One request; the server's next act answers it."""

    server: "Server"

    def do_GET(self) -> None:
        """Answer."""
        with self.server.lock:
            self.server.ranges.append(self.headers.get("Range", ""))
            act = self.server.acts.pop(0) if self.server.acts else whole
        with suppress(OSError):  # the other side may hang up
            act(self)

    def begin(self, status: int, length: int | None = SIZE, **headers: str) -> None:
        """The status and the headers."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """What it is to do next, and what it was asked.

    Attributes:
        acts: for the next requests; then it sends all of the file.
        ranges: the header `Range` of each request so far.
        over: is set at the end of the test.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.acts: list[Act] = []
        self.ranges: list[str] = []
        self.over = threading.Event()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        """Of the file."""
        return f"http://127.0.0.1:{self.server_port}/weights.pt"


@contextmanager
def web_server() -> Iterator[Server]:
    """The server, running."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def whole(handler: Handler) -> None:
    """All of it, or the rest where that is wanted."""
    found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if found and handler.headers.get("If-Range", TAG) == TAG:
        start = int(found[1])
        handler.begin(206, SIZE - start, Content_Range=f"bytes {start}-{SIZE - 1}/{SIZE}", ETag=TAG)
        handler.wfile.write(CONTENT[start:])
    else:
        ignoring_ranges(handler)


def ignoring_ranges(handler: Handler) -> None:
    """All of it, whatever was wanted."""
    handler.begin(200, ETag=TAG)
    handler.wfile.write(CONTENT)


def ending_early(handler: Handler) -> None:
    """Two thirds of what it promises."""
    start = _begun(handler)
    handler.wfile.write(CONTENT[start : start + (SIZE - start) * 2 // 3])


def one_more_mebibyte(handler: Handler) -> None:
    """That much of what it promises."""
    start = _begun(handler)
    handler.wfile.write(CONTENT[start : start + (1 << 20)])


def _begun(handler: Handler) -> int:
    """The byte that was asked for."""
    start = int(re.sub(r"\D", "", handler.headers.get("Range", "")) or 0)
    if start:
        handler.begin(206, SIZE - start, Content_Range=f"bytes {start}-{SIZE - 1}/{SIZE}", ETag=TAG)
    else:
        handler.begin(200, ETag=TAG)
    return start


def stalling(handler: Handler) -> None:
    """A third of it, and then nothing more."""
    handler.begin(200, ETag=TAG)
    handler.wfile.write(CONTENT[: SIZE // 3])
    handler.server.over.wait(30)


def mute(handler: Handler) -> None:
    """Nothing at all."""
    handler.server.over.wait(30)


def spelling_headers(handler: Handler) -> None:
    """A header that does not end."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"x")


def dripping(handler: Handler) -> None:
    """A byte now and then."""
    handler.begin(200)
    for one in CONTENT:
        if handler.server.over.wait(0.02):
            return
        handler.wfile.write(bytes([one]))


def dripping_whole(handler: Handler) -> None:
    """All of it, in two pieces a moment apart."""
    handler.begin(200)
    handler.wfile.write(CONTENT[:1000])
    handler.server.over.wait(0.3)
    handler.wfile.write(CONTENT[1000:])


def endless(handler: Handler) -> None:
    """The file without its length, and then more and more."""
    handler.begin(200, None)
    handler.wfile.write(CONTENT)
    while not handler.server.over.is_set():
        handler.wfile.write(OTHER)
        time.sleep(0.01)


def other_bytes(handler: Handler) -> None:
    """As many bytes, others."""
    handler.begin(200, ETag='"two"')
    handler.wfile.write(OTHER)


def another_length(handler: Handler) -> None:
    """A file that is longer."""
    handler.begin(200, SIZE + 1)
    handler.wfile.write(CONTENT + b"x")


def less_than_it_has(handler: Handler) -> None:
    """The file, called a short one: a page that says to sign in, perhaps."""
    handler.begin(200, 100)
    handler.wfile.write(CONTENT)


def another_range(handler: Handler) -> None:
    """A rest that was not asked for."""
    handler.begin(206, SIZE - 7, Content_Range=f"bytes 7-{SIZE - 1}/{SIZE}")
    handler.wfile.write(CONTENT[7:])


def range_of_another_file(handler: Handler) -> None:
    """The rest of a longer file."""
    start = int(re.sub(r"\D", "", handler.headers["Range"]))
    handler.begin(206, SIZE, Content_Range=f"bytes {start}-{start + SIZE - 1}/{2 * SIZE}")
    handler.wfile.write(OTHER)


def no_such_range(handler: Handler) -> None:
    """It has no rest."""
    handler.begin(416, 0, Content_Range=f"bytes */{SIZE}")


def saying(status: int) -> Act:
    """A status, and a page about it."""

    def say(handler: Handler) -> None:
        handler.begin(status, 4)
        handler.wfile.write(b"page")

    return say


def leading_to(place: str) -> Act:
    """A redirect."""

    def redirect(handler: Handler) -> None:
        handler.begin(302, 0, Location=place)

    return redirect
