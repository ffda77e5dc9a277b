"""What a request must pass before anybody reads it: whom it is meant for, the token, a size; and a pace."""

import asyncio
import hmac
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from python_multipart.multipart import parse_options_header
from starlette.types import Message, Scope

from segdist.serving.limits import Limits

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/health", "/docs", "/openapi.json"})
"""Paths that need no token: they show neither pictures nor what the model finds."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""Of every answer that does not say otherwise."""


_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


_PIECE = 65_536
_T = TypeVar("_T")


class RefusedError(Exception):
    """What the application sees of a body that is read no further."""


class Guard:
    """An ASGI layer in front of an application.

    Args:
        app: what it guards.
        token: that `Authorization: Bearer ...` must hold.
        hosts: names that requests may be addressed to, beside this machine's own address: a name that another site
            points here must not open the server to that site's scripts.
        limits: of a body.
    """

    def __init__(self, app: App, *, token: str, hosts: Collection[str] = (), limits: Limits) -> None:
        self._app, self._token, self._limits = app, token.encode(), limits
        self._hosts = LOOPBACK | {_canonical(name) for name in hosts}
        self._bodies = _Bodies(max(limits.max_bytes, limits.max_bytes_at_once))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on, counting what comes."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there is no socket to open
            await send({"type": "websocket.close"})
            return
        exchange = _Exchange(receive, send, self._bodies, self._limits)
        if refusal := self._refusal(scope):
            exchange.refuse(*refusal)
        try:
            if not refusal:
                await self._app(scope, exchange.receive, exchange.send)
        except RefusedError:
            pass  # said below
        except asyncio.CancelledError:  # the server stops, and will wait no longer
            exchange.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The server stops.")
        finally:
            self._bodies.forget(exchange)
            await exchange.answer_if_refused()

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        """Why a request is not even read; None lets it pass."""
        headers = dict(reversed(scope["headers"]))  # of several of a name, the first
        host = headers.get(b"host", b"")
        if not self._is_here(host, scope):
            return HTTPStatus.MISDIRECTED_REQUEST, "The server has no such name. Start it with --allowed-host NAME."
        if b"origin" in headers and headers[b"origin"].lower().partition(b"://")[2] != host.lower():
            return HTTPStatus.FORBIDDEN, "Pages of other sites may not ask this server."
        if scope["path"] not in OPEN and not self._is_allowed(headers.get(b"authorization", b"")):
            return HTTPStatus.UNAUTHORIZED, "Send the server's token: `Authorization: Bearer TOKEN`."
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self._limits.max_bytes:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._limits)
        if (int(length) or b"transfer-encoding" in headers) and not _is_form(headers):
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A body must be `multipart/form-data` in UTF-8, not compressed."
        return None

    def _is_here(self, header: bytes, scope: Scope) -> bool:
        name, own = _host(header), scope.get("server") or ("", None)
        return bool(name) and (name in self._hosts or name == _canonical(own[0]))

    def _is_allowed(self, header: bytes) -> bool:
        kind, _, token = header.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


class _Bodies:
    """All bodies and answers that are held. Where they are too many bytes, the largest that waits for its client goes.

    So neither many that stop short of their end, nor few that come fast, keep out an image of common size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._held: dict[_Exchange, int] = {}  # in the order in which they began

    def add(self, exchange: "_Exchange", count: int) -> None:
        self._held[exchange] = self._held.get(exchange, 0) + count
        self._free -= count
        while self._free < 0:
            largest = max((e for e in self._held if e.waits), key=self._held.__getitem__, default=exchange)
            largest.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too much comes and goes at once. Try again soon.")
            self.forget(largest)

    def forget(self, exchange: "_Exchange") -> None:
        self._free += self._held.pop(exchange, 0)


class _Exchange:
    """One request and its answer. What comes too slowly, or is too large, is cut off, and the answer says so.

    Attributes:
        waits: whether it is the client's turn, to send or to read.
    """

    def __init__(self, receive: Receive, send: Send, bodies: _Bodies, limits: Limits) -> None:
        self._receive, self._send, self._bodies, self._limits = receive, send, bodies, limits
        self._since, self._count = _now(), 0
        self._refusal: tuple[HTTPStatus, str] | None = None
        self._turn: asyncio.Timeout | None = None
        self._start: Message | None = None
        self._is_answered = False
        self.waits = True

    async def receive(self) -> Message:
        """The next piece of the body.

        Raises:
            RefusedError: it is refused; `answer_if_refused` says why.
        """
        if not self.waits and not self._refusal:
            return await self._receive()
        message = await self._with_deadline(self._receive)
        count = len(message.get("body", b""))
        self._count += count
        self.waits = bool(message.get("more_body"))
        if self._count > self._limits.max_bytes:
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._limits))
        else:
            self._bodies.add(self, count)
        if self._refusal:
            raise RefusedError
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application answers, piece by piece, but not what it says of a body that was cut off.

        Raises:
            RefusedError: the client does not read it.
        """
        if message["type"] == "http.response.start":
            self._start = _with_headers(message)  # sent when there is room for what follows
        elif not self._refusal:
            await self._send_body(message)

    async def _send_body(self, message: Message) -> None:
        body = message.get("body", b"")
        self.waits, self._since, self._count = True, _now(), 0
        self._bodies.add(self, len(body))
        if self._refusal:
            return
        if self._start:
            self._is_answered = True
            await self._send(self._start)
            self._start = None
        while not self._count or self._count < len(body):
            piece = body[self._count : self._count + _PIECE]
            more = self._count + _PIECE < len(body) or message.get("more_body", False)
            await self._with_deadline(partial(self._send, {**message, "body": piece, "more_body": more}))
            self._count += _PIECE

    async def _with_deadline(self, act: Callable[[], Awaitable[_T]]) -> _T:
        """What the client does in the time that it has, for as much as it has sent or read since."""
        if self._refusal:
            raise RefusedError
        deadline = self._since + self._limits.patience_seconds + self._count / self._limits.bytes_per_second
        try:
            async with asyncio.timeout_at(deadline) as self._turn:
                done = await act()
        except TimeoutError:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, "The body came too slowly.")
            raise RefusedError from None
        finally:
            self._turn = None
        return done

    def refuse(self, status: HTTPStatus, detail: str) -> None:
        """Wait for the client no longer; the first reason counts."""
        self._refusal = self._refusal or (status, detail)
        self.waits = False
        if self._turn:
            self._turn.reschedule(_now())

    async def answer_if_refused(self) -> None:
        """Say why, where nothing has been said yet."""
        if self._refusal and not self._is_answered:
            status, detail = self._refusal
            body = json.dumps({"detail": detail}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            if status == HTTPStatus.UNAUTHORIZED:
                headers.append((b"www-authenticate", b"Bearer"))
            if status == HTTPStatus.SERVICE_UNAVAILABLE:
                headers.append((b"retry-after", b"1"))
            start = {"type": "http.response.start", "status": int(status), "headers": headers}
            await self._send(_with_headers(start))
            await self._send({"type": "http.response.body", "body": body})


def _now() -> float:
    return asyncio.get_running_loop().time()


def _with_headers(start: Message) -> Message:
    """The beginning of an answer with those of `HEADERS` that it lacks."""
    given = {name.lower() for name, _ in start["headers"]}
    missing = [(name, value) for name, value in HEADERS.items() if name not in given]
    return {**start, "headers": [*start["headers"], *missing]}


def _too_large(limits: Limits) -> str:
    return f"A request may have {limits.max_bytes:,} bytes at most. Send a smaller or more compressed image."


def _is_form(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a body is a form in UTF-8: Python knows character sets that take quadratic time, and some that raise."""
    kind, options = parse_options_header(headers.get(b"content-type", b""))
    is_plain = headers.get(b"content-encoding", b"identity").lower() == b"identity"
    charset = options.get(b"charset", b"utf-8").lower()
    return is_plain and kind == b"multipart/form-data" and charset in (b"utf-8", b"utf8")


def _host(header: bytes) -> str:
    """The name or address in a `Host` header, without its port; "" where it is none."""
    found = _HOST.fullmatch(header)
    return _canonical((found[1] or found[2]).decode("ascii")) if found else ""


def _canonical(name: str) -> str:
    """One spelling of a name or an address; an IPv4 address that came in by IPv6 is itself."""
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower().removesuffix(".")
    return str(getattr(address, "ipv4_mapped", None) or address)
