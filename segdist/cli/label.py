"""`segdist label ...`: boxes to masks, and people's say in them. What is heavy is imported by the command."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from segdist.cli.options import Json, files_and_overrides, report_user_errors
from segdist.core.errors import SpecError
from segdist.core.terminal import say, say_json
from segdist.core.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segdist.core.records import Verdict
    from segdist.pipeline.label_sets import LabelSet

Sweep = Annotated[
    list[str], typer.Argument(metavar="SWEEP [KEY=VALUE...]", help="A sweep file, then overrides of its keys.")
]
Limit = Annotated[int, typer.Option(min=0, help="The first images only, as a set of its own; 0 for all.")]


class _MakeByDefault(TyperGroup):
    """`segdist label SWEEP` means `segdist label make SWEEP`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["make", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_MakeByDefault, help="Label a sweep's boxes (segdist label SWEEP), and review the labels.", no_args_is_help=True
)

review_app = typer.Typer(help="Export labels for review, and import the corrections.", no_args_is_help=True)
app.add_typer(review_app, name="review")


@app.command()
def make(sweep: Sweep, limit: Limit = 0) -> None:
    """Label what a sweep names, and stop there; run again to go on where it stopped. `make` may be left out."""
    from segdist.pipeline.label_sets import label_sweep

    with report_user_errors():
        file, overrides = file_and_overrides(sweep)
        sets = label_sweep(file, overrides, say, limit=limit)
        _show(sets, sweep, limit, as_json=False)


@app.command()
def report(sweep: Sweep, limit: Limit = 0, as_json: Json = False) -> None:
    """How good the labels of a sweep are: per class and strategy, with their scores' calibration."""
    from segdist.pipeline.label_sets import find_label_sets

    with report_user_errors():
        file, overrides = file_and_overrides(sweep)
        _, sets = find_label_sets(file, overrides, limit=limit)
        _show(sets, sweep, limit, as_json=as_json)


@review_app.command("export")
def export_(
    sweep: Sweep,
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder that is not there yet.")],
    verdict: Annotated[
        list[str] | None, typer.Option(help="review, reject or accept; may be repeated.", show_default="review")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Labels at most.")] = 1000,
    policy: Annotated[int, typer.Option(min=1, help="The n-th of several searched policies.")] = 1,
    teach: Annotated[
        bool, typer.Option("--teach", help="Of the images that `label report` names, what would teach most.")
    ] = False,
    limit: Limit = 0,
) -> None:
    """Write what waits for a person, the most rewarding first: COCO, CVAT, Label Studio, and a gallery."""
    from segdist.pipeline.review import export_review

    with report_user_errors():
        file, overrides = file_and_overrides(sweep)
        doubts = export_review(
            file,
            overrides,
            out,
            verdicts=_verdicts(verdict or (["review", "reject", "accept"] if teach else ["review"])),
            most=most,
            policy=policy,
            limit=limit,
            teach=teach,
        )
        images = len({d.image_id for d in doubts})
        say(
            f"{counted(len(doubts), 'label')} in {counted(images, 'image')}: {out}/index.html; "
            f"coco.json, cvat.xml, label_studio.json"
        )


@review_app.command("import")
def import_(
    sweep: Sweep,
    file: Annotated[Path, typer.Option(help="COCO or Label Studio JSON, or CVAT XML.")],
    queue: Annotated[Path | None, typer.Option(help="queue.json of the export.", show_default="beside FILE")] = None,
    removed_means_nothing: Annotated[
        bool, typer.Option("--removed-means-nothing", help="Objects missing from an image of FILE do not exist.")
    ] = False,
    only_changed: Annotated[
        bool, typer.Option("--only-changed", help="Masks that are as proposed were not reviewed.")
    ] = False,
) -> None:
    """Take corrected masks back; they win over every teacher, in every label policy of these data."""
    from segdist.pipeline.review import import_review

    with report_user_errors():
        sweep_file, overrides = file_and_overrides(sweep)
        found = import_review(
            sweep_file,
            overrides,
            file,
            queue_file=queue,
            removed_means_nothing=removed_means_nothing,
            only_changed=only_changed,
        )
        say(
            f"{found.corrected} corrected, {found.confirmed} confirmed, {found.nothing} not there, "
            f"{found.unchanged + found.undecided} undecided"
        )
        for one in found.first_skipped:
            say(f"passed over: {one}")
        if found.corrections.of_image:
            say(
                f"They count from now on: {shlex.join(['segdist', 'label', *sweep])}, or `segdist run`. Where they "
                "decide who labels (`label.policy: auto`) or students learn them (`label.rounds`), all labels are made "
                "anew."
            )


def _verdicts(names: list[str]) -> "list[Verdict]":
    from segdist.core.records import Verdict

    wrong = sorted(set(names) - set(Verdict))
    if wrong:
        raise SpecError(f"`--verdict` must be one of {', '.join(Verdict)}, but got {', '.join(wrong)}")
    return [Verdict(name) for name in names]


def file_and_overrides(words: list[str]) -> tuple[str, list[str]]:
    """One sweep file among the words of a command line, and the overrides of its keys.

    Raises:
        SpecError: there is none, or more than one.
    """
    files, overrides = files_and_overrides(words)
    if len(files) != 1:
        raise SpecError(f"One sweep file must be named, e.g. sweeps/quickstart.yaml, but got {len(files)}: {files}")
    return files[0], overrides


def _show(sets: "Sequence[LabelSet]", sweep: list[str], limit: int, *, as_json: bool) -> None:
    from segdist.labelling.lessons import lessons
    from segdist.pages.labels import label_report, print_label_reports

    reports = [
        label_report(one.policy.title, one.policy.values, one.labels.uri, one.labels.manifest.model_dump(mode="json"))
        | {
            "lessons": [asdict(lesson) for lesson in lessons(one.labels.samples())],
            "look": _look(sweep, number if len(sets) > 1 else 0, limit),
        }
        for number, one in enumerate(sets, start=1)
    ]
    if as_json:
        say_json(reports)
    else:
        print_label_reports(reports)


def _look(sweep: list[str], policy: int, limit: int) -> str:
    """The command that makes a page of labels beside their images."""
    options = ["--verdict", "accept", "--most", "60", "-o", "look/"]
    options += ["--policy", str(policy)] if policy else []
    options += ["--limit", str(limit)] if limit else []
    return shlex.join(["segdist", "label", "review", "export", *sweep, *options])
