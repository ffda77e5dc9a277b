"""What a command costs: seconds on the clock and of the CPU, and the largest memory of all its processes together."""

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """Of all processes of a command.

    Attributes:
        seconds: from start to end.
        cpu_seconds: of computing; says what `seconds` would be worth on a machine with nothing else to do.
        megabytes: the largest sum of their memory at any time.
        output: what it printed.
    """

    seconds: float
    cpu_seconds: float
    megabytes: float
    output: str


def run(command: Sequence[str]) -> Cost:
    """Run a command and watch the proportional set size of its processes: shared pages count once.

    Raises:
        RuntimeError: it failed.
    """
    start, peak = time.perf_counter(), 0.0
    cpu: dict[int, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _look(watched, cpu))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - start
        output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{errors}")
    return Cost(seconds, sum(cpu.values()), peak, output)


@contextmanager
def peak(pid: int) -> Iterator[list[float]]:
    """Watches a process and all below it; the list's one number is the largest sum of their memory in megabytes."""
    found, done, watched = [0.0], threading.Event(), psutil.Process(pid)

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            found[0] = max(found[0], _look(watched, {}))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _look(root: psutil.Process, cpu: dict[int, float]) -> float:
    """Megabytes of the process and all below it now; their CPU seconds so far are noted by process id."""
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            times = process.cpu_times()
            cpu[process.pid] = times.user + times.system
            total += process.memory_full_info().pss
    except psutil.Error:
        return 0.0  # it ended while it was looked at
    return total / 1e6
