"""Trials are packed onto nodes and cards one by one."""

from typing import Any, cast

import pytest

from segdist.core.errors import BackendError
from segdist.pipeline.cluster import slots
from segdist.pipeline.packing import Need, Node, fitting, memory_here, nodes_of, this_machine
from segdist.pipeline.sweep import _concurrency
from tests.searching.sweeps import sweep

GB = 1e9


@pytest.mark.parametrize(
    ("nodes", "need", "trials"),
    [
        ([Node("a", 8, 2)], Need(1, 0.6), 2),  # the sum of both cards would hold three
        ([Node("a", 8, 2)], Need(1, 0.5), 4),
        ([Node("a", 8, 1)], Need(1, 1 / 3), 3),
        ([Node("a", 8, 3)], Need(1, 2), 1),
        ([Node("a", 2, 2)], Need(1, 0.25), 2),  # the CPUs decide
        ([Node("a", 3), Node("b", 3)], Need(2), 2),  # the sum would hold three
        ([Node("a", 1), Node("b", 1)], Need(2), 0),
        ([Node("a", 0.3)], Need(0.1), 3),
        ([Node("a", 8, 0, 10 * GB), Node("b", 8, 0, 3 * GB)], Need(1, 0, 4 * GB), 2),
        ([Node("a", 8)], Need(1, 0, 4 * GB), 8),  # a node whose memory is not known refuses nothing
        ([Node("a", 4), Node("b", 4)], Need(1, workers=3), 2),
        ([Node("a", 2)], Need(1, workers=2), 0),  # two workers, and Tune's hundredth of a CPU
        ([Node("a", 2)], Need(0.9, workers=2), 1),
        ([Node("a", 4)], Need(1, workers=2), 1),
        ([Node("a", 4.02)], Need(1, workers=2), 2),
        ([], Need(1), 0),
    ],
)
def test_what_fits_is_counted_node_by_node_and_card_by_card(nodes: list[Node], need: Need, trials: int) -> None:
    assert fitting(nodes, need) == trials


class Cluster:
    """Ray, of which only the nodes are asked for."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[dict[str, Any]]:
        alive = [
            {"Alive": True, "NodeID": f"{k}", "NodeManagerAddress": f"10.0.0.{k}", "Resources": r}
            for k, r in enumerate(self._nodes)
        ]
        return [*alive, {"Alive": False, "NodeManagerAddress": "10.0.0.9", "Resources": {"CPU": 64.0}}]


def test_the_concurrency_of_a_search_is_what_the_living_nodes_hold() -> None:
    ray = cast("Any", Cluster({"CPU": 3.0, "GPU": 1.0}, {"CPU": 3.0, "GPU": 1.0}))
    assert slots(ray, cpus=2, gpus=0) == 2
    assert slots(ray, cpus=1, gpus=0.6) == 2


def test_a_node_that_is_about_to_leave_holds_nothing() -> None:
    ray = cast("Any", Cluster({"CPU": 3.0}, {"CPU": 5.0}))
    assert fitting(nodes_of(ray, leaving={"1": 0.0}), Need(1)) == 3


def test_what_is_free_is_asked_of_the_same_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"0": {"CPU": 1.0}, "2": {"CPU": 4.0, "GPU": 0.5, "memory": 1e9}}
    monkeypatch.setattr("ray._private.state.available_resources_per_node", lambda: free)
    ray = cast("Any", Cluster({"CPU": 3.0}, {"CPU": 5.0}, {"CPU": 5.0, "GPU": 1.0, "memory": 2e9}))
    found = [(node.cpus, node.gpus, node.memory) for node in nodes_of(ray, is_free=True)]
    assert found == [(1, 0, 0), (0, 0, 0), (4, 0.5, 1e9)], "of one that has nothing left, nothing is told"
    assert len(nodes_of(ray, leaving={"0"}, is_free=True)) == 2


def test_a_plan_s_memory_bounds_the_automatic_concurrency_and_never_to_nothing() -> None:
    nodes = nodes_of(cast("Any", Cluster({"CPU": 8.0, "memory": 8e9, "object_store_memory": 2e9})))
    assert _concurrency(sweep(), nodes, 0) == 8
    assert _concurrency(sweep(), nodes, 4_000_000_000) == 2, "of ten, 0.95 less what Ray has"
    assert _concurrency(sweep(), nodes, 40_000_000_000) == 1
    assert _concurrency(sweep(concurrency=5), nodes, 4_000_000_000) == 5


def test_what_fits_nowhere_is_refused_with_what_each_node_has() -> None:
    ray = cast("Any", Cluster({"CPU": 2.0}, {"CPU": 3.0}))
    with pytest.raises(BackendError, match=r"asks for 4 CPUs, but the nodes have: 2 CPUs.*; 3 CPUs.*Lower"):
        slots(ray, cpus=4, gpus=0)
    with pytest.raises(BackendError, match=r"2 workers of 3 CPUs each, and 0\.01 CPU for itself"):
        slots(ray, cpus=3, gpus=0, workers=2)


def test_this_machine_has_cpus_and_memory() -> None:
    node = this_machine(gpus=1)
    assert node.cpus >= 1
    assert node.gpus == 1
    assert 1e8 < node.memory == memory_here()
