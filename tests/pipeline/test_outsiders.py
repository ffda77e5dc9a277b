"""Who is not the user gets nothing out of a running command: not from another network, not on this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from ray._private import ray_constants

from segdist.pipeline import own_cluster
from tests.engine.shipped import model_folder
from tests.pipeline.conftest import SECRETS, SWEEP, draw_roofs, environment, leaks

Found = list[tuple[int, str, str]]
"""What an outsider got: port, question, answer."""
_REFUSED = re.compile(r"UNAUTHENTICATED$|UNIMPLEMENTED$|40[1345] ")
_PUBLIC = re.compile(r"200 (<!doctype html|# HELP )", re.IGNORECASE)
"""The frame of Ray's dashboard, whose every number needs the token; loads and temperatures, for Prometheus."""


@dataclass(frozen=True)
class Elsewhere:
    """Another network namespace."""

    name: str
    hosts: tuple[str, ...]
    """The addresses that this machine has from there."""

    def attack(self, ports: set[int]) -> Found:
        """What is found at the ports from there."""
        return _attack(["ip", "netns", "exec", self.name], ports, *self.hosts)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """A namespace that reaches this machine over a cable of its own."""
    name, number = f"out{os.getpid()}", os.getpid() % 16384
    net = f"10.213.{number // 64}.{number % 64 * 4}"
    here, there = (f"{net.rpartition('.')[0]}.{int(net.rpartition('.')[2]) + k}" for k in (1, 2))
    steps = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add {here}/30 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} addr add {there}/30 dev {name}b",
        f"ip -n {name} link set {name}b up",
        f"ip -n {name} route add default via {here}",
    ]
    try:
        for step in steps:
            done = _run(step)
            if done is None or done.returncode:
                pytest.skip(f"no network namespace can be made here (it needs root and iproute2): {step}")
        yield Elsewhere(name, tuple({here, _own_address()}))
    finally:
        _run(f"ip netns del {name}")


@pytest.mark.usefixtures("cluster")
def test_no_port_of_a_cluster_of_our_own_is_there_for_another_network_namespace(elsewhere: Elsewhere) -> None:
    with socket.create_server(("0.0.0.0", 0)) as control:
        port = control.getsockname()[1]
        found = elsewhere.attack({*_listening(psutil.Process()), port})
    assert {one[0] for one in found} == {port}, "what listens on all addresses is found, and nothing else does"


@pytest.mark.usefixtures("cluster")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_of_the_machine_is_refused_by_every_port_of_a_cluster_of_our_own() -> None:
    ports = _listening(psutil.Process()) - _of_the_tests()
    found = _attack_as_nobody(ports)
    assert len({port for port, question, _ in found if question == "connect"}) == len(ports) > 5
    assert sum("UNAUTHENTICATED" in answer for _, _, answer in found) > 100, "Ray's methods were asked"
    assert sum(answer.startswith("401 ") for _, _, answer in found) > 10, "and so were its pages"
    assert not _given(found)
    token = os.environ["RAY_AUTH_TOKEN"]
    assert not [one for one in found if token in one[2]]


@pytest.mark.usefixtures("cluster")
def test_the_token_of_a_cluster_is_drawn_and_written_nowhere() -> None:
    token, folder = os.environ["RAY_AUTH_TOKEN"], Path(os.environ[own_cluster.SESSION])
    assert len(token) == 64
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.rglob("raylet.out")), "it holds what Ray wrote"
    assert not leaks(folder, secrets={"token": token})
    saved = Path.home() / ".ray" / "auth_token"
    assert not saved.exists() or token not in saved.read_text()
    assert not [p for p in psutil.process_iter(["cmdline"]) if token in " ".join(p.info["cmdline"] or [])]


@pytest.mark.usefixtures("cluster")
def test_a_cluster_of_our_own_leaves_the_port_of_one_that_takes_jobs_free() -> None:
    assert ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT not in _listening(psutil.Process())


@dataclass
class Attacked:
    """A command that ran to its end under attack."""

    log: str
    status: int
    ports: set[int] = field(default_factory=set)
    from_elsewhere: Found = field(default_factory=list)
    as_nobody: Found = field(default_factory=list)
    command_lines: set[str] = field(default_factory=set)


@pytest.mark.slow  # whole commands; each port that opens is attacked as it opens
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["run", "label", "predict", "serve"])
def test_nobody_gets_anything_from_a_running_command_and_no_secret_is_written(
    name: str, elsewhere: Elsewhere, tmp_path: Path, short_folder: Path
) -> None:
    words, port = _words(name, tmp_path)
    seen = _attacked(words, elsewhere, tmp_path, short_folder, stop_at="serving" if name == "serve" else "")
    assert seen.status == 0, seen.log
    assert len(seen.ports) > 8
    assert not seen.from_elsewhere, "no port listens beyond this machine"
    assert {one[0] for one in seen.as_nobody}, "another user can connect"
    assert not _given([one for one in seen.as_nobody if one[0] != port])
    answers = "\n".join(answer for _, _, answer in seen.as_nobody)
    for secret, value in SECRETS.items():
        assert value not in answers, secret
        assert value not in seen.log, secret
        assert value not in "\n".join(seen.command_lines), secret
    assert list(short_folder.rglob("runtime_env_agent.log")), "Ray's session is among what is searched"
    assert not leaks(tmp_path, short_folder)


def _words(name: str, folder: Path) -> tuple[list[str], int]:
    """A command line that keeps a cluster busy for a while, and the port that it is to listen on."""
    sweep = folder / "tiny.yaml"
    sweep.write_text(SWEEP.format(storage=folder / "storage") + "label: {teacher: {family: sam}}\n")
    if name == "run":
        group = ("resources.workers=2", "resources.cpus_per_worker=0.9", "search.trials=1", "train.epochs=40")
        return ["run", str(sweep), "data.boxes_only=[train]", *group], 0
    if name == "label":
        return ["label", str(sweep), "data.boxes_only=[train]"], 0
    model = model_folder(folder / "roofs", "unet_cbam")
    if name == "predict":
        (folder / "photos").mkdir()
        for k in range(40):
            draw_roofs(folder / "photos" / f"{k}.png")
        return ["predict", str(model), str(folder / "photos"), "-o", str(folder / "out"), "--actors", "2"], 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["serve", str(model), "--port", str(port)], port


# The folder of Ray's session stays, so that it can be searched.
_KEEPING = """
from types import SimpleNamespace
from segdist.pipeline import own_cluster
own_cluster.shutil = SimpleNamespace(rmtree=lambda *_, **__: None)
from segdist.cli import main
main()
"""


def _attacked(words: list[str], elsewhere: Elsewhere, folder: Path, session: Path, *, stop_at: str) -> Attacked:
    env = {**environment(folder), **SECRETS, "RAY_TMPDIR": str(session)}
    log = folder / "log"
    with log.open("w") as out:
        driver = subprocess.Popen([sys.executable, "-c", _KEEPING, *words], stdout=out, stderr=out, env=env)
    seen = Attacked("", -1)
    try:
        process = psutil.Process(driver.pid)
        while driver.poll() is None:
            seen.command_lines |= _command_lines()
            if new := _listening(process) - seen.ports:
                seen.from_elsewhere += elsewhere.attack(new)
                seen.as_nobody += _attack_as_nobody(new)
                seen.ports |= new
            elif stop_at and stop_at in log.read_text():
                driver.terminate()
                driver.wait(120)
            time.sleep(0.05)
    finally:
        if driver.poll() is None:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
    seen.log, seen.status = log.read_text(), driver.returncode
    return seen


def _listening(process: psutil.Process) -> set[int]:
    """The ports that a process and those it started listen on."""
    found = set()
    for one in (process, *process.children(recursive=True)):
        try:
            found |= {c.laddr.port for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        except psutil.Error:  # it ended
            continue
    return found


def _of_the_tests() -> set[int]:
    """The port of the S3 server that other tests of this process may have started."""
    port = urlsplit(os.environ.get("AWS_ENDPOINT_URL", "")).port
    return {port} if port else set()


def _command_lines() -> set[str]:
    """Those of all processes now, which every user can read."""
    return {" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])}


def _attack_as_nobody(ports: set[int]) -> Found:
    return _attack([], ports, "127.0.0.1", how=["--nobody"]) if os.geteuid() == 0 else []


def _attack(prefix: list[str], ports: set[int], *hosts: str, how: Sequence[str] = ()) -> Found:
    words = [*prefix, sys.executable, "-m", "tests.pipeline.outsider", *how]
    words += [*(f"--host={host}" for host in hosts), *map(str, ports)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [(port, question, answer) for port, question, answer in json.loads(done.stdout)]


def _given(found: Found) -> Found:
    """What was not refused, but for what gRPC tells of itself: that it is well, and of its connections' addresses."""
    asked = [one for one in found if one[1] != "connect" and not one[1].startswith("/grpc.")]
    return [one for one in asked if not _REFUSED.match(one[2]) and not _PUBLIC.match(one[2])]


def _own_address() -> str:
    """The address under which this machine is known to others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def _run(step: str) -> subprocess.CompletedProcess[bytes] | None:
    try:
        return subprocess.run(step.split(), capture_output=True, timeout=20, check=False)
    except FileNotFoundError:
        return None
