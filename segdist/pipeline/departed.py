"""Whether a process died because its node did: Ray hears of the process at once, and of the node much later."""

import os
import re
import time
from collections.abc import Mapping

from segdist.pipeline.cluster import listens
from segdist.pipeline.own_cluster import SESSION

PATIENCE = 2.0
"""Seconds after which a node that still answers is taken to stay; of a machine that is shut down, processes end one by
one."""
_ACTOR = re.compile(r"\bactor(?:_id[:=])? ?([0-9a-f]{32})\b")
"""In what Ray says of an actor that died."""


def node_is_gone(text: str) -> bool:
    """Whether a node is no longer there that held an actor which an error names; waits `PATIENCE` to be sure.

    Args:
        text: of the error that ended a trial. Of a cluster of our own, which is this machine, no node goes.
    """
    actors = set(_ACTOR.findall(text))
    if not actors or SESSION in os.environ:
        return False
    import ray
    from ray._private.state import actors as table

    held = {table(actor).get("Address", {}).get("NodeID") for actor in actors} - {"", None}
    until = time.monotonic() + PATIENCE
    while held:
        nodes = {node["NodeID"]: node for node in ray.nodes()}
        if not all(node in nodes and _answers(nodes[node]) for node in held):
            return True
        if time.monotonic() > until:
            break
        time.sleep(PATIENCE / 8)
    return False


def _answers(node: Mapping[str, str | int | bool]) -> bool:
    """Whether Ray counts on a node, and its raylet takes calls."""
    return bool(node["Alive"]) and listens(str(node["NodeManagerAddress"]), int(node["NodeManagerPort"]))
