"""This process's metrics, told through Ray; where Ray is not connected, nobody is told."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from segdist.core import storage
from segdist.pipeline.measures import MEASURES, WAITS, Teller, measure

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

EVERY = 5.0
"""Seconds after which gauges are told again. Ray exports every 10 seconds and forgets what was not told since."""
Labels = Mapping[str, str]


def is_told() -> bool:
    """Whether anybody is told: Ray is connected in this process."""
    ray = sys.modules.get("ray")
    return bool(ray and getattr(ray, "is_initialized", bool)())


def begin(teller: Teller, **labels: str) -> None:
    """Tell 0 of all that this process will count: of a counter nobody saw at 0, the first increase is not seen.

    Args:
        teller: what this process is.
        labels: what is known beforehand; a counter that has further ones, whose values are not known either, waits.
    """
    for one in MEASURES:
        if one.kind == "counter" and teller in one.told_by:
            *known, last = one.labels
            for value in one.of_each or ((labels[last],) if last in labels else ()):
                if labels.keys() >= set(known):
                    count(one.name, 0, **{label: labels[label] for label in known}, **{last: value})


def count(name: str, amount: float = 1.0, **labels: str) -> None:
    """Add to a counter."""
    if is_told():
        _metric(name)._record(float(amount), labels)  # `inc` refuses 0


def observe(name: str, value: float, **labels: str) -> None:
    """Add a value to a histogram."""
    if is_told():
        _metric(name).observe(value, labels)


class Gauges:
    """The gauges of one piece of work: each is told again and again until the work is over, in any thread."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()

    def show(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name, tuple(labels.items())] = float(value)

    def tell(self) -> None:
        """Tell Ray all of them."""
        if is_told():
            with self._lock:
                values = dict(self._values)
            for (name, labels), value in values.items():
                _metric(name).set(value, dict(labels))


@contextmanager
def gauges(sweep: str, look: Callable[[Gauges], object] = lambda _: None) -> Iterator[Gauges]:
    """Gauges that are told until the block ends, and with them what this process read and wrote meanwhile.

    Args:
        sweep: its name.
        look: called each time before they are told, to set them.
    """
    shown, is_over = Gauges(), threading.Event()

    def tell() -> None:
        look(shown)
        shown.tell()
        tell_traffic(sweep)

    def work() -> None:
        while not is_over.wait(EVERY):
            tell()

    thread = threading.Thread(target=work, name="metrics", daemon=True)
    thread.start()
    try:
        yield shown
    finally:
        is_over.set()
        thread.join()
        tell()  # what came since; a reader that is slower than 20 seconds sees the last values


def tell_traffic(sweep: str) -> None:
    """Tell the bytes that this process read and wrote since the last time."""
    for (way, place), size in storage.take_traffic().items():
        count(f"segdist_{way}_bytes", size, sweep=sweep, place=place)


class Laps:
    """Seconds of parts that follow each other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, clock()

    def lap(self) -> float:
        """Seconds since the last time."""
        before, self._since = self._since, self._clock()
        return self._since - before


@cache
def _metric(name: str) -> "Counter | Gauge | Histogram":
    """Ray's metric, registered when it is first needed."""
    from ray.util import metrics

    one = measure(name)
    if one.kind == "histogram":
        return metrics.Histogram(one.name, one.says, list(WAITS), one.labels)
    return {"counter": metrics.Counter, "gauge": metrics.Gauge}[one.kind](one.name, one.says, one.labels)
