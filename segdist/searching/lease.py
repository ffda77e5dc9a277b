"""One driver a sweep: two would suggest trials of one number and overwrite each other's ledger."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from segdist.core import storage
from segdist.core.drivers import is_gone, this_driver
from segdist.core.errors import BackendError, StorageError
from segdist.core.terminal import say

BEAT = 20.0
"""Seconds after which a driver says again that it is there."""
EXPIRES = 150.0
"""Seconds without a beat after which a driver of another machine counts as gone."""
WATCH = 2 * BEAT
"""Seconds in which it would show that its clock is another, by a new beat."""


class Lease:
    """What says that this process runs a sweep; see `leased`."""

    def __init__(self, folder: str, name: str) -> None:
        self._uri, self._name = storage.join(folder, "driver.json"), name
        self._mine = this_driver()
        self._ended = threading.Event()
        self.is_lost = False

    def take(self) -> None:
        """Begin.

        Raises:
            BackendError: another driver has it.
        """
        self._refuse_other()
        self._write()
        time.sleep(0.05)  # of two that begin at once, the one whose file stays
        self._refuse_other()
        threading.Thread(target=self._beat, daemon=True, name="segdist-lease").start()

    def give_back(self) -> None:
        """End."""
        self._ended.set()
        if not self.is_lost:
            storage.remove(self._uri)

    def check(self) -> None:
        """Refuse to go on where another driver has taken over, because this one was silent for too long.

        Raises:
            BackendError: it has.
        """
        if self.is_lost:
            raise BackendError(
                f"Another driver runs `{self._name}` now: this one could not reach {self._uri} for {EXPIRES:.0f} s. "
                "What it had recorded is kept; the other one goes on with it."
            )

    def _holder(self) -> dict[str, object]:
        try:
            found = storage.read_json(self._uri) if storage.exists(self._uri) else {}
        except StorageError:  # it was removed in between, or never finished
            return {}
        return found if isinstance(found, dict) else {}

    def _refuse_other(self) -> None:
        holder = self._holder()
        mark, beat = str(holder.get("driver", "")), holder.get("beat")
        if mark in ("", self._mine) or not isinstance(beat, float) or is_gone(mark):
            return
        driver, silent = json.loads(mark), time.time() - beat
        who = f"`{self._name}` is being run by process {driver['pid']} on {driver['host']}"
        if abs(silent) < EXPIRES:
            raise BackendError(
                f"{who}, which was there {max(silent, 0):.0f} s ago. Stop it; if it is gone already, start again in "
                f"{EXPIRES - silent:.0f} s."
            )
        if self._is_alive(holder, driver["host"]):
            raise BackendError(
                f"{who}. Stop it first; and set the clocks of the two machines, which differ by {abs(silent):.0f} s."
            )

    def _is_alive(self, holder: dict[str, object], host: str) -> bool:
        """Whether a driver gives another beat, though its last one is old by the clock of this machine, or to come."""
        say(f"search    a driver on {host} left its mark; looking for {WATCH:.0f} s whether it is still there")
        until = time.monotonic() + WATCH
        while time.monotonic() < until:
            time.sleep(WATCH / 40)
            now = self._holder()
            if now != holder:
                return now.get("driver") == holder["driver"]
        return False

    def _write(self) -> None:
        storage.write_json(self._uri, {"driver": self._mine, "beat": time.time()})

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if self._holder().get("driver", self._mine) != self._mine:
                    self.is_lost = True
                    return
                self._write()
            except StorageError:  # it vanished for a while: trials go on, and what they report says so soon enough
                continue


@contextmanager
def leased(folder: str, name: str) -> Iterator[Lease]:
    """This process alone runs the sweep of a folder.

    Args:
        folder: the sweep's own.
        name: of the sweep, for people.

    Raises:
        BackendError: another driver does.
    """
    lease = Lease(folder, name)
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()
