"""Nodes that are about to leave the cluster: spot machines that were warned, and what an operator drains.

Whoever warns tells Ray (`ray drain-node`, KubeRay, the autoscaler); it starts nothing on such a node any more, and lets
what runs there come to its end, until the deadline. A trial that is asked saves after the step that it is in.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from segdist.core.errors import PreemptedError
from segdist.core.text import counted
from segdist.pipeline.own_cluster import SESSION

if TYPE_CHECKING:
    from ray.actor import ActorHandle

EVERY = float(os.environ.get("SEGDIST_DRAIN_LOOK_SECONDS", "3"))
"""Seconds between two looks; the shortest warning of a cloud is 30. Tests look more often."""


def draining() -> dict[str, float]:
    """Ids of the nodes that are about to leave the connected cluster: when, in seconds since 1970; 0 if nobody says."""
    from ray._private.state import state

    return {node: deadline / 1000 for node, deadline in state.get_draining_nodes().items()}


def node_here() -> str:
    """The id of the node on which this process runs."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def is_to_leave(actor: "ActorHandle") -> bool:
    """Whether an actor runs on a node that is about to leave the connected cluster."""
    leaving = draining()
    if not leaving:
        return False
    from ray._private.state import state

    return state.actor_table(actor._actor_id.hex())["Address"]["NodeID"] in leaving


@contextmanager
def left_early(*nodes: str) -> Iterator[Callable[[], bool]]:
    """What says whether a trial has to leave, because one of its nodes does.

    Args:
        nodes: their ids.

    Raises:
        PreemptedError: it has left, and why.
    """
    with watched_for_draining(*nodes) as is_asked_to_leave:
        try:
            yield is_asked_to_leave
        except PreemptedError as error:
            raise PreemptedError(f"{_said(nodes)}: {error}") from error


@contextmanager
def watched_for_draining(*nodes: str) -> Iterator[Callable[[], bool]]:
    """What says whether one of these nodes is about to leave; asking costs nothing.

    Args:
        nodes: their ids. Of a cluster of our own, which is this machine, none leaves.
    """
    if SESSION in os.environ or not nodes:
        yield lambda: False
        return
    leaves, is_over = threading.Event(), threading.Event()

    def look() -> None:
        while not is_over.is_set() and not leaves.is_set():
            if not draining().keys().isdisjoint(nodes):
                leaves.set()
            is_over.wait(EVERY)

    watcher = threading.Thread(target=look, name="draining", daemon=True)
    watcher.start()
    try:
        yield leaves.is_set
    finally:
        is_over.set()


def _said(nodes: tuple[str, ...]) -> str:
    """Why a trial leaves one of these nodes, for people."""
    deadlines = [deadline for node, deadline in draining().items() if node in nodes and deadline]
    left = f" in {counted(max(round(min(deadlines) - time.time()), 0), 'second')}" if deadlines else ""
    return f"its node leaves the cluster{left}"
