"""The job server of a Ray cluster: found and let in by its token, with errors that name the fix."""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from segdist.core.environment import variables
from segdist.core.errors import BackendError, SpecError, did_you_mean
from segdist.core.redaction import holds_credentials
from segdist.pipeline.cluster import check_reachable, wrong_token
from segdist.pipeline.own_cluster import environment

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ENDS = ("SUCCEEDED", "FAILED", "STOPPED")
"""States in which a job stays."""
SWEEPS = "segdist.sweeps"
"""In a job's metadata, the names of its sweeps."""
_PORTS = {"http": 80, "https": 443}
_SECONDS = 10
_STARTING_SECONDS = 30
_NO_AGENT = "No available agent"
"""Says a cluster that has just started, and one whose agent did not get its port (`--dashboard-agent-listen-port`)."""
_RAYS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\tINFO job_manager|Running entrypoint for job |$")
_LOGS = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
"""Of Ray's: which packages it made, which connections it closed."""
_ADDRESSES = {"RAY_ADDRESS": "", "RAY_API_SERVER_ADDRESS": ""}
"""Ray prefers these to the address that it is given."""


@dataclass(frozen=True)
class Job:
    """What the server says of a job.

    Attributes:
        name: its submission id.
        state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        sweeps: their names; for one that was submitted by other means, its command.
        started: seconds since 1970; 0 where it has not.
        ended: the same.
        message: Ray's words about the state.
        exit_code: of its driver; None where there is none yet.
        stop_seconds: that Ray gives it to save when it is stopped.
    """

    name: str
    state: str
    sweeps: str
    started: float
    ended: float
    message: str
    exit_code: int | None
    stop_seconds: int

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in ENDS

    @property
    def seconds(self) -> float:
        """That it took, or has taken so far."""
        return (self.ended or time.time()) - self.started if self.started else 0.0

    def as_dict(self) -> dict[str, object]:
        """The same as plain JSON values."""
        return asdict(self)


class JobServer:
    """Submits, lists, follows and stops jobs.

    Args:
        client: Ray's, connected.
        address: for messages.
    """

    def __init__(self, client: "JobSubmissionClient", address: str) -> None:
        self._client, self.address = client, address

    def submit(self, entrypoint: str, folder: Path, values: Mapping[str, str], metadata: Mapping[str, str]) -> str:
        """Start a job in a copy of a folder; its submission id.

        Args:
            entrypoint: a shell's command line.
            folder: that is copied to the cluster.
            values: environment variables, which everybody who reaches the cluster can read.
            metadata: to find it by.
        """
        runtime_env = {"working_dir": str(folder), "env_vars": dict(values)}
        deadline = time.monotonic() + _STARTING_SECONDS
        while True:
            try:
                with self._asking():
                    return str(
                        self._client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, metadata=dict(metadata))
                    )
            except BackendError as error:
                if _NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def jobs(self) -> list[Job]:
        """All that were submitted, the latest last."""
        with self._asking():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or float("inf"))

    def job(self, name: str = "") -> Job:
        """One job by its id; without one the latest.

        Raises:
            SpecError: there is none.
        """
        jobs = self.jobs()
        if not jobs:
            raise SpecError(f"No job was submitted to {self.address} yet.")
        found = {job.name: job for job in jobs}
        if name and name not in found:
            raise SpecError(f"There is no job {name} at {self.address}. {did_you_mean(name, found)}")
        return found[name] if name else jobs[-1]

    def logs(self, name: str) -> str:
        """What a job's driver has printed so far."""
        with self._asking():
            return "\n".join(filter(_is_the_drivers, str(self._client.get_job_logs(name)).splitlines()))

    def follow(self, name: str, show: Callable[[str], None]) -> None:
        """Hand over each line that a job's driver prints, those it has printed already too, until it ends."""

        async def read() -> None:
            rest = ""
            async for text in self._client.tail_job_logs(name):
                *lines, rest = (rest + text).split("\n")
                for line in filter(_is_the_drivers, lines):
                    show(line)
            if _is_the_drivers(rest):
                show(rest)

        with self._asking():
            asyncio.run(read())

    def stop(self, name: str) -> bool:
        """Ask a job to stop; whether it was running."""
        with self._asking():
            return bool(self._client.stop_job(name))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Errors of the server's name it, and the fix."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise BackendError(wrong_token(self.address)) from error
        except (RuntimeError, OSError) as error:  # requests' are OSErrors; Ray's are RuntimeErrors with a traceback
            said = [line for line in str(error).strip().splitlines() if line.strip()]
            reason = said[-1] if said else repr(error)
            raise BackendError(f"The job server at {self.address} does not do it: {reason}") from error


@contextmanager
def job_server(address: str) -> Iterator[JobServer]:
    """The server at an address: `http://HOST:8265`, or that of the cluster itself, `HOST:6379`.

    Raises:
        SpecError: no address is given.
        BackendError: nobody answers, or it refuses us.
    """
    if not address:
        raise SpecError("Name the cluster: --address http://HOST:8265, or RAY_ADDRESS in the environment.")
    if holds_credentials(address):
        raise SpecError("--address must hold no password or token: set RAY_AUTH_TOKEN in the environment instead.")
    place = urlsplit(address)
    if place.scheme not in ("http", "https"):
        with environment(check_reachable(address)):
            page = _page_of(address)
        with job_server(page) as server:
            yield server
        return
    try:
        socket.create_connection((place.hostname or "", place.port or _PORTS[place.scheme]), _SECONDS).close()
    except (OSError, ValueError) as error:
        raise BackendError(_no_server(address, str(error))) from error
    with _let_in(address) as client:
        yield JobServer(client, address)


@contextmanager
def _let_in(address: str) -> Iterator["JobSubmissionClient"]:
    """Show a token only to who asks for one: a client shows its own where `RAY_AUTH_MODE` says so.

    Raises:
        BackendError: it is none, or a wrong one.
    """
    from ray.exceptions import AuthenticationError

    try:
        client = _client(address)
    except AuthenticationError:
        client = None
    if client:
        yield client
        return
    if "RAY_AUTH_MODE" in os.environ:
        raise BackendError(wrong_token(address))
    with environment({"RAY_AUTH_MODE": "token"}):
        try:
            client = _client(address)
        except AuthenticationError as error:
            raise BackendError(wrong_token(address)) from error
        yield client


def _page_of(address: str) -> str:
    """Where the job server of a cluster is, which its control store knows."""
    import ray
    from ray._private import ray_constants
    from ray.exceptions import RaySystemError, RpcError

    try:
        store = ray._raylet.GcsClient(address=address)
        found = store.internal_kv_get(
            ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD, timeout=_SECONDS
        )
    except (RpcError, RaySystemError, ValueError) as error:
        raise BackendError(_no_server(address, str(error))) from error
    if not found:
        raise BackendError(_no_server(address, "the cluster was started with --include-dashboard false"))
    return f"http://{found.decode()}"


def _client(address: str) -> "JobSubmissionClient":
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not os.environ.get("SEGDIST_DEBUG"):
        for name in _LOGS:
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    try:
        with variables(_ADDRESSES):
            return JobSubmissionClient(address)
    except AuthenticationError:
        raise
    except (RuntimeError, OSError, ValueError, TypeError, KeyError) as error:  # also what is no job server
        raise BackendError(_no_server(address, str(error))) from error


def _is_the_drivers(line: str) -> bool:
    """Whether a line of a job's log is none of Ray's own about its start."""
    return not _RAYS.match(line)


def _no_server(address: str, reason: str) -> str:
    return (
        f"No job server of Ray answers at {address}: {reason.splitlines()[0] if reason else 'nothing came back'}\n"
        "It listens on the head's port 8265; from outside, open a tunnel (`ray dashboard`, `kubectl port-forward` or "
        "`ssh -L 8265:127.0.0.1:8265 HEAD`) and name http://127.0.0.1:8265."
    )


def _job(details: "JobDetails") -> Job:
    values = (details.runtime_env or {}).get("env_vars") or {}
    seconds = str(values.get("RAY_JOB_STOP_WAIT_TIME_S", ""))
    return Job(
        name=str(details.submission_id),
        state=str(getattr(details.status, "value", details.status)),
        sweeps=(details.metadata or {}).get(SWEEPS) or str(details.entrypoint),
        started=(details.start_time or 0) / 1000,
        ended=(details.end_time or 0) / 1000,
        message=str(details.message or ""),
        exit_code=details.driver_exit_code,
        stop_seconds=int(seconds) if seconds.isdigit() else 3,
    )
