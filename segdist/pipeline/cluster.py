"""The Ray cluster this process works on: the one `RAY_ADDRESS` names, or one of its own on this machine."""

import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from segdist.core.errors import BackendError
from segdist.core.interruption import signals_kept
from segdist.core.published import DOWNLOAD
from segdist.core.storage import cache_dir
from segdist.pipeline.backend_lines import raylet_lines_hidden
from segdist.pipeline.own_cluster import check_room, environment, listen_on_loopback, on_loopback, private_session
from segdist.pipeline.packing import DRIVER_CPUS, Need, Node, fitting, nodes_of
from segdist.pipeline.travelling import travelling

# Read by Ray when it is imported or when a session starts.
_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a trial looks for itself: see `draining`
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s is added to every report of a worker group
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a sweep file mean the same in a trial as in the driver
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # CPU actors on a GPU machine keep their environment
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # a job may set what we set, too; ours wins, and it is no error
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "55",  # the default of 5 s kills the proxy of a busy machine as it starts
    "RAY_prestart_worker_first_driver": "0",  # they would begin without our environment, and so do nothing and end
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine unasked
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow is the record; no CSV, JSON and TensorBoard copies
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we ask it to stop
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for a stopped trial to leave its process; 2 s are few on a busy machine
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that died after its last epoch has nothing more to report
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the ledger is what a start goes on from: nobody reads Tune's snapshots
}

_STARTS = 3
"""Attempts to start a cluster on this machine: Ray's raylet ends itself where its agents, which import much, are not up
within 15 seconds, and no setting says otherwise; beside other work they can need more."""
_MOST_SHOWN = 4
"""Nodes that an error of one screen lists."""
_HOOK = "segdist.pipeline.cluster.begin_in_own_cluster"
_STORAGE_KEYS = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN",
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
}  # fmt: skip


@contextmanager
def connected(*, is_bare: bool = False) -> Iterator[ModuleType]:
    """The `ray` module, connected; a cluster of our own is shut down at the end.

    Args:
        is_bare: whether processes of a cluster that is joined begin without anything of ours, which may not be there.

    Raises:
        BackendError: nobody answers at `RAY_ADDRESS`, or it refuses us.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    token_mode = check_reachable(address) if address else {}
    import ray

    if not os.environ.get("SEGDIST_DEBUG"):
        # A failed trial is a line of progress and a file in MLflow; Ray would print its traceback three times more.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # what it starts and deletes is no news to a user
    if ray.is_initialized():
        yield ray
        return
    with _join_settings(token_mode, is_bare=is_bare) if address else _starting() as how:
        with signals_kept(), on_loopback() if _is_on_loopback_alone(address or "") else nullcontext():
            _start(ray, address, how)
        try:
            with raylet_lines_hidden():
                yield ray
        finally:
            ray.shutdown()


@contextmanager
def _starting() -> Iterator[dict[str, object]]:
    """How to start a cluster of our own: its processes inherit this environment, keys of a storage included."""
    cache_dir()  # what closes it to this process closes it to those that are to be started
    with private_session() as folder:
        yield {
            "_temp_dir": str(folder),
            # Without the dashboard the placement groups of finished trials are never freed.
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "runtime_env": {"env_vars": _settings(), "worker_process_setup_hook": _HOOK},
        }


@contextmanager
def _join_settings(token_mode: Mapping[str, str], *, is_bare: bool = False) -> Iterator[dict[str, Any]]:
    """How to connect to a cluster that runs already, with what `check_reachable` says of its token.

    Its processes know nothing of our environment. The settings travel in the runtime environment, which Ray shows on
    its page and writes to a log that all users of a node can read. What may be secret (`travelling`) goes inside the
    hook that runs first in each process: Ray keeps that in the memory of its control store.
    """
    with environment(token_mode):
        if is_bare:
            yield {}
            return
        yield {"runtime_env": {"env_vars": _settings(), "worker_process_setup_hook": _hook_with(travelling())}}


def _start(ray: ModuleType, address: str | None, how: dict[str, object]) -> None:
    """Connect to a cluster, or start one.

    Raises:
        BackendError: nobody answers, or it refuses us.
        StorageError: there is no room for the logs of our own.
    """
    for left in reversed(range(1 if address else _STARTS)):
        try:
            ray.init(
                address=address or "local",
                logging_level="ERROR" if os.environ.get("SEGDIST_DEBUG") else "CRITICAL",
                log_to_driver=bool(os.environ.get("SEGDIST_DEBUG")),
                **how,
            )
        except Exception as error:  # Ray raises anything here, bare Exception included
            _kill_orphans(error)
            if folder := how.get("_temp_dir"):  # that of a cluster of our own
                check_room(Path(str(folder)).parent)
            if not left:
                reason = str(error).partition("\n")[0]
                raise BackendError(_no_answer(address, reason) if address else _no_start(reason)) from error
        else:
            return


def _kill_orphans(error: Exception) -> None:
    """End the processes of a start that failed: Ray would keep them until this process ends."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node: object = frame.f_locals.get("self")
        if hasattr(node, "kill_all_processes"):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return


def listens(host: str, port: int) -> bool:
    """Whether anybody takes connections there, within a second."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def check_reachable(address: str) -> dict[str, str]:
    """What the environment must say to be let in at an address.

    Ray tries an address for minutes before it gives up; a closed port shows at once. And a client that names an address
    shows its token only where `RAY_AUTH_MODE` says so, which who has a token need not know.

    Raises:
        BackendError: nobody listens there, or only the job server does; or the cluster refuses us.
    """
    if address.startswith(("http://", "https://")):
        raise BackendError(
            f"RAY_ADDRESS is {address}: that is where jobs are submitted, not where a driver connects. Submit the file "
            "(`ray job submit --working-dir . -- SWEEP.yaml`), or set RAY_ADDRESS to HOST:6379, or unset it."
        )
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        return {}  # "auto" and the like: Ray's own to find
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise BackendError(_no_answer(address, str(error))) from error
    if scheme or not _is_refused(place):
        return {}
    with_token = {"RAY_AUTH_MODE": "token"}
    if "RAY_AUTH_MODE" not in os.environ:
        with environment(with_token):
            if not _is_refused(place):
                return with_token
    raise BackendError(wrong_token(address))


def _is_on_loopback_alone(address: str) -> bool:
    """Whether a cluster listens on loopback and nowhere else, as one does whose `--node-ip-address` is 127.0.0.1."""
    from ray._private import services

    host, _, port = address.rpartition(":")
    return services.is_localhost(host) and not listens(services.get_node_ip_address(), int(port))


def _is_refused(address: str) -> bool:
    """Whether the cluster wants another token than this process shows."""
    import grpc
    from ray import exceptions
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    with init_grpc_channel(address) as channel:
        try:
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=10)
        except exceptions.AuthenticationError:  # it has none to show
            return True
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)  # anything else is Ray's to tell
    return False


def _no_answer(address: str, reason: str) -> str:
    return (
        f"No Ray cluster answers at {address}: {reason}\n"
        "Start one with `ray start --head`, or unset RAY_ADDRESS to work on this machine alone."
    )


def wrong_token(address: str) -> str:
    """What to do where a cluster wants another token than this process shows; no token is in it."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        return f"The Ray cluster at {address} wants its token, but RAY_AUTH_MODE is `{mode}`: unset it."
    return (
        f"The Ray cluster at {address} wants its token, and this process has none, or another. Set RAY_AUTH_TOKEN to "
        "that of the cluster (`ray get-auth-token` prints it there), or RAY_AUTH_TOKEN_PATH to a file that holds it."
    )


def _no_start(reason: str) -> str:
    return (
        f"Ray must start on this machine, but did not in {_STARTS} attempts: {reason}\n"
        f"The load average is {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores. Try again when less else runs here, "
        "or set RAY_ADDRESS to a cluster."
    )


def begin_in_own_cluster() -> None:
    """Runs first in every worker process of a cluster that we started."""
    listen_on_loopback()
    set_address_of_own_cluster()


def set_address_of_own_cluster() -> None:
    """Runs first in every worker process: Ray's state API must ask this cluster, also beside others on the machine.

    It looks for the cluster in the environment only. Where it finds several it raises, in the actor that frees the
    resources of a worker group that was stopped early: the next trial would wait for them forever.
    """
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def _hook_with(values: Mapping[str, str]) -> Callable[[], None]:
    def set_address_and_environment() -> None:
        os.environ.update(values)
        set_address_of_own_cluster()

    return set_address_and_environment


def _settings() -> dict[str, str]:
    names = [*_SETTINGS, "SEGDIST_CACHE", "SEGDIST_DEBUG", DOWNLOAD, "YOLO_CONFIG_DIR"]
    found = {name: os.environ[name] for name in names if name in os.environ}
    # One thread a process: trials share the machine, and each sets its own number when it starts.
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **found}


def keep_keys_out_of_logs() -> None:
    """Tune would send the keys of AWS in the runtime environment, which Ray writes to a log; see `_join_settings`."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(_STORAGE_KEYS)


def slots(ray: ModuleType, *, cpus: float, gpus: float, workers: int = 1) -> int:
    """How many holders of these resources fit the cluster at once; see `holders`.

    Raises:
        BackendError: not even one fits.
    """
    return holders(nodes_of(ray), Need(cpus, gpus, workers=workers))


def holders(nodes: Sequence[Node], need: Need) -> int:
    """How many trials run at once, each node and each card packed for itself.

    Raises:
        BackendError: not even one fits.
    """
    fits = fitting(nodes, need)
    if fits < 1:
        each = f"{need.cpus:g} CPUs{f', {need.gpus:g} GPUs' if need.gpus else ''}"
        each += f" and {need.memory / 1e9:.1f} GB" if need.memory else ""
        has = "; ".join(f"{n.cpus:g} CPUs, {n.gpus:g} GPUs, {n.memory / 1e9:.1f} GB" for n in nodes[:_MOST_SHOWN])
        group = (
            f"{need.workers} workers of {each} each, and {DRIVER_CPUS:g} CPU for itself" if need.workers > 1 else each
        )
        raise BackendError(
            f"A trial asks for {group}, but the nodes have: {has or 'nothing, for none is alive'}. Lower "
            "`resources.workers`, `cpus_per_worker` or `gpus_per_worker`."
        )
    return fits
