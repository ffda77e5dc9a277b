"""What one more node costs, and thousands of trials over hundreds of nodes, on this machine.

The nodes are Ray's raylets, each with a CPU that is not there, its object store and its place in the control store. Of
a node's two agents, Python processes that make environments and export figures, the first is shared and the second
left out, for memory's sake: so this measures what nodes cost the control store and a driver; what a whole node needs
for itself is that of the head. Trials do nothing but report.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import psutil

from benchmarks._raylets import add_node, head
from benchmarks.sweeps import Course, alone, report_once

NODES = (16, 64, 128, 256)
TRIALS = {16: 500, 256: 2000}
"""Searched with so many nodes."""
AT_ONCE = 16
"""Trials; each has a process of Ray's, which is what memory bounds."""
WATCHED = 15.0
"""Seconds in which the idle nodes' CPU time is taken."""
LEAST_FREE = 8e9
"""Bytes of memory that must be left for another node."""
LOOKS = 200


def main() -> None:
    """Print what nodes cost as they become more, and searches over the first few and all of them."""
    with head() as cluster:
        control = _named(cluster.head_node, "gcs_server")
        raylet = psutil.Process(cluster.head_node.all_processes["raylet"][0].process.pid)
        agents = [one for one in raylet.children() if "agent" in one.name().lower()]
        print(f"a whole node, idle: raylet {_pss([raylet]):.0f} MB, its agents {_pss(agents):.0f} MB")
        print(
            f"{'nodes':>5}{'s to join':>11}{'MB each':>9}{'CPU-ms/s each':>15}{'control store MB':>18}"
            f"{'its CPU-ms/s':>14}{'ms to look: for room':>22}{'for who leaves':>16}{'its CPU-ms a look':>19}"
        )
        raylets: list[psutil.Process] = []
        for count in NODES:
            began, before = time.perf_counter(), len(raylets)
            while len(raylets) < count and psutil.virtual_memory().available > LEAST_FREE:
                raylets.append(psutil.Process(add_node(cluster).pid))
            seconds = (time.perf_counter() - began) / max(1, len(raylets) - before)
            idle, busy = _cpu_a_second(raylets), _cpu_a_second([control])
            room, leaving, answered = _looks(control)
            print(
                f"{len(raylets):5}{seconds:11.2f}{_pss(raylets) / len(raylets):9.1f}{1000 * idle / len(raylets):15.2f}"
                f"{_pss([control]):18.0f}{1000 * busy:14.1f}{room:22.1f}{leaving:16.1f}{answered:19.2f}",
                flush=True,
            )
            if len(raylets) < count:
                print(f"no more: {psutil.virtual_memory().available / 1e9:.0f} GB of memory are left")
                break
            if trials := TRIALS.get(count):
                _print_search(trials, control, raylets)


def _print_search(trials: int, control: psutil.Process, raylets: list[psutil.Process]) -> None:
    megabytes, seconds = _pss([control]), _cpu([control])
    with _Workers(raylets) as workers:
        found: Course = alone(
            report_once, sampler="random", trials=trials, epochs=1, is_told=False, concurrency=AT_ONCE
        )
    early, late = found.megabytes[min(100, trials - 1)], found.megabytes[-1]
    print(
        f"  {trials} trials, {AT_ONCE} at once: {found.each:.3f} s each, the first after "
        f"{found.ended[0] - found.began:.0f} s; driver {found.driver_cpu / trials:.3f} CPU-s each, "
        f"{late:.0f} MB, {1000 * (late - early) / max(1, trials - 100):.1f} KB a trial; control store "
        f"{(_cpu([control]) - seconds) / trials:.4f} CPU-s and {1000 * (_pss([control]) - megabytes) / trials:.1f} KB "
        f"a trial; a trial's process {workers.megabytes:.0f} MB",
        flush=True,
    )


class _Workers:
    """Looks now and then, while a search runs, at what processes of trials hold; the largest mean in megabytes."""

    def __init__(self, raylets: list[psutil.Process]) -> None:
        self._raylets, self._is_over, self.megabytes = raylets, threading.Event(), 0.0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "_Workers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(15):
            with suppress(psutil.Error):  # one ended while it was looked at
                found = [child for one in self._raylets for child in one.children() if child.name().startswith("ray::")]
                self.megabytes = max(self.megabytes, _pss(found) / max(1, len(found)))


def _looks(control: psutil.Process) -> tuple[float, float, float]:
    """Milliseconds to see which nodes have room, as a driver does, and which are about to leave, as each trial does.

    With the control store's CPU-milliseconds for the latter.
    """
    import ray

    from segdist.pipeline.draining import draining
    from segdist.pipeline.packing import nodes_of

    ray.init(log_to_driver=False, logging_level="ERROR")
    try:
        room, before = _milliseconds(lambda: nodes_of(ray)), _cpu([control])
        leaving = _milliseconds(draining)
        return room, leaving, 1000 * (_cpu([control]) - before) / LOOKS
    finally:
        ray.shutdown()


def _milliseconds(look: Callable[[], Any]) -> float:
    times = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        look()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _named(node: Any, kind: str) -> psutil.Process:
    return psutil.Process(node.all_processes[kind][0].process.pid)


def _pss(processes: Iterable[psutil.Process]) -> float:
    """Megabytes of processes, those shared divided among who shares them."""
    return sum(one.memory_full_info().pss for one in processes) / 1e6


def _cpu(processes: Iterable[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def _cpu_a_second(processes: list[psutil.Process]) -> float:
    before = _cpu(processes)
    time.sleep(WATCHED)
    return (_cpu(processes) - before) / WATCHED
