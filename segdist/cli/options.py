"""Options that several commands share, and how their errors reach a user."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from segdist.core.bounded_yaml import load_yaml
from segdist.core.errors import SegdistError, SpecError
from segdist.core.storage import default_folder
from segdist.core.terminal import say

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and what the workers print.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Storage = Annotated[
    str, typer.Option(envvar="SEGDIST_STORAGE", help="The storage folder of the sweep.", show_default="~/segdist")
]
Tracking = Annotated[str, typer.Option(help="MLflow tracking URI, or `embedded` for the storage folder's own.")]
Model = Annotated[
    str, typer.Argument(help="`NAME@champion`, `NAME@VERSION`, `SWEEP#TRIAL`, a run id, or a model folder.")
]
HOME_STORAGE = default_folder()


@contextmanager
def report_user_errors(*, debug: bool = False) -> Iterator[None]:
    """Turns a user's error into a message on stderr and exit code 2."""
    if debug:
        os.environ["SEGDIST_DEBUG"] = "1"
    try:
        with files_named():
            yield
    except SegdistError as error:
        show(error, debug=debug)
        raise typer.Exit(2) from None


@contextmanager
def files_named() -> Iterator[None]:
    """Turns the error of a path that is too long, closed to this user, or on a full disk into a user's.

    Raises:
        SegdistError: it names the file.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:  # no file is to blame: our own mistake
            raise
        raise SegdistError(
            f"`{error.filename}` cannot be used: {error.strerror}. Check the path, its permissions and the disk."
        ) from error


def show(error: SegdistError, *, debug: bool) -> None:
    """The message; with `debug` where it comes from, too."""
    if debug:
        say("".join(traceback.format_exception(error)), err=True)
    say(f"error: {error}", color="red", err=True)


def files_and_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """The sweep files among the words of a command line, and `key=value` or `~key`, which change their keys."""
    said = [word for word in words if "=" in word or word.startswith("~")]
    overrides = [word for word in said if not os.path.isfile(word)]  # noqa: PTH113 - `Path` raises for long words
    return [word for word in words if word not in overrides], overrides


def tile_size(text: str) -> int | str:
    """The side of tiles that `--tile` names.

    Raises:
        SpecError: it is neither a number of pixels nor `network`.
    """
    if text == "network":
        return text
    if not (text.isdecimal() and int(text)):
        raise SpecError(f"`--tile` takes a side in pixels or `network`, but got {text}.")
    return int(text)


def key_values(texts: list[str]) -> dict[str, object]:
    """`KEY=VALUE` arguments with YAML values, as in a sweep file.

    Raises:
        SpecError: an argument has no `=`, or a value is no YAML.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"An option must be written KEY=VALUE, but is `{text}`.")
        found[key] = load_yaml(value, f"The value of `{key}`", error=SpecError)
    return found
