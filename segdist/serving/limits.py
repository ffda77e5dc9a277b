"""What requests may cost, one by one and all at once, and how those that do not fit wait."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

MAX_SIDE = 65_535
"""Of an image, in pixels, as JPEG has it: a thin one of as many pixels costs many more tiles than a square one."""
OBJECTS_AT_FULL_SIZE = 64
"""Prompted objects of an image of the most pixels; of smaller ones more: each costs a mask of the image's size."""


class BusyError(Exception):
    """More requests wait than can be answered soon."""


@dataclass(frozen=True)
class Limits:
    """What a request may cost, and all of them together.

    Attributes:
        max_bytes: of the whole request.
        max_pixels: of an image, looked up in its header before it is decoded.
        max_pixels_at_once: of all images that are decoded or looked at; at least `max_pixels` are.
        max_bytes_at_once: of the bodies of all requests; at least `max_bytes` are.
        max_waiting: requests that wait for pixels; more are told to come again.
        max_connections: open at once; then the one that has dawdled longest is cut off.
        patience_seconds: for headers, and for a body before its rate counts.
        bytes_per_second: at which a body must come, and an answer be read.
        wait_seconds: for pixels.
        request_seconds: for an answer, once the request is there.
        drain_seconds: for requests under way when the server is stopped.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_pixels_at_once: int = 50_000_000
    max_bytes_at_once: int = 256_000_000
    max_waiting: int = 256
    max_connections: int = 1_000
    patience_seconds: float = 20
    bytes_per_second: int = 50_000
    wait_seconds: float = 60
    request_seconds: float = 300
    drain_seconds: int = 30


class Budget:
    """So much of something for all together; whoever does not fit waits in line.

    Args:
        total: of whatever is counted.
        most_waiting: in line.
        seconds: that anybody waits.
    """

    def __init__(self, total: int, *, most_waiting: int, seconds: float) -> None:
        self._free, self._most_waiting, self._seconds = total, most_waiting, seconds
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Keep so much of it to oneself.

        Raises:
            BusyError: too many wait already, or it took too long.
        """
        await self._take(amount)
        try:
            yield
        finally:
            self._free += amount
            self._admit()

    async def _take(self, amount: int) -> None:
        if len(self._line) >= self._most_waiting:
            raise BusyError
        place = amount, asyncio.get_running_loop().create_future()
        self._line.append(place)
        self._admit()
        try:
            async with asyncio.timeout(self._seconds):
                await place[1]
        except (TimeoutError, asyncio.CancelledError) as error:
            if place in self._line:
                self._line.remove(place)
            else:  # let in at the moment of giving up
                self._free += amount
            self._admit()
            if isinstance(error, TimeoutError):
                raise BusyError from None
            raise

    def _admit(self) -> None:
        while self._line and self._line[0][0] <= self._free:
            amount, turn = self._line.popleft()
            self._free -= amount
            if not turn.done():
                turn.set_result(None)
