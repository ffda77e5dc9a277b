"""`segdist data ...`: what happens to data before a sweep. What is heavy is imported by the command that needs it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
import yaml

from segdist.errors import SegdistError, SpecError

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


@app.command()
def convert(
    path: Annotated[str, typer.Argument(help="A folder, file or archive, local or s3://, or a segdist data set.")],
    to: Annotated[str, typer.Option(help="The format to write: coco, hf_objects, paligemma, png_masks, yolo, ...")],
    out: Annotated[str, typer.Option("-o", "--out", help="A folder or s3:// prefix that is not there yet.")],
    format_name: Annotated[str, typer.Option("--format", help="The format of PATH, where it does not show.")] = "",
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the format read.")] = None,
    write: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the writer.")] = None,
    skip_errors: Annotated[bool, typer.Option("--skip-errors", help="Leave out what is wrong; it is counted.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not read the result back and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write a data set in another format; what the format cannot hold is counted, named and measured."""
    from segdist.data.convert import convert as run
    from segdist.data.convert import summary_text

    with told():
        result = run(
            path,
            out,
            to=to,
            format_name=format_name,
            read_options=key_values(option or []),
            write_options=key_values(write or []),
            skip_errors=skip_errors,
            verify=not no_verify,
        )
        typer.echo(json.dumps(result, indent=1) if as_json else summary_text(result))


def key_values(texts: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` arguments with YAML values, as in a sweep file.

    Raises:
        SpecError: an argument has no `=`, or a value is no YAML.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"An option must be written KEY=VALUE, but is `{text}`.")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(f"The value of `{key}` must be YAML, but is `{value}`. Quote it.") from error
    return found
