"""`segdist weights ...`: published weights. What is heavy is imported by the command that needs it."""

import sys
from typing import Annotated

import typer

from segdist.cli.options import Debug, Json, report_user_errors
from segdist.core.errors import SpecError
from segdist.core.terminal import say, say_json

app = typer.Typer(help="Published weights: what there is for each family, and fetching it.", no_args_is_help=True)


@app.command("list")
def list_weights(as_json: Json = False) -> None:
    """List published weights: names, sizes, licences, where they come from, which are here."""
    from segdist.commands.weights import known, print_known

    with report_user_errors(debug=False):
        if as_json:
            say_json([one.to_json() for one in known()])
        else:
            print_known()


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="As in `segdist weights list`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    debug: Debug = False,
) -> None:
    """Fetch published weights into the cache folder, after asking; then a sweep file finds them by their name.

    Run again, it goes on with what is missing.
    """
    from segdist.commands.weights import fetch, find

    with report_user_errors(debug=debug):
        asked = find(name)
        if not asked.is_here:
            say(asked.about)
            _agree(name, yes=yes)
        say(str(fetch(asked)))
        say(f"In a sweep file:  {asked.written}")


def _agree(name: str, *, yes: bool) -> None:
    """Ask whether to fetch.

    Raises:
        SpecError: nobody can be asked.
        Exit: the answer is no.
    """
    if yes:
        return
    if not _is_terminal():
        raise SpecError(f"`segdist weights get` asks first, and here is no terminal: segdist weights get {name} --yes")
    if not typer.confirm("Fetch it?"):
        say("Nothing was fetched.")
        raise typer.Exit(1)


def _is_terminal() -> bool:
    return sys.stdin.isatty()
