"""Nodes of a Ray cluster in network namespaces of this machine: each has a cable of its own that can be pulled.

A bridge joins them with this machine, where the head, the servers and the driver are.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.pipeline.nodes import OBJECT_STORE


def can_have_namespaces() -> bool:
    """Whether this process may make namespaces, and has the programs for it."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


class Network:
    """A bridge and the namespaces on it.

    Args:
        names: of the namespaces.
    """

    def __init__(self, names: list[str]) -> None:
        own = os.getpid() % 65536
        self._bridge, self._prefix = f"sd{own}", f"10.{200 + own // 4096}.{own // 16 % 256}."
        self._numbers = {name: number for number, name in enumerate(names, 2)}
        self.host = f"{self._prefix}1"
        """Address of this machine on the bridge."""

    def lay(self) -> None:
        """Make them."""
        _ip(f"link add {self._bridge} type bridge")
        _ip(f"addr add {self.host}/24 dev {self._bridge}")
        _ip(f"link set {self._bridge} up")
        for name in self._numbers:
            space, cable = self._space(name), self._cable(name)
            _ip(f"netns add {space}")
            _ip(f"link add {cable} type veth peer name eth0 netns {space}")
            _ip(f"link set {cable} master {self._bridge} up")
            _ip(f"-n {space} addr add {self.address(name)}/24 dev eth0")
            for device in ("lo", "eth0"):
                _ip(f"-n {space} link set {device} up")

    def remove(self) -> None:
        """End all that runs in them, and take them away."""
        for name in self._numbers:
            with suppress(subprocess.CalledProcessError):
                self.kill(name)
                _ip(f"netns del {self._space(name)}")
        with suppress(subprocess.CalledProcessError):
            _ip(f"link del {self._bridge}")

    def cut(self, name: str) -> None:
        """Pull the cable of a namespace: no packet passes, and nobody is told."""
        _ip(f"link set {self._cable(name)} down")

    def join(self, name: str) -> None:
        """Plug it in again."""
        _ip(f"link set {self._cable(name)} up")

    def kill(self, name: str) -> None:
        """End all processes of a namespace at once."""
        while pids := self.pids(name):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def pids(self, name: str) -> list[int]:
        """Of the processes of a namespace."""
        return [int(pid) for pid in _ip(f"netns pids {self._space(name)}").split()]

    def address(self, name: str) -> str:
        """Of a namespace on the bridge."""
        return f"{self._prefix}{self._numbers[name]}"

    def has_node(self, name: str) -> bool:
        """Whether the node in a namespace runs: Ray ends one that the cluster has given up."""
        return any("raylet" in Path(f"/proc/{pid}/comm").read_text() for pid in self.pids(name))

    def start_node(self, name: str, head: str, folder: Path, env: dict[str, str]) -> None:
        """A node of one CPU in a namespace."""
        words = ["nsenter", f"--net=/var/run/netns/{self._space(name)}", sys.executable]
        words += ["-m", "ray.scripts.scripts", "start", "--address", head, "--num-cpus", "1"]
        words += ["--object-store-memory", str(OBJECT_STORE), "--temp-dir", str(folder / name)]
        words += ["--node-ip-address", self.address(name)]
        subprocess.run(words, env=env, check=True, capture_output=True, timeout=120)

    def _space(self, name: str) -> str:
        return f"{self._bridge}-{name}"

    def _cable(self, name: str) -> str:
        return f"{self._bridge}{name}"


@contextmanager
def network_of(names: list[str]) -> Iterator[Network]:
    """A network that is gone afterwards, with all that runs in it."""
    network = Network(names)
    try:
        network.lay()
        yield network
    finally:
        network.remove()


def _ip(words: str) -> str:
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout
