"""What keeps a Ray cluster of our own to its user: a token, addresses of this machine alone, a private folder."""

import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from segdist.core.causes import free_space
from segdist.core.environment import variables
from segdist.core.errors import BackendError, StorageError

SESSION = "SEGDIST_SESSION"
"""Names, in the processes of a cluster of our own, the folder that only this user can enter."""
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_DOOR = {
    "RAY_AUTH_MODE": "token",
    # Ray's name for "a node's address is that of loopback", which it prefers where firewalls ask about every port.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Training processes talk to each other on this machine only, too.
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
}
PREFIX = "segdist-ray-"
"""Of the folders in which clusters of our own keep their files."""
_LONGEST = f"/{PREFIX}abcdefgh/r/session_2026-11-28_18-30-54_301749_4194304/sockets/plasma_store"
_SOCKET_BYTES = 107
"""The longest name of a socket that the kernel takes."""
_ROOM_BYTES = 20_000_000
_STARTING_SECONDS = 60
"""A folder this young may belong to a process that has not locked it yet."""


@contextmanager
def private_session() -> Iterator[Path]:
    """An environment in which Ray starts a cluster that serves this user alone, and the folder it is to write to.

    Left alone, Ray listens on every address of the machine, does what anybody there asks, and writes its logs for all
    to read. The token, drawn anew for each cluster, turns the other users of this machine away; it is nowhere but in
    the environment of the cluster's processes. On loopback the network cannot even connect, also where Ray asks for no
    token (metrics).

    Raises:
        BackendError: `RAY_TMPDIR` is too long for the names of sockets.
        StorageError: its disk is full.
    """
    with _folder() as folder:
        # Ray's libraries write under `RAY_TMPDIR`, too: locks, checkpoints on their way.
        own = {SESSION: str(folder), "RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        with environment({**_DOOR, **own}), on_loopback(), _out_of_our_group(), _agent_on_any_port():
            yield folder / "r"  # Ray opens this one to all users; nobody passes the private one above it


def listen_on_loopback() -> None:
    """Have Ray Serve bind the port of a replica in this process to loopback; it binds to all addresses, unasked.

    To be called before Ray Serve is imported.
    """
    from ray._common import tls_utils

    bind = tls_utils.add_port_to_grpc_server
    tls_utils.add_port_to_grpc_server = lambda server, place: bind(server, place.replace("[::]:", "127.0.0.1:"))


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while; Ray, which remembers how it authenticates, is made to look again."""
    try:
        with variables(values):
            _reload_token()
            yield
    finally:
        _reload_token()


def _reload_token() -> None:
    import ray

    raylet = ray._raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def on_loopback() -> Iterator[None]:
    """Ray takes loopback for the address of this machine; it would put that of the network in its place."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _out_of_our_group() -> Iterator[None]:
    """Ray's processes get a session of their own.

    A signal for our group, as `timeout`, systemd and a closing terminal send it, reaches this process alone, which ends
    in order, and Ray with it. Where this process is killed, they die too.
    """
    from ray._private import services

    before = services.ConsolePopen
    services.ConsolePopen = partial(before, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextmanager
def _agent_on_any_port() -> Iterator[None]:
    """The agent of our node listens where a port is free, for nobody looks for it; Ray would take 52365.

    Where another cluster of this machine has that one, the agent tries for three seconds, in which nothing starts; and
    one that is to take jobs (`ray start`) must find it free.
    """
    from ray._private import parameter

    before = parameter.RayParams
    parameter.RayParams = partial(before, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameter.RayParams = before


def check_room(folder: Path) -> None:
    """Ray must be able to write its logs there; where it cannot, it does not say so, and waits for itself instead.

    Raises:
        StorageError: it cannot.
    """
    if shutil.disk_usage(folder).free < _ROOM_BYTES:
        raise StorageError(
            f"The disk is full where Ray keeps its logs: {free_space(folder)}, but {_ROOM_BYTES / 1e6:.0f} MB must be. "
            "Free some space, or set RAY_TMPDIR to a folder on another disk."
        )


def check_own_room() -> None:
    """Where a process of a cluster of our own broke down: Ray's processes die of a full disk, and do not say so.

    Raises:
        StorageError: there is no room for their logs.
    """
    if folder := os.environ.get(SESSION):
        check_room(Path(folder).parent)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder of this user's, locked while it is in use and gone afterwards; also those of killed processes go."""
    parent = _short_folder()
    _remove_stale_folders(parent)
    check_room(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # mode 0700
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a process that ends late may still write: the next start clears it
        os.close(lock)


def _remove_stale_folders(parent: Path) -> None:
    """Remove folders that a killed process left: a living one holds a lock."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            state = folder.lstat()
            if state.st_uid != os.getuid() or time.time() - state.st_mtime < _STARTING_SECONDS:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # somebody else cleared it away, or it is no folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _short_folder() -> Path:
    """Where temporary files go, or /tmp: the names of sockets have a largest length.

    Raises:
        BackendError: the folder was chosen by `RAY_TMPDIR`, and is too long.
    """
    asked, most = os.environ.get("RAY_TMPDIR"), _SOCKET_BYTES - len(_LONGEST)
    if asked == os.environ.get(SESSION):  # nobody asked: we were started from a process that has a cluster of its own
        asked = None
    folder = Path(asked or tempfile.gettempdir())
    if len(os.fsencode(folder)) <= most:
        return folder
    if asked:
        raise BackendError(
            f"RAY_TMPDIR must have {most} bytes or fewer, for Ray adds the names of sockets to it, but got {asked}"
        )
    return Path("/tmp")  # noqa: S108 - the folder made in it is private
