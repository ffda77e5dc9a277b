"""Groups that train with fewer workers where there is no room for all of them, and the same steps all the same."""

from time import sleep
from types import ModuleType

from segdist.core.spec import RunSpec
from segdist.pipeline.draining import draining
from segdist.pipeline.packing import Need, Node, fitting

_EVERY = 2.0
"""Seconds between two looks for room."""


def for_the_room(run: RunSpec, ray: ModuleType) -> RunSpec:
    """The run with as many of its workers as there is room for now, once there is room for the fewest.

    Args:
        run: with `resources.min_workers`, or it stays as it is.
        ray: the connected `ray` module.
    """
    fewest, most = run.resources.min_workers, run.resources.workers
    if fewest is None:
        return run
    while (count := min(room(run, free_nodes(ray)), most)) < fewest:
        sleep(_EVERY)
    return run if count == most else run.with_workers(count)


def room(run: RunSpec, nodes: list[Node]) -> int:
    """Workers that these nodes hold."""
    return fitting(nodes, Need(run.resources.cpus_per_worker, run.resources.gpus))


def free_nodes(ray: ModuleType) -> list[Node]:
    """The nodes that are alive and stay, with what nobody has reserved."""
    from ray._private.state import available_resources_per_node

    free, leaving = available_resources_per_node(), draining()
    names = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    of_node = {name: free.get(name, {}) for name in names}
    return [Node(name, cpus=has.get("CPU", 0.0), gpus=has.get("GPU", 0.0)) for name, has in of_node.items()]
