"""Commands around dashboards. What is heavy is imported by the command that needs it."""

from pathlib import Path
from typing import Annotated

import typer

from segdist.cli.options import Debug, report_user_errors
from segdist.core.terminal import say

app = typer.Typer(no_args_is_help=True, help="Watch sweeps and clusters: Prometheus, Grafana, or a page.")


@app.command()
def up(
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_ADDRESS", metavar="HOST:PORT", help="The Ray cluster.", show_default="those of this machine"
        ),
    ] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of Prometheus.")] = 9090,
    grafana_port: Annotated[int, typer.Option(min=1, max=65535, help="Of Grafana, where it is installed.")] = 3000,
    folder: Annotated[
        str, typer.Option(help="Where what was measured is kept.", show_default="~/segdist/prometheus")
    ] = "",
    debug: Debug = False,
) -> None:
    """Start Prometheus with segdist's rules on the running cluster, and Grafana where it is installed; Ctrl-C ends it.

    Both listen on this machine only.
    """
    with report_user_errors(debug=debug):
        from segdist.pipeline.watching import watch

        watch(address=address, port=port, grafana_port=grafana_port, folder=folder)


@app.command()
def render(
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page to write.")],
    prometheus: Annotated[str, typer.Option(metavar="URL", help="Where Prometheus answers.")] = "http://127.0.0.1:9090",
    hours: Annotated[float, typer.Option(min=0.01, help="That are shown, up to now.")] = 1.0,
    sweep: Annotated[str, typer.Option(help="The sweep that is shown alone.", show_default="all")] = "",
    only: Annotated[
        list[str] | None, typer.Option(help="sweep, labelling, cluster or cost; repeatable.", show_default="all")
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw the dashboards as they are now, as one HTML page that needs no Grafana."""
    with report_user_errors(debug=debug):
        from segdist.commands.dashboards import render_dashboards

        render_dashboards(out, prometheus=prometheus, hours=hours, sweep=sweep, only=only or ())
        say(str(out))
