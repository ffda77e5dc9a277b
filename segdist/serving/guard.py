"""What a request must pass before anybody reads it: whom it is meant for, the token, a size; and a pace."""

import asyncio
import hmac
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from python_multipart.multipart import parse_options_header

from segdist.serving.limits import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
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
            await exchange.answer(*refusal)
            return
        try:
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
    """All bodies that are held. Where they become too many bytes, the largest that is still coming makes room.

    So neither many that stop short of their end, nor few that come fast, keep out an image of common size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._held: dict[_Exchange, int] = {}  # in the order in which they began

    def add(self, exchange: "_Exchange", count: int) -> None:
        self._held[exchange] = self._held.get(exchange, 0) + count
        self._free -= count
        while self._free < 0:
            largest = max((e for e in self._held if e.is_coming), key=self._held.__getitem__, default=exchange)
            largest.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many large requests come at once. Try again soon.")
            self.forget(largest)

    def forget(self, exchange: "_Exchange") -> None:
        self._free += self._held.pop(exchange, 0)


class _Exchange:
    """One request and its answer. A body that comes too slowly or is too large is cut off, and the answer says so."""

    def __init__(self, receive: Receive, send: Send, bodies: _Bodies, limits: Limits) -> None:
        self._receive, self._send, self._bodies, self._limits = receive, send, bodies, limits
        self._begun = asyncio.get_running_loop().time()
        self._count = 0
        self._refusal: tuple[HTTPStatus, str] | None = None
        self._wait: asyncio.Timeout | None = None
        self._answered = False
        self.is_coming = True

    async def receive(self) -> Message:
        """The next piece of the body.

        Raises:
            RefusedError: it is refused; `answer_if_refused` says why.
        """
        if self._refusal:
            raise RefusedError
        if not self.is_coming:
            return await self._receive()
        try:
            deadline = self._begun + self._limits.patience_seconds + self._count / self._limits.bytes_per_second
            async with asyncio.timeout_at(deadline) as self._wait:
                message = await self._receive()
        except TimeoutError:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, "The body came too slowly.")
        finally:
            self._wait = None
        if not self._refusal:
            count = len(message.get("body", b""))
            self._count += count
            self.is_coming = bool(message.get("more_body"))
            if self._count > self._limits.max_bytes:
                self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._limits))
            else:
                self._bodies.add(self, count)
        if self._refusal:
            raise RefusedError
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application answers, but not what it says of a body that was cut off."""
        if self._refusal and not self._answered:
            return
        self._answered = True
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}
            missing = [(name, value) for name, value in HEADERS.items() if name not in given]
            message = {**message, "headers": [*message["headers"], *missing]}
        await self._send(message)

    def refuse(self, status: HTTPStatus, detail: str) -> None:
        """Read no further; the first reason counts."""
        self._refusal = self._refusal or (status, detail)
        self.is_coming = False
        if self._wait:
            self._wait.reschedule(asyncio.get_running_loop().time())

    async def answer_if_refused(self) -> None:
        """Say why, where nothing has been said yet."""
        if self._refusal and not self._answered:
            await self.answer(*self._refusal)

    async def answer(self, status: HTTPStatus, detail: str) -> None:
        """Say something short, instead of the application."""
        self._refusal = None
        body = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", b"1"))
        await self.send({"type": "http.response.start", "status": int(status), "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


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
