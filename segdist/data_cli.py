"""`segdist data ...`: what happens to data before a sweep. Everything heavy is imported by the command that needs it."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from segdist.errors import SegdistError

app = typer.Typer(help="Validate, merge, split, convert and look at annotated images.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Keeps `segdist data` a group whatever the number of its commands."""


@contextmanager
def told() -> Iterator[None]:
    """Turns a user's error into a message on stderr and exit code 2."""
    try:
        yield
    except SegdistError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None
