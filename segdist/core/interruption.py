"""Being stopped from outside: Ctrl-C, SIGTERM (`kill`, `ray job stop`, a batch system), a terminal that is closed."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_SECONDS = 1.0
"""Who stops a process and its group sends a signal twice; one that comes later is meant: it ends the clean-up too."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. No `Exception`, as Ctrl-C is none, so that nothing takes it for an error.

    Its notes say what was done until then.

    Attributes:
        signal: that asked.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {'Ctrl-C' if self.signal is signal.SIGINT else self.signal.name}")

    @property
    def exit_code(self) -> int:
        """What shells expect of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal


class Stops:
    """The signals that came. A library may lose the error of one, so who goes on to something further asks `check`.

    Attributes:
        first: the signal that came first; 0 for none.
    """

    def __init__(self) -> None:
        self.first: int = 0
        self._at = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as `signal` calls it
        """A signal came.

        Raises:
            Interrupted: always, but for the second half of a pair.
        """
        if self.first and time.monotonic() - self._at < _SAME_SECONDS:
            return
        self.first, self._at = self.first or number, time.monotonic()
        raise Interrupted(number)

    def check(self) -> None:
        """Go on only where nobody asked to stop.

        Raises:
            Interrupted: somebody did.
        """
        if self.first:
            raise Interrupted(self.first)


@contextmanager
def interruptible(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals that ask to stop go to `handler`, such as a `Stops`; those that are ignored, as under `nohup`, stay so.

    Only the main thread can catch signals; in another they stay what they were.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    stack.callback(signal.signal, number, signal.signal(number, handler))
        yield


@contextmanager
def signals_kept() -> Iterator[None]:
    """A library that takes signals for itself when it starts must leave them to whoever had them before."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):  # where nobody had it, it is the library's
                signal.signal(number, handler)
