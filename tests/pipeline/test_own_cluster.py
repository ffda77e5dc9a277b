"""The folder of a cluster of our own, the token of one that is joined, and what travels to the workers of each."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from pydantic import ValidationError

from segdist.core.errors import BackendError, SpecError, StorageError
from segdist.core.spec import ResourceSpec
from segdist.pipeline import cluster, own_cluster
from segdist.pipeline.travelling import taken_along

TOKEN = "0123456789abcdef" * 2
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def test_the_folder_is_this_users_alone_and_goes_with_the_cluster_and_two_do_not_meet(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    with own_cluster._folder() as one, own_cluster._folder() as other:
        assert one != other
        assert one.parent == other.parent == short_folder
        assert one.stat().st_mode & 0o777 == 0o700
        (one / "r").mkdir()
    assert not list(short_folder.iterdir())


def test_a_start_clears_what_a_killed_process_left_and_nothing_that_is_in_use_young_or_of_another_user(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    left, young, foreign, linked = (short_folder / f"segdist-ray-{name}" for name in ("left", "young", "other", "link"))
    for folder in (left, young, foreign):
        (folder / "r" / "logs").mkdir(parents=True)
    precious = short_folder / "precious"
    precious.mkdir()
    linked.symlink_to(precious)
    with own_cluster._folder() as used:
        for folder in (left, foreign, used, precious):
            os.utime(folder, (0, 0))
        if os.geteuid() == 0:
            os.chown(foreign, 65534, 65534)
        with own_cluster._folder():
            assert not left.exists()
            assert used.is_dir()
            assert young.is_dir()
            assert precious.is_dir()
            assert foreign.is_dir() == (os.geteuid() == 0)


def test_a_disk_without_room_for_rays_logs_is_told_before_ray_is_waited_for(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5 * 10**6))
    said = rf"disk is full where Ray keeps its logs: 5 MB are free in {short_folder}, .* set RAY_TMPDIR"
    with pytest.raises(StorageError, match=said), own_cluster._folder():
        pass
    assert not list(short_folder.iterdir())
    monkeypatch.setenv(own_cluster.SESSION, str(short_folder / "segdist-ray-x"))
    with pytest.raises(StorageError, match=said):
        own_cluster.check_own_room()
    monkeypatch.delenv(own_cluster.SESSION)
    own_cluster.check_own_room()  # a cluster that was joined


def test_a_folder_that_is_too_long_for_sockets_is_not_used_and_refused_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / "a-temporary-folder-of-a-cluster"
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(long))
    assert own_cluster._short_folder() == Path("/tmp")
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(BackendError, match=rf"RAY_TMPDIR must have \d\d bytes or fewer.*{long}"):
        own_cluster._short_folder()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A process of its own: in this one the tests' cluster may be running, which knows one token only."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def test_each_cluster_has_a_token_of_its_own_and_the_environment_is_afterwards_as_before(
    short_folder: Path, elsewhere: ProcessPoolExecutor
) -> None:
    users = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "the user's, of another cluster"}
    seen = elsewhere.submit(_sessions, {**users, "RAY_TMPDIR": str(short_folder)}).result()
    assert [door["RAY_AUTH_MODE"] for door in seen] == ["disabled", "token", "token", "disabled"]
    assert len({door["RAY_AUTH_TOKEN"] for door in seen}) == 3
    assert seen[0] == seen[-1], "as before"


def _sessions(env: dict[str, str]) -> list[dict[str, str]]:
    """The environment before, in and after two sessions."""
    _become(env)
    seen = [dict(os.environ)]
    for _ in range(2):
        with own_cluster.private_session() as folder:
            assert folder.parent == Path(os.environ[own_cluster.SESSION])
            seen.append(dict(os.environ))
    return [*seen, dict(os.environ)]


@pytest.fixture
def head() -> Iterator[Callable[[str], str]]:
    """Starts what answers as the head of a cluster does, whose token is the one given, or who asks for none."""
    servers = []

    def start(token: str) -> str:
        def check_alive(_: bytes, context: grpc.ServicerContext) -> bytes:
            shown = dict(context.invocation_metadata()).get("authorization")
            if token and shown != f"Bearer {token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            assert token or shown is None, "nobody asked for a token"
            return b""

        service, _, method = ALIVE[1:].partition("/")
        server = grpc.server(ThreadPoolExecutor(1))
        handlers = {method: grpc.unary_unary_rpc_method_handler(check_alive)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


def _become(env: dict[str, str]) -> None:
    """A user with this environment, and no other say about Ray."""
    import ray

    assert not ray.is_initialized()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        os.environ.pop(name, None)
    os.environ.update(env)
    own_cluster._reload_token()


def _reached(address: str, env: dict[str, str]) -> dict[str, str] | str:
    """What the environment must say to be let in, or the error."""
    _become(env)
    try:
        return cluster.check_reachable(address)
    except BackendError as error:
        return str(error)


def test_a_cluster_that_asks_for_no_token_is_shown_none(
    head: Callable[[str], str], elsewhere: ProcessPoolExecutor, tmp_path: Path
) -> None:
    for env in ({}, {"RAY_AUTH_TOKEN": TOKEN}):
        assert elsewhere.submit(_reached, head(""), {"HOME": str(tmp_path), **env}).result() == {}


@pytest.mark.parametrize("place", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home"])
def test_a_cluster_that_asks_is_shown_the_users_token_wherever_it_is_kept(
    head: Callable[[str], str], elsewhere: ProcessPoolExecutor, tmp_path: Path, place: str
) -> None:
    file, env = tmp_path / ".ray" / "auth_token", {"HOME": str(tmp_path)}
    file.parent.mkdir()
    if place == "RAY_AUTH_TOKEN":
        env[place] = TOKEN
    else:
        file.write_text(TOKEN)
    if place == "RAY_AUTH_TOKEN_PATH":
        env[place] = str(file.rename(tmp_path / "token"))
    assert elsewhere.submit(_reached, head(TOKEN), env).result() == {"RAY_AUTH_MODE": "token"}


@pytest.mark.parametrize(
    ("env", "fix"),
    [
        ({}, "RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": TOKEN[::-1]}, "RAY_AUTH_TOKEN_PATH"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN[::-1]}, "ray get-auth-token"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": TOKEN}, "RAY_AUTH_MODE is `disabled`: unset it"),
    ],
)
def test_a_cluster_that_refuses_us_is_named_with_the_fix_and_no_token_is_printed(
    head: Callable[[str], str], elsewhere: ProcessPoolExecutor, tmp_path: Path, env: dict[str, str], fix: str
) -> None:
    address = head(TOKEN)
    said = elsewhere.submit(_reached, address, {"HOME": str(tmp_path), **env}).result()
    assert fix in said
    assert address in said
    assert TOKEN not in said
    assert TOKEN[::-1] not in said


TAKEN = {
    "AWS_SECRET_ACCESS_KEY": "of the storage",
    "HF_TOKEN": "of the hub",
    "MLFLOW_TRACKING_PASSWORD": "of MLflow",
    "NCCL_DEBUG": "INFO",
    "HTTPS_PROXY": "http://proxy.example",
    "https_proxy": "http://proxy.example",
}
LEFT = {"SEGDIST_TOKEN": "of a server", "WANDB_API_KEY": "of nobody else's business"}


def test_what_a_sweep_names_travels_to_a_joined_cluster_in_the_hook_and_not_in_the_runtime_environment(
    head: Callable[[str], str], elsewhere: ProcessPoolExecutor
) -> None:
    sent, come = elsewhere.submit(_travel, head(""), None).result()
    assert {"OMP_NUM_THREADS", "SEGDIST_DOWNLOAD_WEIGHTS"} <= json.loads(sent)["runtime_env"]["env_vars"].keys()
    assert not [value for value in TAKEN.values() if value in sent and value != "INFO"]
    assert come == TAKEN
    _, come = elsewhere.submit(_travel, head(""), ("WANDB_*", "HF_TOKEN")).result()
    assert come == {"HF_TOKEN": TAKEN["HF_TOKEN"], "WANDB_API_KEY": LEFT["WANDB_API_KEY"]}


def _travel(address: str, names: tuple[str, ...] | None) -> tuple[str, dict[str, str]]:
    """The runtime environment without its hook, and what the hook brings to a process that has nothing."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "HF_", "NCCL_"))]:
        del os.environ[name]
    _become({**TAKEN, **LEFT, "SEGDIST_DOWNLOAD_WEIGHTS": "1"})
    naming = taken_along(names) if names else nullcontext()
    with naming, cluster._join_settings(cluster.check_reachable(address)) as how:
        hook: Any = how["runtime_env"].pop("worker_process_setup_hook")
    for name in (*TAKEN, *LEFT):
        del os.environ[name]
    with patch.object(cluster, "set_address_of_own_cluster"):
        hook()
    return json.dumps(how), {name: os.environ[name] for name in (*TAKEN, *LEFT) if name in os.environ}


def test_a_variable_that_a_sweep_needs_and_the_driver_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SITE_KEY", raising=False)
    with pytest.raises(SpecError, match=r"names SITE_KEY, which .* on its nodes"), taken_along(("AWS_*", "SITE_KEY")):
        pass


@pytest.mark.parametrize(
    ("name", "why"),
    [("*", "PATH"), ("RAY_*", "RAY_ADDRESS"), ("SEGDIST_*", "SEGDIST_TOKEN"), ("A B", "NAME"), ("", "NAME")],
)
def test_a_list_that_would_bring_what_is_a_machines_own_is_refused(name: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ResourceSpec(environment=("HF_TOKEN", name))


def test_tune_sends_nothing_secret_in_the_runtime_environment() -> None:
    from ray.tune.execution import class_cache

    cluster.keep_keys_out_of_logs()
    secrets = ("AWS", "KEY", "SECRET", "TOKEN", "PASSWORD")
    assert class_cache.ENV_VARS_TO_PROPAGATE, "its own settings are there"
    assert not [name for name in class_cache.ENV_VARS_TO_PROPAGATE if any(word in name for word in secrets)]
