"""Commands about a cluster's jobs."""

import json
import time
from typing import Annotated

import typer

from segdist.cli.options import Debug, Json, overrides_by_file, report_user_errors
from segdist.core.errors import SpecError
from segdist.core.provenance import command_line
from segdist.core.terminal import Console, Table, say, say_json
from segdist.core.text import minutes

app = typer.Typer()

Address = Annotated[
    str,
    typer.Option(
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="The cluster's job server, http://HOST:8265; or HOST:6379 from inside its network.",
        show_default=False,
    ),
]
Job = Annotated[str, typer.Argument(help="A job's name, as `segdist status` shows it.")]
Sweeps = Annotated[list[str], typer.Argument(metavar="SWEEP... [[SWEEP:]KEY=VALUE...]", help="As for `segdist run`.")]
_STOPPED = 143
_NOT_WATCHED = 130


@app.command()
def submit(
    sweeps: Sweeps,
    address: Address = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is submitted, instead of watching.")] = False,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Do not look first for what the sweeps need.")] = False,
    debug: Debug = False,
) -> None:
    """Run sweep files on a cluster: pack what they name, check it from there, submit, and watch."""
    from segdist.pipeline.submission import submit as submitted

    with report_user_errors(debug=debug):
        typed = command_line(["segdist", "submit", *sweeps, "--address", address])
        job = submitted(_asked(sweeps), address, typed=typed, is_detached=detach, is_checked=not unchecked)
    if not detach:
        _exit(job.state)


@app.command()
def status(address: Address = "", as_json: Json = False, debug: Debug = False) -> None:
    """List the jobs of a cluster, the latest last."""
    from segdist.pipeline.submission import status as listed

    with report_user_errors(debug=debug):
        jobs = listed(address)
        if as_json:
            say_json([job.as_dict() for job in jobs])
            return
        if not jobs:
            say(f"No sweep was submitted to {address} yet.")
            return
        table = Table("job", "state", "sweeps", "began", "took")
        for job in jobs:
            began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else ""
            table.add_row(job.name, job.state.lower(), job.sweeps, began, minutes(job.seconds))
        Console().print(table)


@app.command()
def logs(
    job: Job = "",
    address: Address = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    debug: Debug = False,
) -> None:
    """Print what a job has said, the latest one by default."""
    from segdist.pipeline.submission import logs as printed

    with report_user_errors(debug=debug):
        found = printed(address, job, is_followed=follow)
    if follow:
        _exit(found.state)


@app.command()
def stop(job: Job = "", address: Address = "", debug: Debug = False) -> None:
    """Have a job save its trials and end; `segdist submit` of the same goes on, there or elsewhere."""
    from segdist.pipeline.submission import stop as stopped

    with report_user_errors(debug=debug):
        found = stopped(address, job)
        say(f"{found.name} {found.state.lower()}")


@app.command()
def preflight(
    sweeps: Sweeps,
    wanted: Annotated[str, typer.Option(hidden=True, help="Versions that the nodes must have, as JSON.")] = "{}",
    debug: Debug = False,
) -> None:
    """Look at all that sweeps need on the cluster in RAY_ADDRESS, from its nodes; `segdist submit` does so first."""
    from segdist.pipeline.preflight import check_from_cluster

    with report_user_errors(debug=debug):
        try:
            versions = dict(json.loads(wanted))
        except (ValueError, TypeError) as error:
            raise SpecError(f"--wanted must be a mapping in JSON, but: {error}") from None
        check_from_cluster(_asked(sweeps), versions)


def _asked(sweeps: list[str]) -> list[tuple[str, list[str]]]:
    asked = overrides_by_file(sweeps)
    if not asked:
        raise SpecError(f"A sweep file must be named, e.g. sweeps/quickstart.yaml, but got {' '.join(sweeps)}")
    return asked


def _exit(state: str) -> None:
    """The code of a job that was watched: of one that was stopped, and of one that goes on."""
    if state != "SUCCEEDED":
        raise typer.Exit(_STOPPED if state == "STOPPED" else _NOT_WATCHED)
