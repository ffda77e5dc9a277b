"""A TCP proxy in front of a server: it counts HTTP requests, refuses connections for a while, and loses answers."""

import itertools
import re
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (/[^ ?]*)[^ \r\n]* HTTP/1\.[01]\r\n")

_SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: 87\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Proxy:
    """Passes bytes on to a server, on a port of its own.

    Args:
        server: its address.
        host: address of this machine that it listens on.
    """

    def __init__(self, server: str, host: str = "127.0.0.1") -> None:
        place, self._host = urlsplit(server), host
        self._server = (str(place.hostname), int(place.port or 80))
        self._listener = self._listen(0)
        self._port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._answers = itertools.count(1)
        self.loses_every = 0
        """Of so many answers one is not passed on, though the server did what it was asked for; 0 for none."""
        self.is_busy = False
        """Whether requests are answered by 503 (Slow Down, as S3 calls it), and not passed on."""
        self.delay = 0.0
        """Seconds that what is asked is held back."""
        self.requests: Counter[str] = Counter()
        """How often each path was asked for, by method and path."""
        self.refused = threading.Event()
        """Set while nobody is let in."""

    @property
    def address(self) -> str:
        """What clients are to ask."""
        return f"http://{self._host}:{self._port}"

    def __enter__(self) -> Self:
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    def refuse(self) -> None:
        """End all connections, and let nobody in."""
        self.refused.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def accept(self) -> None:
        """Let clients in again, at the same address."""
        self._listener = self._listen(self._port)
        self.refused.clear()
        self._serve()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._host, port))
        listener.listen(64)
        return listener

    def _serve(self) -> None:
        threading.Thread(target=self._let_in, args=(self._listener,), daemon=True).start()

    def _let_in(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            with self._lock:
                self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, target, source is client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_asked: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if is_asked:
                    self._count(data)
                    time.sleep(self.delay)
                    if self.is_busy and _REQUEST.match(data):
                        source.sendall(_SLOW_DOWN)
                        break
                elif self.loses_every and data.startswith(b"HTTP/1.") and not next(self._answers) % self.loses_every:
                    break
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
            with self._lock:
                self._open.discard(one)

    def _count(self, data: bytes) -> None:
        for method, path in _REQUEST.findall(data):
            with self._lock:
                self.requests[f"{method.decode()} {path.decode()}"] += 1
