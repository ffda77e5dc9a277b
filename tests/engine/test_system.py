"""What a node does while a trial runs, by the names that MLflow's page shows, and no thread of it left behind."""

import threading
from typing import Any

import psutil
import pytest
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from segdist.engine import system
from segdist.engine.system import named, watching


def test_a_watch_has_the_names_and_the_numbers_of_mlflow_s_own_monitors() -> None:
    monitors: list[Any] = [one() for one in (CPUMonitor, DiskMonitor, NetworkMonitor)]
    expected: dict[str, float] = {}
    with watching() as watch:
        for monitor in monitors:
            monitor.collect_metrics()
            expected |= monitor.aggregate_metrics()
        found = watch.taken()
    assert found.keys() == expected.keys()
    for name in ("system_memory_usage_percentage", "disk_usage_percentage"):
        assert found[name] == pytest.approx(expected[name], abs=2)


def test_the_thread_of_a_watch_ends_with_it_also_after_an_error() -> None:
    for _ in range(3):
        with pytest.raises(ValueError, match="trained"), watching(every=0.01):
            raise ValueError("trained badly")
    assert not [thread for thread in threading.enumerate() if thread.name == "system metrics"]


def test_memory_is_the_mean_of_the_looks_and_the_processor_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    busy_and_all = iter([(10.0, 100.0), (40.0, 150.0), (40.0, 250.0)])
    monkeypatch.setattr(system, "_processor", lambda: next(busy_and_all))
    seen = iter([1.0, 2.0, 6.0, 5.0])
    watch = system.Watch(lambda: {"gpu_3_utilization_percentage": next(seen)})
    watch.look()
    watch.look()
    first = watch.taken()
    assert first["gpu_3_utilization_percentage"] == 3.0
    assert first["cpu_utilization_percentage"] == 60.0
    second = watch.taken()
    assert second["gpu_3_utilization_percentage"] == 5.0, "each epoch is its own"
    assert second["cpu_utilization_percentage"] == 0.0


def test_cards_of_one_node_stand_side_by_side_and_nodes_are_told_apart() -> None:
    of_first, of_second = {"cpu": 1.0, "gpu_0": 2.0}, {"cpu": 9.0, "gpu_1": 3.0}
    assert named([("a", of_first), ("a", of_second)]) == {"system/cpu": 1.0, "system/gpu_0": 2.0, "system/gpu_1": 3.0}
    assert named([("a", of_first), ("b", of_second)]) == {
        "system/node_0/cpu": 1.0,
        "system/node_0/gpu_0": 2.0,
        "system/node_1/cpu": 9.0,
        "system/node_1/gpu_1": 3.0,
    }


def test_without_a_network_or_a_card_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    with watching() as watch:
        assert watch.taken()["network_receive_megabytes"] == 0.0
