"""Options that several commands share, and how their errors and their end reach a user."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from segdist.core.bounded_yaml import load_yaml
from segdist.core.causes import cause_of
from segdist.core.errors import SegdistError, SpecError, did_you_mean
from segdist.core.interruption import Interrupted, Stops, interruptible
from segdist.core.provenance import command_line
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
def report_user_errors(*, debug: bool = False) -> Iterator[Stops]:
    """Turns a user's error into a message on stderr and exit code 2; a stop into one and the code of its signal."""
    if debug:
        os.environ["SEGDIST_DEBUG"] = "1"
    stops = Stops()
    try:
        with interruptible(stops), files_named():
            yield stops
    except SegdistError as error:
        show(error, debug=debug)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Interrupted) else Interrupted()
        if debug:
            say("".join(traceback.format_exception(error)), err=True)
        said = [*getattr(error, "__notes__", ()), "Run the same command again to go on:"]
        say(f"{stop}. {' '.join(said)}\n  {command_line(['segdist', *sys.argv[1:]])}", err=True)
        raise typer.Exit(stop.exit_code) from None


@contextmanager
def files_named() -> Iterator[None]:
    """Turns what the machine does not give into a user's error: a path closed to this user, and what `causes` knows.

    Raises:
        SegdistError: it names the file, where one is known.
    """
    try:
        yield
    except SegdistError:
        raise
    except Exception as error:
        found = cause_of(error)
        if isinstance(error, OSError) and error.filename is not None:
            fix = found or f"{error.strerror}. Check the path, its permissions and the disk."
            raise SegdistError(f"`{error.filename}` cannot be used: {fix}") from error
        if found:
            raise SegdistError(f"{found} {_DONE_IS_KEPT}") from error
        if not isinstance(error, OSError) or error.errno is None:  # no file, no system call: our own mistake
            raise
        refused = f"The system refused: {error.strerror or error}. Check the disk of the storage and its mount."
        raise SegdistError(f"{refused} {_DONE_IS_KEPT}") from error


_DONE_IS_KEPT = "What is done is kept: run the same command again."


def show(error: SegdistError, *, debug: bool) -> None:
    """The message; with `debug` where it comes from, too."""
    if debug:
        say("".join(traceback.format_exception(error)), err=True)
    say(f"error: {error}", color="red", err=True)


def files_and_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """The sweep files among the words of a command line, and `key=value` or `~key`, which change keys."""
    said = [word for word in words if "=" in word or word.startswith("~") or ":~" in word]
    overrides = [word for word in said if not os.path.isfile(word)]  # noqa: PTH113 - `Path` raises for long words
    return [word for word in words if word not in overrides], overrides


def overrides_by_file(words: list[str]) -> list[tuple[str, list[str]]]:
    """The sweep files of a command line in order, each with its overrides: those of all files, then its own.

    `FILE:KEY=VALUE` is for one of them, named by its path, its name, or its name without suffix.

    Raises:
        SpecError: an override names no file, or one of several.
    """
    files, overrides = files_and_overrides(words)
    owned = [_owned(word, files) for word in overrides]
    shared = [change for owner, change in owned if not owner]
    return [(file, shared + [change for owner, change in owned if owner == file]) for file in files]


def _owned(word: str, files: list[str]) -> tuple[str, str]:
    """The file that an override is for alone, or "" for all of them; and the override.

    Raises:
        SpecError: that is no file of the command line, or more than one.
    """
    for name_of in (str, lambda file: Path(file).name, lambda file: Path(file).stem):
        owners = sorted({file for file in files if word.startswith(f"{name_of(file)}:")})
        if len(owners) > 1:
            raise SpecError(f"`{word}` must be for one file, but is for {' and '.join(owners)}: write its whole path.")
        if owners:
            return owners[0], word.removeprefix(f"{name_of(owners[0])}:")
    name, colon, _ = word.partition("=")[0].rpartition(":")
    if colon:
        known = did_you_mean(name, {Path(file).name for file in files})
        raise SpecError(f"`{word}` is for `{name}`, which is no sweep file of this command. {known}")
    return "", word


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
