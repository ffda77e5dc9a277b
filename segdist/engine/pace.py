"""Where the time of training goes: steps, images, and the seconds of each part of a step, told once a second.

Who listens is no business of the engine: it gets a function. On a card the parts are what its stream did, measured by
events: the host is far ahead of it. What is waited for, such as data and reports, is measured by the clock.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

Part = Literal["data", "forward", "backward", "update", "score", "report"]
"""data: the next batch is awaited. forward: the batch to the device, the network, its loss. update: clipping and the
optimiser. score: an epoch is scored. report: its checkpoint is saved and told."""
ON_DEVICE: frozenset[Part] = frozenset(("forward", "backward", "update"))
EVERY = 1.0
"""Seconds, at the least, between two times that work is told."""


@dataclass(frozen=True)
class Work:
    """What was done since it was told last.

    Attributes:
        steps: of the optimiser.
        images: that were learned from, by this worker.
        seconds: of each part; together, nearly all of the time.
    """

    steps: int = 0
    images: int = 0
    seconds: dict[Part, float] = field(default_factory=dict)


class Pace:
    """Adds up what training takes.

    Args:
        listener: is told of the work; None for nobody, and then nothing is measured.
        device: where the network computes.
        clock: seconds, from any moment on.
    """

    def __init__(
        self,
        listener: Callable[[Work], object] | None = None,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._listener, self._clock = listener, clock
        self._has_stream = device is not None and device.type == "cuda"
        self._steps = self._images = 0
        self._seconds = defaultdict[Part, float](float)
        self._awaited: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []
        self._told = clock()

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """What happens in the block is this part of the work."""
        if self._listener is None:
            yield
        elif self._has_stream and name in ON_DEVICE:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._awaited.append((name, start, end))
        else:
            start_at = self._clock()
            yield
            self._seconds[name] += self._clock() - start_at

    def stepped(self, images: int) -> None:
        """A step of the optimiser is done; now and then the work is told."""
        self._steps += 1
        self._images += images
        if self._listener and self._clock() - self._told > EVERY:
            self.tell()

    def tell(self) -> None:
        """Tell what was not told yet."""
        if self._listener is None:
            return
        self._take_events()
        self._listener(Work(self._steps, self._images, dict(self._seconds)))
        self._steps = self._images = 0
        self._seconds.clear()
        self._told = self._clock()

    def _take_events(self) -> None:
        """What the stream has come to; the rest is told next time."""
        while self._awaited and self._awaited[0][2].query():  # type: ignore[no-untyped-call]
            name, start, end = self._awaited.pop(0)
            self._seconds[name] += start.elapsed_time(end) / 1000
