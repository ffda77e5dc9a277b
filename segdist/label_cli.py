"""`segdist label ...`: boxes to masks, and people's say in them. What is heavy is imported by the command."""

import json
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from segdist.data_cli import told
from segdist.errors import SpecError

Sweep = Annotated[
    list[str], typer.Argument(metavar="SWEEP [KEY=VALUE...]", help="A sweep file, then overrides of its keys.")
]
Limit = Annotated[int, typer.Option(min=0, help="The first images only, as a set of its own; 0 for all.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


class _MakeByDefault(TyperGroup):
    """`segdist label SWEEP` means `segdist label make SWEEP`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["make", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_MakeByDefault, help="Label a sweep's boxes (segdist label SWEEP), and review the labels.", no_args_is_help=True
)


@app.command()
def make(sweep: Sweep, limit: Limit = 0) -> None:
    """Label what a sweep names, and stop there; run again to go on where it stopped. `make` may be left out."""
    from segdist.pipeline.label_sets import label_sweep

    with told():
        file, overrides = file_and_overrides(sweep)
        sets = label_sweep(file, overrides, typer.echo, limit=limit)
        _show(sets, as_json=False)


@app.command()
def report(sweep: Sweep, limit: Limit = 0, as_json: Json = False) -> None:
    """How good the labels of a sweep are: per class and strategy, with their scores' calibration."""
    from segdist.pipeline.label_sets import find_label_sets

    with told():
        file, overrides = file_and_overrides(sweep)
        _, sets = find_label_sets(file, overrides, limit=limit)
        _show(sets, as_json=as_json)


def file_and_overrides(words: list[str]) -> tuple[str, list[str]]:
    """One sweep file among the words of a command line, and the overrides of its keys.

    Raises:
        SpecError: there is none, or more than one.
    """
    files = [word for word in words if "=" not in word]
    if len(files) != 1:
        raise SpecError(f"One sweep file must be named, e.g. sweeps/quickstart.yaml, but got {len(files)}: {files}")
    return files[0], [word for word in words if "=" in word]


def _show(sets: Any, *, as_json: bool) -> None:
    from segdist.report.labels import label_report, print_label_reports

    reports = [
        label_report(one.policy.title, one.policy.values, one.labels.uri, one.labels.manifest.model_dump(mode="json"))
        for one in sets
    ]
    if as_json:
        typer.echo(json.dumps(reports, indent=1, allow_nan=False))
    else:
        print_label_reports(reports)
