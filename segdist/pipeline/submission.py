"""Sweeps as jobs of a Ray cluster: packed, checked from there, submitted, watched, stopped."""

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from segdist.commands.parcel import Parcel, parcel_of
from segdist.core.errors import BackendError, SpecError
from segdist.core.provenance import TYPED, installed
from segdist.core.registry import distributions
from segdist.core.terminal import say
from segdist.pipeline.following import Watch
from segdist.pipeline.job_server import SWEEPS, Job, JobServer, job_server

STOP_SECONDS = 120
"""That a job has to save its trials before Ray ends it."""
_PREFLIGHT = "segdist.preflight"
_POLL_SECONDS = 1.0
_NOT_FOUND = 127
"""What a shell says of a program that is not there."""
_MOST_FAILURES = 8
"""Times in a row that the connection may break: half a minute."""
_LAST_LINES = 4
_SAID_ABOVE = "What it said stands above."


def submit(
    asked: Sequence[tuple[str, Sequence[str]]], address: str, *, typed: str, is_detached: bool, is_checked: bool
) -> Job:
    """Run sweeps on a cluster as `segdist run` does here; the job as it is when this returns.

    Args:
        asked: sweep files, each with its overrides.
        address: of the job server, or of the cluster.
        typed: the command that does this, which the job tells who has to go on with it.
        is_detached: whether to return once it is submitted, instead of showing what it says until it ends.
        is_checked: whether to look first, from the cluster, for all that the sweeps need.

    Raises:
        SegdistError: something a user can fix; nothing was started, unless it says so.
    """
    parcel = parcel_of(asked)
    values = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), TYPED: typed, **parcel.variables}
    say(f"parcel    {parcel}")
    with job_server(address) as server, TemporaryDirectory(prefix="segdist-") as folder:
        parcel.write(Path(folder))
        if is_checked:
            _check(server, parcel, Path(folder), values)
        name = server.submit(_line("run", *parcel.words), Path(folder), values, {SWEEPS: ", ".join(parcel.names)})
        say(f"job       {name}: {', '.join(parcel.names)}")
        if is_detached:
            say(_further(name, address))
            return server.job(name)
        return _watched(server, name)


def status(address: str) -> list[Job]:
    """The jobs of a cluster, the latest last."""
    with job_server(address) as server:
        return _of_sweeps(server)


def logs(address: str, name: str, *, is_followed: bool) -> Job:
    """Print what a job says, the latest by default; the job."""
    with job_server(address) as server:
        job = server.job(name) if name else _latest(server)
        if is_followed and not job.has_ended:
            return _watched(server, job.name)
        for line in server.logs(job.name).splitlines():
            say(line)
        return job


def stop(address: str, name: str) -> Job:
    """Have a job save its trials and end, and wait for that; without a name the one that runs.

    Raises:
        SpecError: none runs, or several do.
        BackendError: it did not end.
    """
    with job_server(address) as server:
        job = server.job(name) if name else _running(server)
        if job.has_ended:
            raise SpecError(f"The job {job.name} has ended already: {job.state}.")
        if job.stop_seconds < STOP_SECONDS:
            say(
                f"warning   Ray gives this job {job.stop_seconds} s to save, for it was submitted without "
                f"RAY_JOB_STOP_WAIT_TIME_S={STOP_SECONDS}: what came after the last checkpoints may be lost",
                err=True,
            )
        server.stop(job.name)
        deadline = time.monotonic() + job.stop_seconds + STOP_SECONDS
        while not (job := server.job(job.name)).has_ended:
            if time.monotonic() > deadline:
                raise BackendError(f"The job {job.name} was asked to stop, but is still {job.state}. Ask again.")
            time.sleep(_POLL_SECONDS)
        for line in server.logs(job.name).rstrip().splitlines()[-_LAST_LINES:]:
            say(line)
        return job


def _check(server: JobServer, parcel: Parcel, folder: Path, values: Mapping[str, str]) -> None:
    """Run `segdist preflight` as a job of its own.

    Raises:
        BackendError: the cluster is not fit for the sweeps.
    """
    versions = installed(distributions())
    wanted = {what: has for what, has in versions.items() if what not in ("python", "ray", "torch", "mlflow")}
    line = _line("preflight", *parcel.words, "--wanted", json.dumps(wanted))
    name = server.submit(line, folder, values, {SWEEPS: _PREFLIGHT})
    said: list[str] = []
    say(f"checking  from the cluster, in job {name}")

    def show(text: str) -> None:
        said.append(text)
        if not any(one.startswith("error:") for one in said):
            say(text)

    job = _ended(server, name, show)
    if job.state == "SUCCEEDED":
        return
    fit = next((number for number, text in enumerate(said) if text.startswith("error:")), None)
    if fit is not None and "No such command" not in said[fit]:
        raise BackendError("\n".join([said[fit].removeprefix("error: "), *said[fit + 1 :], "Nothing was started."]))
    reason = "segdist is not installed on its head, or not on the PATH of Ray's processes"
    if job.exit_code not in (_NOT_FOUND, None):
        reason = f"the check ended with {job.exit_code}; segdist there may be of another version"
    text = "\n".join([*said[-8:], job.message.strip().splitlines()[0] if job.message else ""])
    raise BackendError(f"The cluster could not be checked: {reason}. Nothing was started. It said:\n{text}".rstrip())


def _watched(server: JobServer, name: str) -> Job:
    """Show what a job says until it ends; the job. Ctrl-C leaves it alone.

    Raises:
        BackendError: it failed.
    """
    try:
        with Watch() as watch:
            job = _ended(server, name, watch.line)
    except KeyboardInterrupt:
        say(f"The job goes on without being watched.\n{_further(name, server.address)}", err=True)
        return server.job(name)
    if job.state == "FAILED":
        why = "Ray ended it" if job.exit_code is None else f"it ended with code {job.exit_code}"
        said = "\n".join(job.message.strip().splitlines()[:_LAST_LINES]) if job.exit_code is None else _SAID_ABOVE
        raise BackendError(f"The job {name} failed: {why}. {said}\nThe same command goes on with what is done.")
    return job


class _New:
    """Shows what was not shown yet of a log that is read from its beginning again."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._shown, self._read = show, 0, 0

    def begin(self) -> None:
        """The log begins."""
        self._read = 0

    def line(self, text: str) -> None:
        """It goes on."""
        self._read += 1
        if self._read > self._shown:
            self._shown = self._read
            self._show(text)


def _ended(server: JobServer, name: str, show: Callable[[str], None]) -> Job:
    """Follow a job to its end, over connections that break.

    Raises:
        BackendError: the server stays away.
    """
    new, failures = _New(show), 0
    while True:
        new.begin()
        try:
            server.follow(name, new.line)
            job = server.job(name)
        except BackendError:
            failures += 1
            if failures > _MOST_FAILURES:
                raise
            time.sleep(_POLL_SECONDS * failures)
            continue
        failures = 0
        if job.has_ended:
            return job
        time.sleep(_POLL_SECONDS)  # its log is closed a moment before its state is written


def _of_sweeps(server: JobServer) -> list[Job]:
    """The jobs that are no checks, the latest last."""
    return [job for job in server.jobs() if job.sweeps != _PREFLIGHT]


def _latest(server: JobServer) -> Job:
    """The latest job that is no check.

    Raises:
        SpecError: there is none.
    """
    jobs = _of_sweeps(server)
    if not jobs:
        raise SpecError(f"No sweep was submitted to {server.address} yet.")
    return jobs[-1]


def _running(server: JobServer) -> Job:
    """The one job that has not ended.

    Raises:
        SpecError: there is none, or there are several.
    """
    jobs = [job for job in _of_sweeps(server) if not job.has_ended]
    if not jobs:
        raise SpecError(f"No job runs at {server.address}.")
    if len(jobs) > 1:
        raise SpecError(f"Name the job to stop, for {len(jobs)} run: {', '.join(job.name for job in jobs)}.")
    return jobs[0]


def _line(*words: str) -> str:
    return shlex.join(["segdist", *words])


def _further(name: str, address: str) -> str:
    where = f"{name} --address {address}"
    return f"watch     segdist logs --follow {where}\nstop      segdist stop {where}"
