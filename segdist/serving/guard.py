"""What a request must pass before anybody reads it: the token, and a size."""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/health", "/docs", "/openapi.json"})
"""Paths that need no token: they show neither pictures nor what the model finds."""


class _TooLargeError(Exception):
    """More came than was allowed."""


class Guard:
    """An ASGI layer in front of an application.

    Args:
        app: what it guards.
        token: that `Authorization: Bearer ...` must hold.
        max_bytes: of a request's body.
    """

    def __init__(self, app: App, *, token: str, max_bytes: int) -> None:
        self._app, self._token, self._max_bytes = app, token.encode(), max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 401 or 413, or pass the request on, counting what comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if scope["path"] not in OPEN and not self._is_allowed(headers.get(b"authorization", b"")):
            await _refuse(send, 401, "Send the server's token: `Authorization: Bearer TOKEN`.")
            return
        stated = headers.get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self._max_bytes:
            await _refuse(send, 413, self._too_large)
            return
        await self._counted(scope, receive, send)

    @property
    def _too_large(self) -> str:
        return f"A request may have {self._max_bytes:,} bytes at most. Send a smaller or more compressed image."

    def _is_allowed(self, header: bytes) -> bool:
        kind, _, token = header.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A body without a stated length is cut off where it becomes too large; its answer is 413 then."""
        left, begun, refused = self._max_bytes, False, False

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _TooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal begun, refused
            if left < 0 and not begun:  # the application saw a broken body, and says so in words of its own
                if not refused:
                    refused = True
                    await _refuse(send, 413, self._too_large)
                return
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLargeError:
            if not begun and not refused:
                await _refuse(send, 413, self._too_large)


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
