"""What of a sweep's budget is spent, over all its starts: wall time, GPU-hours, money.

Wall time is kept in the sweep's folder, one small file a start, and told again every few seconds: a start that was
killed loses no more than those. GPU-hours are what the ledger says that trials held. Money is the price of a node's
hour, for as long as a start went on and for every node that was there.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from segdist.core import storage
from segdist.core.errors import SpecError, StorageError
from segdist.core.spec import BudgetSpec, SweepSpec

BEAT = 10.0
"""Seconds after which a start says again how long it has gone on."""
OVER = "budget"
"""Why a trial was stopped."""


class Timed(Protocol):
    """How long a sweep has gone on."""

    nodes: int

    @property
    def seconds(self) -> float:
        """Of the wall clock, over all starts."""

    @property
    def node_seconds(self) -> float:
        """The same, times the nodes that were there."""


@dataclass
class Still:
    """A sweep that is played: its time passes when it is told to."""

    nodes: int = 1
    seconds: float = 0.0
    node_seconds: float = 0.0

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds
        self.node_seconds += seconds * self.nodes


class Meter:
    """Time, of this start and of those before.

    Args:
        folder: the sweep's own.
        clock: seconds, from any moment on.

    Attributes:
        starts: this one and those before.
        started_at: when this one did, in seconds since 1970.
    """

    def __init__(self, folder: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._starts, self._clock = storage.join(folder, "starts"), clock
        before = [storage.read_json(entry.uri) for entry in storage.find(self._starts, suffix=".json")]
        self._seconds = sum(float(start["seconds"]) for start in before)
        self._node_seconds = sum(float(start["node_seconds"]) for start in before)
        self.starts = len(before) + 1
        self.started_at = time.time()
        self._mine = storage.join(self._starts, f"{time.time():.0f}-{uuid.uuid4().hex[:8]}.json")
        self._since, self._told = clock(), clock()
        self._held = 0.0
        self._nodes = 1

    @property
    def nodes(self) -> int:
        """Machines that are there now."""
        return self._nodes

    @nodes.setter
    def nodes(self, count: int) -> None:
        self._count()
        self._nodes = count

    @property
    def seconds(self) -> float:
        """Of the wall clock, over all starts."""
        return self._seconds + self._clock() - self._since

    @property
    def node_seconds(self) -> float:
        """The same, times the nodes that were there."""
        self._count()
        return self._node_seconds + self._held

    def write(self) -> None:
        """Keep what this start has taken so far.

        Raises:
            StorageError: it cannot be written.
        """
        self._count()
        mine = {"seconds": self._clock() - self._since, "node_seconds": self._held}
        storage.write_json(self._mine, mine)

    def _count(self) -> None:
        now = self._clock()
        self._held += self._nodes * (now - self._told)
        self._told = now


@contextmanager
def metered(folder: str) -> Iterator[Meter]:
    """Count the time of a start."""
    meter, ended = Meter(folder), threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(StorageError):  # it vanished for a while: the next beat tells as much
                meter.write()

    meter.write()
    thread = threading.Thread(target=beat, daemon=True, name="segdist-meter")
    thread.start()
    try:
        yield meter
    finally:
        ended.set()
        thread.join()
        with suppress(StorageError):  # whatever ended the start is what is to be said
            meter.write()


class Budget:
    """What a sweep may take, and what of it is left.

    Args:
        spec: the sweep.
        meter: its time.
    """

    def __init__(self, spec: SweepSpec, meter: Timed) -> None:
        asked, self._meter = spec.search.budget or BudgetSpec.model_construct(), meter
        self._asked = asked
        self._price = spec.resources.price_per_hour or 0.0
        self._gpus = spec.resources.workers * spec.resources.gpus
        names = {"hours": "h", "gpu_hours": "GPU-hours", "money": "in money"}
        self._most = {said: most for key, said in names.items() if (most := getattr(asked, key)) is not None}
        self._of = {"h": self._hours, "GPU-hours": self._gpu_hours, "in money": self._money}

    def spent(self, gpu_seconds: float) -> dict[str, tuple[float, float]]:
        """What is spent and what may be, of each kind that is bounded.

        Args:
            gpu_seconds: that all trials have held.
        """
        return {kind: (self._of[kind](gpu_seconds), most) for kind, most in self._most.items()}

    def is_spent(self, gpu_seconds: float) -> bool:
        """Whether nothing is left of some kind."""
        return any(spent >= most for spent, most in self.spent(gpu_seconds).values())

    def holds(self, seconds: float, *, gpu_seconds: float, beside: float) -> bool:
        """Whether a further trial ends before the budget does.

        Args:
            seconds: that it is expected to take.
            gpu_seconds: that all trials have held.
            beside: seconds that the trials which run now are expected to take yet, together.
        """
        further = {
            "h": seconds / 3600,
            "GPU-hours": (seconds + beside) * self._gpus / 3600,
            "in money": seconds / 3600 * self._meter.nodes * self._price,
        }
        return all(spent + further[kind] <= most for kind, (spent, most) in self.spent(gpu_seconds).items())

    def check(self, seconds: float) -> None:
        """Refuse a budget that holds no trial.

        Args:
            seconds: that a whole one is predicted to take.

        Raises:
            SpecError: it does not, with what would.
        """
        hours = seconds / 3600
        needed = {
            "hours": hours,
            "gpu_hours": hours * self._gpus,
            "money": hours * self._meter.nodes * self._price,
        }
        for key, least in needed.items():
            most = getattr(self._asked, key)
            if most is not None and most < least:
                raise SpecError(
                    f"A budget must hold one trial, which takes {hours:.2g} hours, but `search.budget.{key}` is "
                    f"{most:g}: raise it to at least {_up(least)}, or lower `train.epochs`."
                )

    def said(self, gpu_seconds: float) -> str:
        """What is spent, for people; "" where nothing is bounded."""
        return ", ".join(f"{a:.3g} of {b:g} {kind}" for kind, (a, b) in self.spent(gpu_seconds).items())

    def _hours(self, gpu_seconds: float) -> float:  # noqa: ARG002 - one signature for all kinds
        return self._meter.seconds / 3600

    def _gpu_hours(self, gpu_seconds: float) -> float:
        return gpu_seconds / 3600

    def _money(self, gpu_seconds: float) -> float:  # noqa: ARG002 - the same
        return self._meter.node_seconds / 3600 * self._price


def _up(amount: float) -> str:
    """Two digits, rounded up."""
    step = 10 ** (len(str(int(amount))) - 2) if amount >= 10 else 0.01
    return f"{ceil(amount / step) * step:g}"
