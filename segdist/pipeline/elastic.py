"""Groups that train with fewer workers where there is no room for all of them, and the same steps all the same."""

from time import sleep
from types import ModuleType

from segdist.core.spec import RunSpec
from segdist.pipeline.draining import draining
from segdist.pipeline.packing import Need, Node, fitting, nodes_of

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
    while (count := min(room(run, nodes_of(ray, leaving=draining(), is_free=True)), most)) < fewest:
        sleep(_EVERY)
    return run if count == most else run.with_workers(count)


def room(run: RunSpec, nodes: list[Node]) -> int:
    """Workers that these nodes hold."""
    return fitting(nodes, Need(run.resources.cpus_per_worker, run.resources.gpus))
