"""A Ray cluster of several nodes on this machine, whose nodes come, are warned and go; a process of its own.

Ray knows one cluster a process: that of the other tests is not to be touched.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.pipeline.conftest import environment, signal_family

OBJECT_STORE = 80_000_000
"""Bytes of a node's."""


class Nodes:
    """Tells the process that holds the cluster."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process, self.address = process, address

    def ask(self, what: str, **how: Any) -> Any:
        """Have something done, and wait until it is."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"what": what, **how}) + "\n")
        self._process.stdin.flush()
        return _answer(self._process)


def _answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)["answer"]
    raise AssertionError(f"the cluster's process has ended: {process.wait()}")


def node_environment(folder: Path, short_folder: Path) -> dict[str, str]:
    """Of the processes of a node."""
    ray = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(short_folder)}
    ray["RAY_memory_monitor_refresh_ms"] = "0"  # what else runs on this machine is no reason to end a trial
    ray["SEGDIST_DRAIN_LOOK_SECONDS"] = "0.3"
    return {**environment(folder), **ray}


@contextmanager
def cluster_of(names: list[str], folder: Path, short_folder: Path, host: str = "") -> Iterator[Nodes]:
    """A head without room for trials, and a node of one CPU for each name.

    Args:
        names: of nodes.
        folder: of the test.
        short_folder: for Ray's sockets and logs.
        host: address of this machine where nodes elsewhere join; "" for one that only this machine has.
    """
    env = node_environment(folder, short_folder)
    words = [sys.executable, "-m", "tests.pipeline.nodes", host, *names]
    with (
        (folder / "cluster.log").open("w") as log,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env, start_new_session=True
        ) as process,
    ):
        yield Nodes(process, _answer(process))


def main(host: str, names: list[str]) -> None:
    """Hold a cluster until nobody has anything to ask any more."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": OBJECT_STORE, **({"node_ip_address": host} if host else {})}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": _free_port(), **small})
    nodes = {name: cluster.add_node(num_cpus=1, **small) for name in names}
    try:
        _say(cluster.address)
        for line in sys.stdin:
            asked = json.loads(line)
            what, name = asked["what"], asked.get("name")
            if what == "add":
                nodes[name] = cluster.add_node(num_cpus=1, **small)
            elif what == "kill":
                cluster.remove_node(nodes[name], allow_graceful=False)
            elif what in ("freeze", "thaw"):
                _signal(nodes[name], signal.SIGSTOP if what == "freeze" else signal.SIGCONT)
            elif what == "warn":
                _drain(cluster.address, nodes[name].node_id, asked["seconds"])
            _say(time.time())
    finally:
        cluster.shutdown()


def _signal(node: Any, number: int) -> None:
    """All of a node's processes: it hears and says nothing, as one whose network is cut."""
    for [process] in node.all_processes.values():
        signal_family(process.process.pid, number)


def _drain(address: str, node_id: str, seconds: int) -> None:
    """What `ray drain-node` does, and whoever watches spot machines."""
    from ray import _raylet
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    reason, deadline_ms = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), int((time.time() + seconds) * 1000)
    client = _raylet.GcsClient(address=address)  # type: ignore[attr-defined]  # it is compiled
    is_accepted, why_not = client.drain_node(node_id, reason, "spot", deadline_ms)
    assert is_accepted, why_not


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps({"answer": answer}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
