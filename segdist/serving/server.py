"""HTTP on a socket: uvicorn, with an end to its patience and a drain when it is told to stop."""

import asyncio
import contextlib
import ctypes
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from segdist.core.errors import BackendError
from segdist.serving.limits import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_SLICE = 16_384
_BYTES_A_PIECE = 256
"""Of a chunked body, on the wire and on average; each piece costs as much as 10,000 bytes in one."""


def bound(host: str, port: int) -> socket.socket:
    """A socket of this address; nobody can connect until a `Server` listens.

    Raises:
        BackendError: it is not this machine's, or taken.
    """
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(socket.socket(kind, socket.SOCK_STREAM))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended holds no port
            found.bind(address)
            stack.pop_all()
    except OSError as error:
        raise BackendError(
            f"Nobody can listen at {host}:{port}: {error.strerror}. Name a free --port, or a --host of this machine."
        ) from error
    return found


class Server(uvicorn.Server):
    """Answers requests until SIGTERM or SIGINT, then finishes those under way; `run(sockets=[bound(...)])` begins.

    Args:
        app: an ASGI application.
        limits: of connections.
        say: prints a line.
        ready: said when it listens.
    """

    def __init__(self, app: "ASGIApp", *, limits: Limits, say: Callable[[str], None], ready: str) -> None:
        config = uvicorn.Config(
            app,
            http=partial(ClientConnection, limits=limits),  # type: ignore[arg-type]  # it is called, nothing else
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=limits.max_connections,
            timeout_graceful_shutdown=limits.drain_seconds,
        )
        super().__init__(config)
        self._say, self._ready, self._limits = say, ready, limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        _allow_files(self._limits.max_connections)
        _give_memory_back()
        await super().startup(sockets)
        self._say(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, and wait for requests under way."""
        count, seconds = len(self.server_state.tasks), self._limits.drain_seconds
        self._say(f"stopping  takes no more requests; {count} under way have {seconds} s; once more stops at once")
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal drains, the second ends at once; uvicorn would raise them again when it is done."""
        if threading.current_thread() is not threading.main_thread():  # as uvicorn: only the main one gets any
            yield
            return
        with contextlib.ExitStack() as stack:
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, number, signal.signal(number, self._on_signal))
            yield

    def _on_signal(self, *_: object) -> None:
        self.force_exit, self.should_exit = self.should_exit, True


class ClientConnection(H11Protocol):
    """A connection whose client has a limited time for its headers, and to read the answer.

    A body has its time from `Guard`. uvicorn waits forever for headers, for the rest of a body that was refused, and
    for a client that does not read.
    """

    def __init__(self, *arguments: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = self._counted = _Counted(h11.SERVER)
        self._limits = limits
        self._since, self._is_refused = 0.0, False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Where there are too many, the one that has dawdled longest goes."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self._limits.max_connections:
            others = [c for c in self.connections if isinstance(c, ClientConnection) and c._may_send]
            min(others, key=lambda c: c._since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is owed any more."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """In slices, so that a body in pieces of a byte, which takes long to read, is noticed early."""
        for start in range(0, len(data), _SLICE):
            if self._is_refused or self.transport.is_closing():
                return
            super().data_received(data[start : start + _SLICE])
            if self._counted.is_wasteful:
                self.transport.abort()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Say that it is no HTTP, and read on, or what is still coming resets the connection before that is heard."""
        if self.conn.our_state is h11.IDLE:
            self._is_refused = True
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.write_eof()
        elif self.conn.our_state is h11.SEND_RESPONSE:
            super().send_400_response(msg)
        else:  # it was answered already
            self.transport.close()

    def on_response_complete(self) -> None:
        """From now on the client has to read, and to ask again."""
        self._unwatch()
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client does not read as quickly as we write."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._watch()

    @property
    def _is_clients_turn(self) -> bool:
        """Whether it is the client's turn: to ask, or to read."""
        return self.cycle is None or self.cycle.response_complete or self.flow.write_paused

    @property
    def _may_send(self) -> bool:
        return self._is_clients_turn or self.cycle.more_body

    def _watch(self) -> None:
        if not self._is_clients_turn:
            self._unwatch()
        elif self._deadline is None:
            unread = self.transport.get_write_buffer_size() / self._limits.bytes_per_second
            self._since = self.loop.time()
            self._deadline = self.loop.call_later(self._limits.patience_seconds + unread, self.transport.abort)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Counted(h11.Connection):
    """Notices a body in such small pieces that reading it is an attack."""

    _spare = 1_000.0

    def receive_data(self, data: bytes) -> None:
        self._spare += len(data) / _BYTES_A_PIECE
        super().receive_data(data)

    def next_event(self) -> Any:
        event = super().next_event()
        self._spare -= isinstance(event, h11.Data)
        return event

    @property
    def is_wasteful(self) -> bool:
        return self._spare < 0


def _allow_files(count: int) -> None:
    """Each connection is an open file, of which many systems allow 1,024 unless one asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1_024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _give_memory_back() -> None:
    """Where the C library is glibc, freed blocks of a megabyte go back to the system at once.

    Otherwise it keeps up to 32 MB of each, for each thread: a few large images decoded in turn leave more than one
    needs.
    """
    threshold, megabyte = -3, 2**20  # M_MMAP_THRESHOLD in malloc.h
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(threshold, megabyte)
