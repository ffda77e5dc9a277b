"""The command line: arguments to one call each. Everything heavy is imported by the command that needs it."""

import gc

import typer

from segdist.cli import dashboards, data, jobs, label, paligemma, ship, sweeps, weights
from segdist.core.terminal import guard_logs, guard_warnings

app = typer.Typer(
    name="segdist",
    help="Images and a question in, the best fine-tuned segmentation model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sweeps.app)
app.add_typer(jobs.app)
app.add_typer(ship.app)
app.add_typer(data.app, name="data")
app.add_typer(dashboards.app, name="dashboards")
app.add_typer(label.app, name="label")
app.add_typer(paligemma.app, name="paligemma")
app.add_typer(weights.app, name="weights")


def main() -> None:
    """The console script."""
    gc.set_threshold(100_000, 50, 100)  # what is imported stays: to search it is a tenth of a short command
    guard_logs()
    guard_warnings()
    app()
