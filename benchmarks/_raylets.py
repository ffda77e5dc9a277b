"""Many Ray nodes on one machine: real raylets, of whose processes only what the cluster sees of them is at work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen
from typing import Any
from unittest.mock import patch

from segdist.core.environment import variables
from segdist.pipeline.own_cluster import private_session

STORE_BYTES = 80_000_000
"""Of each node's object store; nothing is taken before it is used."""
_NOBODY = 'sh -c "exec cat"'
"""Stands for an agent: ends when the raylet does, which holds the other end of its input."""
_PORT = 1
"""On which nobody answers."""


@contextmanager
def head() -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` for this user alone: a head that holds no trial. Children of this process join it.

    It has no dashboard, which would ask each node's agent for its figures.
    """
    quiet = {"RAY_memory_monitor_refresh_ms": "0", "RAY_enable_metrics_collection": "0"}
    with private_session(), variables({**quiet, "RAY_USAGE_STATS_ENABLED": "0"}):
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
            },
        )
        try:
            with variables({"RAY_ADDRESS": cluster.address}):
                yield cluster
        finally:
            for node in list(cluster.worker_nodes):
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=False)
            cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)


def add_node(cluster: Any) -> Popen[bytes]:
    """Add a node of one CPU that is not there, and wait until the control store knows it; its raylet."""
    from ray._private import services

    agent, start = cluster.head_node.runtime_env_agent_port, services.start_ray_process

    def started(command: Sequence[str], kind: str, *arguments: Any, **options: Any) -> Any:
        return start(_without_agents(command, agent) if kind == "raylet" else command, kind, *arguments, **options)

    with patch.object(services, "start_ray_process", started):
        node = cluster.add_node(wait=False, num_cpus=1, object_store_memory=STORE_BYTES, runtime_env_agent_port=agent)
    process: Popen[bytes] = node.all_processes["raylet"][0].process
    return process


def _without_agents(command: Sequence[str], agent: int) -> list[str]:
    """The command of a raylet that starts no Python process before it has work: environments are made by the head's."""
    from ray import _raylet as compiled

    raylet: Any = compiled
    asked = dict(word.partition("=")[::2] for word in command)
    for name in ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN", "RUNTIME_ENV_AGENT"):
        port = agent if name == "RUNTIME_ENV_AGENT" else _PORT
        # Where an agent would write its port, and the raylet waits for it.
        raylet.persist_port(asked["--session_dir"], asked["--node_id"], getattr(raylet, f"{name}_PORT_NAME"), port)
    asked |= {"--dashboard_agent_command": _NOBODY, "--runtime_env_agent_command": _NOBODY}
    asked["--num_prestart_python_workers"] = "0"
    return [f"{name}={value}" if value or name != command[0] else name for name, value in asked.items()]
