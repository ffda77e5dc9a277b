"""What the node and the cards of a trial do while it runs, under the names that MLflow's page of system metrics knows.

What the processor and the network did is exact over an epoch; memory and cards are looked at every few seconds.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import torch

from segdist.core.cards import has_card

if TYPE_CHECKING:
    from segdist.engine.workers import Workers

PREFIX = "system/"
EVERY = 5.0
"""Seconds between two looks."""
Values = dict[str, float]
Look = Callable[[], Values]


class Watch:
    """What happens on this node from one `taken` to the next.

    Args:
        card: says what this process's card does; nothing where it has none.
    """

    def __init__(self, card: Look) -> None:
        self._card = card
        self._looks: list[Values] = []
        self._lock = threading.Lock()
        self._busy, self._bytes = _processor(), _network()

    def look(self) -> None:
        """See how memory and card are used now."""
        memory = psutil.virtual_memory()
        seen = {
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            **self._card(),
        }
        with self._lock:
            self._looks.append(seen)

    def taken(self) -> Values:
        """Means since the last time this was asked; the network's megabytes are since the watch began."""
        self.look()
        with self._lock:
            looks, self._looks = self._looks, []
        busy, (received, sent), disk = _processor(), _network(), psutil.disk_usage(os.sep)
        total = busy[1] - self._busy[1]
        percent = 100 * (busy[0] - self._busy[0]) / total if total else 0.0
        self._busy = busy
        found = {
            "cpu_utilization_percentage": min(max(percent, 0.0), 100.0),
            **{name: sum(one.get(name, 0.0) for one in looks) / len(looks) for name in looks[-1]},
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (received - self._bytes[0]) / 1e6,
            "network_transmit_megabytes": (sent - self._bytes[1]) / 1e6,
        }
        return {name: round(value, 1) for name, value in found.items()}


@contextmanager
def watching(*, every: float = EVERY) -> Iterator[Watch]:
    """A watch of this node and of this process's card; its thread ends with the block.

    Args:
        every: seconds between two looks.
    """
    watch, is_over = Watch(_card()), threading.Event()

    def work() -> None:
        while not is_over.wait(every):
            watch.look()

    thread = threading.Thread(target=work, name="system metrics", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        is_over.set()
        thread.join()


def of_all(workers: "Workers", taken: Values) -> Values:
    """The metrics of all nodes and cards of a group of workers; each of its workers calls this, and gets the same.

    As MLflow has it, those of several nodes are told apart by `node_0/`, `node_1/`, ...

    Args:
        workers: the group.
        taken: what this worker's watch has seen.
    """
    return named(workers.gather([(socket.gethostname(), taken)]))


def named(taken: Sequence[tuple[str, Mapping[str, float]]]) -> Values:
    """What workers have seen, by MLflow's names.

    Args:
        taken: the name of its node and what it saw, of each worker.
    """
    nodes: dict[str, Values] = {}
    for node, values in taken:
        nodes[node] = {**values, **nodes.get(node, {})}
    if len(nodes) == 1:
        return {PREFIX + name: value for values in nodes.values() for name, value in values.items()}
    return {
        f"{PREFIX}node_{number}/{name}": value
        for number, values in enumerate(nodes.values())
        for name, value in values.items()
    }


def _processor() -> tuple[float, float]:
    """Seconds in which processors were busy, and all seconds of theirs."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0) - idle, sum(times)


def _network() -> tuple[int, int]:
    counters = psutil.net_io_counters()
    return (counters.bytes_recv, counters.bytes_sent) if counters else (0, 0)


def _card() -> Look:
    """What says how the card that this process computes on is used; nothing where there is none, or none that tells."""
    if not has_card():
        return dict
    import pynvml

    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        name = f"gpu_{pynvml.nvmlDeviceGetIndex(handle)}"
    except pynvml.NVMLError:
        return dict

    def look() -> Values:
        found: Values = {}
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found[f"{name}_memory_usage_megabytes"] = memory.used / 1e6
            found[f"{name}_memory_usage_percentage"] = 100 * memory.used / memory.total
            found[f"{name}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            found[f"{name}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        except pynvml.NVMLError:  # a card need not tell all of it
            pass
        return found

    return look
