"""How many holders of some resources fit at once: packed onto nodes and cards one by one, not onto their sum."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from types import ModuleType

import psutil

USABLE = 0.95
"""Share of a node's memory that trials may have: at this, Ray begins to end them."""
BESIDE = 1.5e9
"""Bytes that Ray, the driver and MLflow have beside the trials."""
DRIVER_CPUS = 0.01
"""What Tune reserves for a trial whose workers form a group of their own."""
_SLACK = 1e-6
"""Shares of a card or CPU are decimal numbers: 3 times 1/3 is one."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Node:
    """A machine.

    Attributes:
        name: for people.
        cpus: that trials may reserve.
        gpus: cards.
        memory: bytes; 0 where it is not known, and then nothing is refused for it.
    """

    name: str
    cpus: float
    gpus: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True)
class Need:
    """What a trial asks for.

    Attributes:
        cpus: of each worker.
        gpus: of each worker; a fraction shares one card with others, more than one is whole cards.
        memory: bytes of each worker; 0 where it is not known.
        workers: that work at the same time, on one node or several.
    """

    cpus: float
    gpus: float = 0.0
    memory: float = 0.0
    workers: int = 1


def fitting(nodes: Sequence[Node], need: Need) -> int:
    """How many trials run at once on these nodes; 0 where not even one does."""
    most = sum(_workers_on(node, need) for node in nodes) // need.workers
    if need.workers == 1:
        return most
    while most and not _holds(nodes, need, most):
        most -= 1
    return most


def usable(nodes: Sequence[Node]) -> list[Node]:
    """The nodes with the memory that is left for trials."""
    return [replace(node, memory=max(0.0, USABLE * node.memory - BESIDE)) for node in nodes]


def nodes_of(ray: ModuleType, *, leaving: Collection[str] = (), is_free: bool = False) -> list[Node]:
    """The nodes of the connected cluster that are alive.

    Args:
        ray: the connected `ray` module.
        leaving: ids of nodes that do not count, because nothing is started there any more.
        is_free: with what nobody has reserved, instead of all that they have.
    """
    alive = [node for node in ray.nodes() if node["Alive"] and node.get("NodeID") not in leaving]
    free = _unreserved() if is_free else {}
    found = [(node, free.get(node["NodeID"], {}) if is_free else node["Resources"]) for node in alive]
    return [
        Node(
            name=str(node["NodeManagerAddress"]),
            cpus=float(has.get("CPU", 0)),
            gpus=float(has.get("GPU", 0)),
            memory=float(has.get("memory", 0)) + float(has.get("object_store_memory", 0)),
        )
        for node, has in found
    ]


def _unreserved() -> dict[str, dict[str, float]]:
    """Resources of the connected cluster that nobody has, by the id of their node."""
    from ray._private.state import available_resources_per_node

    return dict(available_resources_per_node())


def this_machine(*, gpus: int) -> Node:
    """The node that Ray would start here.

    Args:
        gpus: the cards of this machine, which only torch can count.
    """
    return Node(name="this machine", cpus=float(os.cpu_count() or 1), gpus=float(gpus), memory=float(memory_here()))


def memory_here() -> int:
    """Bytes of memory that processes of this machine, or of this container, may have together."""
    limits = [psutil.virtual_memory().total]
    for place in map(Path, _CGROUP_LIMITS):
        text = place.read_text().strip() if place.is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def _workers_on(node: Node, need: Need) -> int:
    """Workers that a node holds."""
    fits = [floor(node.cpus / need.cpus + _SLACK)]
    if need.gpus:
        on_a_card = floor(1 / need.gpus + _SLACK)
        fits.append(floor(node.gpus) * on_a_card if on_a_card else floor(node.gpus / need.gpus + _SLACK))
    if need.memory and node.memory:
        fits.append(floor(node.memory / need.memory))
    return min(fits)


def _holds(nodes: Sequence[Node], need: Need, trials: int) -> bool:
    """Whether the nodes hold the workers of so many trials, and beside them what Tune reserves for each trial."""
    held = [_workers_on(node, need) for node in nodes]
    beside = sum(
        floor((node.cpus - count * need.cpus) / DRIVER_CPUS + _SLACK) for node, count in zip(nodes, held, strict=True)
    )
    given_up = max(0, trials - beside) and -(-(trials - beside) * DRIVER_CPUS // need.cpus)
    return sum(held) - given_up >= trials * need.workers
