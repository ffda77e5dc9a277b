"""Preflight on nodes that really differ: each is a `ray start` of its own, one with a file system of its own."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from segdist.core.provenance import installed
from tests.pipeline.conftest import SWEEP, command, environment
from tests.pipeline.test_jobs_on_cluster import RAY, TOKENS, free_ports, head, started

_MOUNTED = """\
mount --make-rprivate /
mkdir -p {folder} && mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}
exec "$@"
"""
"""Has a command see a folder as one that cannot be written to."""
can_mount = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="a file system of a node's own needs Linux and root's rights",
)


@contextmanager
def node(address: str, env: Mapping[str, str], log: Path, *before: str) -> Iterator[None]:
    """Another node of a cluster.

    Args:
        address: of its head's control store.
        env: of the node's processes.
        log: for what it says.
        before: words that stand before its command.
    """
    ports = dict(zip(("--dashboard-agent-listen-port", "--node-manager-port"), map(str, free_ports(2)), strict=True))
    words = [*before, RAY, "start", "--block", "--address", address, "--node-ip-address", "127.0.0.1"]
    words += [word for pair in ports.items() for word in pair]
    words += ["--num-cpus", "1", "--object-store-memory", "100000000", "--disable-usage-stats"]
    with started(words, env, log):
        yield


def other_segdist(folder: Path) -> Path:
    """A folder that brings segdist of another version, and of other code."""
    shutil.copytree("segdist", folder / "segdist", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "segdist" / "core" / "later.py").write_text('"""Not in the other one."""\n')
    (folder / "segdist-0.0.9.dist-info").mkdir()
    (folder / "segdist-0.0.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: segdist\nVersion: 0.0.9\n"
    )
    return folder


@can_mount
@pytest.mark.slow  # a cluster of three nodes
@pytest.mark.timeout(300)
def test_a_node_with_another_version_and_one_that_cannot_write_are_named_with_what_mends_them(
    tmp_path: Path, short_folder: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(storage=tmp_path / "storage"))
    (tmp_path / "storage").mkdir()
    env = {**environment(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKENS[0], "HF_TOKEN": "planted-1"}
    of_node = {**env, "PYTHONPATH": str(Path.cwd())}
    del of_node["HF_TOKEN"]
    other = {**of_node, "PYTHONPATH": str(other_segdist(tmp_path / "other"))}
    closed = ("unshare", "-m", "sh", "-ec", _MOUNTED.format(folder=tmp_path / "storage"), "sh")
    with ExitStack() as stack:
        stack.enter_context(head(short_folder, TOKENS[0], tmp_path / "cache"))
        control = re.findall(r"--address='([^']+)'", (short_folder / "head.log").read_text())[0]
        stack.enter_context(node(control, other, tmp_path / "other.log"))
        stack.enter_context(node(control, of_node, tmp_path / "closed.log", *closed))
        done = subprocess.run(
            command("preflight", "tiny.yaml"),
            cwd=tmp_path,
            env={**env, "RAY_ADDRESS": control, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode != 0
    for line in (
        r"- node \S+ \(\w{8}\) has segdist 0\.0\.9, not " + re.escape(installed()["segdist"]),
        r"- node \S+ \(\w{8}\) has code of segdist \w{8}, not " + installed()["code of segdist"],
        rf"- node \S+ \(\w{{8}}\) cannot use {tmp_path / 'storage'}: Cannot write .*[Rr]ead-only",
        r"Versions: install on every node what the driver's has",
        r"Storage: mount on every node what the driver's has there",
    ):
        assert re.search(line, done.stderr), f"{line}\n{done.stdout}{done.stderr}"
    assert len(re.findall(r"^- ", done.stderr, re.MULTILINE)) == 3, done.stderr
    assert "3 nodes, 4 CPUs" in done.stdout
    assert re.search("secrets .*HF_TOKEN", done.stdout), "the driver has it, so its workers get it on every node"
    assert "planted" not in done.stdout + done.stderr
