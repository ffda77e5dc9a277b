"""Commands that take sweep files, and those that score and compare. What is heavy is imported by the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from segdist.cli.options import (
    HOME_STORAGE,
    Debug,
    Json,
    Storage,
    Tracking,
    files_named,
    overrides_by_file,
    report_user_errors,
    show,
    tile_size,
)
from segdist.core import renamed_keys
from segdist.core.errors import DataError, SegdistError, SpecError, WeightsError
from segdist.core.provenance import command_line
from segdist.core.terminal import say, say_json

app = typer.Typer()

Sweeps = Annotated[
    list[str],
    typer.Argument(
        metavar="SWEEP... [[SWEEP:]KEY=VALUE...]",
        help="Sweep files, then overrides of their keys, of one file's as a.yaml:search.trials=2; ~KEY removes it.",
    ),
]


@app.command()
def run(sweeps: Sweeps, debug: Debug = False) -> None:
    """Label, search, evaluate and report; run again to go on where it stopped."""

    def action(file: str, overrides: list[str]) -> None:
        from segdist.pipeline.run import run_sweep

        run_sweep(file, overrides)

    _each(sweeps, action, again="run", debug=debug)


@app.command()
def check(sweeps: Sweeps, debug: Debug = False) -> None:
    """Check sweep files and show their plan, with what is missing of their data; nothing is started."""

    def action(file: str, overrides: list[str]) -> None:
        from segdist.commands.plan import describe
        from segdist.sweepfile.loading import load

        say(describe(load(file, overrides)))

    _each(sweeps, action, debug=debug)


@app.command()
def plan(sweeps: Sweeps, as_json: Json = False, debug: Debug = False) -> None:
    """Check sweep files, do a few steps of each, and predict time, memory, cost and disk; refuse what cannot fit."""

    def action(file: str, overrides: list[str]) -> None:
        from segdist.commands.plan import describe
        from segdist.pipeline.plan import plan_sweep
        from segdist.pipeline.planned import text_of

        spec, planned = plan_sweep(file, overrides)
        if as_json:
            say_json(planned.model_dump(mode="json"))
        else:
            say(f"{describe(spec)}\n{text_of(planned)}")

    _each(sweeps, action, debug=debug)


@app.command()
def train(
    sweeps: Sweeps,
    save: Annotated[Path | None, typer.Option(help="Also write the model folder here.")] = None,
    debug: Debug = False,
) -> None:
    """Train the untuned run of a sweep file: one trial, no search."""

    def action(file: str, overrides: list[str]) -> None:
        from segdist.pipeline.run import train_once

        train_once(file, overrides, save=save)

    _each(sweeps, action, again="train", debug=debug)


@app.command()
def compare(
    name: Annotated[str, typer.Argument(help="Name of a sweep.")],
    storage: Storage = HOME_STORAGE,
    tracking: Tracking = "embedded",
    as_json: Json = False,
    in_browser: Annotated[bool, typer.Option("--open", help="Open MLflow's charts of it in a browser.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report, and a page of all trials on the same images, in here.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print the leaderboard of a sweep, best trial first, and where MLflow shows it."""
    from segdist.commands.compare import board_of, pages_of, tracker_of
    from segdist.commands.side_by_side import write_pages
    from segdist.pages import as_json as to_json
    from segdist.pages import print_leaderboard

    with report_user_errors(debug=debug):
        board = board_of(name, storage=storage, tracking=tracking)
        written = write_pages(tracker_of(board, storage=storage, tracking=tracking), board, html) if html else {}
        shown = pages_of(board, storage=storage, tracking=tracking)
        if as_json:
            say_json(to_json(board))
        else:
            print_leaderboard(board)
            say(str(shown))
            for what, where in written.items():
                say(f"{what:<9} {where}")
        if in_browser:
            shown.open()


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="`SWEEP#TRIAL`, `NAME@champion`, `NAME@VERSION`, a run id, a folder; a sweep with --all-checkpoints."
        ),
    ] = "",
    data: Annotated[str, typer.Argument(help="A folder, file or archive with annotations, or a sweep file.")] = "",
    predictions: Annotated[
        Path | None, typer.Option(help="Another tool's COCO results (RLE, polygons or boxes), instead of a model.")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="The COCO annotations that --predictions belong to.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test.", show_default="test, else val, else all")] = "",
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Instances scored lower count as not found.", show_default="the model's, or 0.3"
        ),
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Predict views of each image too, and merge them: flip, darker, brighter.")
    ] = False,
    tile: Annotated[
        str, typer.Option(help="Cut large images into tiles: SIZE in pixels, or `network`.", show_default="off")
    ] = "",
    crf: Annotated[bool, typer.Option("--crf", help="Refine masks by a dense conditional random field.")] = False,
    guided_filter: Annotated[
        bool, typer.Option("--guided-filter", help="Move edges to those of the image by a guided filter.")
    ] = False,
    min_area_fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Remove parts smaller than this fraction of the image.")
    ] = None,
    min_area_pixels: Annotated[float | None, typer.Option(min=0, help="Remove parts of fewer pixels.")] = None,
    fill_holes_fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fill holes smaller than this fraction of the image.")
    ] = None,
    fill_holes_pixels: Annotated[float | None, typer.Option(min=0, help="Fill holes of fewer pixels.")] = None,
    instances: Annotated[
        str,
        typer.Option(
            metavar="components|watershed",
            help="Count the objects in what a semantic network draws as one region: connected parts, or cut at necks.",
            show_default="the model's",
        ),
    ] = "",
    min_area: Annotated[float | None, typer.Option(min=0, hidden=True)] = None,
    fill_holes: Annotated[float | None, typer.Option(min=0, hidden=True)] = None,
    all_checkpoints: Annotated[
        bool, typer.Option(help="Every trial of a sweep that kept a model, or every model that one run kept.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with the curves of the models that one run kept.")
    ] = None,
    storage: Storage = HOME_STORAGE,
    tracking: Tracking = "embedded",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model, or another tool's results, with every metric, by class and by group of images."""
    from segdist import pages
    from segdist.commands.checkpoints import evaluate_checkpoints, is_sweep
    from segdist.commands.evaluate import evaluate as score_model
    from segdist.commands.evaluate import evaluate_results

    with report_user_errors(debug=debug):
        found: Any
        printed: Any = pages.print_evaluation
        if html and (not all_checkpoints or is_sweep(model)):
            raise SpecError("`--html` draws the models that one run kept: name a run, and add --all-checkpoints.")
        if predictions or truth:
            if not (predictions and truth) or model or data:
                raise SpecError(
                    "`--predictions results.json` and `--truth annotations.json` go together, without a model."
                )
            found = evaluate_results(predictions, truth, min_score=0.3 if min_score is None else min_score)
        elif not (model and data):
            raise SpecError("Name a model and data (segdist evaluate MODEL DATA), or --predictions and --truth.")
        else:
            sizes = {
                "min_area_fraction": min_area_fraction,
                "min_area_pixels": min_area_pixels,
                "fill_holes_fraction": fill_holes_fraction,
                "fill_holes_pixels": fill_holes_pixels,
                "min_area": min_area,
                "fill_holes": fill_holes,
            }
            post: dict[str, object] = {**_sizes(sizes), **({"instances": instances} if instances else {})}
            changes = _around(min_score, tta, tile, crf, guided_filter, post)
            score: Any = evaluate_checkpoints if all_checkpoints else score_model
            if all_checkpoints:
                printed = pages.print_checkpoints if is_sweep(model) else pages.print_study
            found = score(model, data, split=split, storage=storage, tracking=tracking, changes=changes)
        if html:
            pages.write_study(found, html)
        if as_json:
            say_json(found)
        else:
            printed(found)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="`SWEEP#TRIAL`, `NAME@champion`, `NAME@VERSION`, a run id, a folder.")],
    second: Annotated[str, typer.Argument(help="The same.")],
    data: Annotated[str, typer.Argument(help="A folder, file or archive, or a sweep file to show both models.")] = "",
    split: Annotated[str, typer.Option(help="train, val or test.", show_default="val, or that of DATA")] = "",
    metric: Annotated[str, typer.Option(help="What to compare by, image by image.")] = "iou",
    html: Annotated[Path | None, typer.Option(help="Also write a page with panels of images won and lost.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Panels of images won, and as many of images lost.")] = 3,
    storage: Storage = HOME_STORAGE,
    tracking: Tracking = "embedded",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show on which images one model beats another, by how much, and whether that is more than chance."""
    from segdist import pages
    from segdist.commands.diff import diff as compared

    with report_user_errors(debug=debug):
        found = compared(
            first,
            second,
            data,
            split=split,
            metric=metric,
            storage=storage,
            tracking=tracking,
            pictures=pictures if html else 0,
        )
        if html:
            pages.write_diff(found.to_json(), {"won": found.won, "lost": found.lost}, html)
        if as_json:
            say_json(found.to_json())
        else:
            pages.print_diff(found.to_json())


@app.command()
def models(as_json: Json = False) -> None:
    """List the model families: sizes, licences, tasks, losses, adapters, and what to install."""
    from segdist.sweepfile.catalogue import families, print_families

    with report_user_errors(debug=False):
        if as_json:
            say_json(families())
        else:
            print_families()


@app.command()
def schema() -> None:
    """Print the JSON schema of sweep files, for completion in editors."""
    from segdist.sweepfile.loading import schema as build

    with report_user_errors(debug=False):
        say_json(build())


def _around(
    min_score: float | None,
    tta: bool,  # noqa: FBT001 - flags as they come from the command line
    tile: str,
    crf: bool,  # noqa: FBT001
    guided_filter: bool,  # noqa: FBT001
    post: dict[str, object],
) -> dict[str, object]:
    """The keys of `evaluate` that flags change."""
    if crf and guided_filter:
        raise SpecError("`--crf` and `--guided-filter` exclude each other: name one.")
    refine = "crf" if crf else "guided_filter" if guided_filter else None
    changes: dict[str, object] = {
        "min_score": min_score,
        "tta": ["flip", "darker", "brighter"] if tta else None,
        "tile": {"size": tile_size(tile)} if tile else None,
        "post": ({"refine": refine} if refine else {}) | post,
    }
    return {key: value for key, value in changes.items() if value is not None}


def _sizes(given: dict[str, float | None]) -> dict[str, float]:
    """The keys of `evaluate.post` that flags give, under their names of today."""
    place = "evaluate.post."
    named = {place + key: value for key, value in given.items() if value is not None}
    try:
        found = renamed_keys.current_values(named)
    except ValueError as error:
        raise SpecError(f"{error}.") from None
    for old, value in named.items():
        new = renamed_keys.current_key(old, [value])
        if new != old:
            flags = (f"--{key.removeprefix(place).replace('_', '-')}" for key in (old, new))
            renamed_keys.warn(next(flags), f"it is now `{next(flags)}`")
    return {key.removeprefix(place): value for key, value in found.items()}


def _each(arguments: list[str], action: Callable[[str, list[str]], object], *, again: str = "", debug: bool) -> None:
    """Do one thing for each sweep file; with several, go on after an error, not after a stop, and sum up at the end.

    Args:
        arguments: sweep files and overrides.
        action: what to do.
        again: the command that goes on with what an error cut short; "" for one that would begin anew.
        debug: whether to show tracebacks.
    """
    outcomes: dict[str, str] = {}
    with report_user_errors(debug=debug) as stops:
        asked = overrides_by_file(arguments)
        if not asked:
            raise SpecError(f"A sweep file must be named, e.g. sweeps/quickstart.yaml, but got {' '.join(arguments)}")
        outcomes |= {file: "not started" for file, _ in asked}
        try:
            for file, overrides in asked:
                stops.check()
                if len(asked) > 1:
                    say(f"== {file}")
                outcomes[file] = "stopped"
                outcomes[file] = _outcome(action, file, overrides, again=again, debug=debug)
        finally:
            if len(asked) > 1:
                say("\n".join(["== summary", *(f"{file}  {outcome}" for file, outcome in outcomes.items())]))
    if any(outcome != "ok" for outcome in outcomes.values()):
        raise typer.Exit(2)


def _outcome(
    action: Callable[[str, list[str]], object], file: str, overrides: list[str], *, again: str, debug: bool
) -> str:
    """What became of one sweep file; its error is shown, and how to go on where it is none of the file's."""
    try:
        with files_named():
            action(file, overrides)
    except SegdistError as error:
        show(error, debug=debug)
        if again and not isinstance(error, SpecError | DataError | WeightsError):
            say(f"Then go on: {command_line(['segdist', again, file, *overrides])}", err=True)
        return "failed: " + str(error).splitlines()[0]
    return "ok"
