"""`segdist paligemma ...`: the mask codec. What is heavy is imported by the command that needs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segdist.cli.options import Json, key_values, report_user_errors
from segdist.core.terminal import say, say_json
from segdist.core.text import counted

if TYPE_CHECKING:
    from segdist.core.records import Finding, Sample
    from segdist.core.spec import SourceSpec

app = typer.Typer(help="PaliGemma's mask codec: what it makes of your masks, and training one.", no_args_is_help=True)
Codec = Annotated[str, typer.Option(help="`shipped`, `vae-oid` (Google's), or a file, such as train-codec writes.")]


@app.callback()
def _paligemma() -> None:
    """Keeps `segdist paligemma` a group whatever the number of its commands."""


@app.command()
def codec_report(
    path: Annotated[str, typer.Argument(metavar="DATA", help="A folder, file or archive with masks, local or s3://.")],
    codec: Codec = "shipped",
    format_name: Annotated[
        str, typer.Option("--format", help="The format of DATA, where it cannot be recognised.")
    ] = "",
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the format.")] = None,
    tiles: Annotated[int, typer.Option(min=2, help="Rows and columns of tiles, for what tiling would gain.")] = 2,
    edges: Annotated[
        Literal["round", "truncate"],
        typer.Option(
            help="How boxes become whole pixels; truncate is big_vision's evaluator's, and of published figures.",
        ),
    ] = "round",
    limit: Annotated[int, typer.Option(min=1, help="Most images to read.")] = 1000,
    as_json: Json = False,
) -> None:
    """The codec's upper bound: IoU and boundary IoU of your masks with what comes back of them, per class."""
    with report_user_errors():
        from segdist.core.errors import DataError
        from segdist.core.spec import SourceSpec
        from segdist.nets.paligemma.codec_files import open_codec
        from segdist.nets.paligemma.codec_report import codec_report as measure
        from segdist.nets.paligemma.codec_report import report_text
        from segdist.reading.guess import guess_format

        opened = open_codec(codec)
        name = format_name or guess_format(path)
        options = key_values(option or []) | ({} if name == "synthetic" else {"path": path})
        source = SourceSpec.model_validate({"format": name, **options})
        found = measure(_samples([source], limit=limit), opened, tiles=tiles, edges=edges)
        if not found:
            raise DataError(f"{path} has no mask to measure. The codec needs masks, not boxes alone.")
        if as_json:
            content = {label: report.as_json() for label, report in found.items()}
            say_json({"codec": codec, "tiles": tiles, "edges": edges, "classes": content})
        else:
            say(report_text(found, codec=codec, tiles=tiles, edges=edges))


@app.command()
def train_codec(
    recipe: Annotated[Path, typer.Argument(help="A recipe: sweeps/recipes/train_mask_codec.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE...]")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")] = Path(
        "mask_codec.safetensors"
    ),
) -> None:
    """Train a codec of the same shape on drawn and your own masks, and measure it on what was held out.

    Killed and started again, it goes on from the last hundred steps, saved beside the file to write.
    """
    with report_user_errors():
        from segdist.core.errors import DataError
        from segdist.nets.paligemma.codec_files import open_codec, save_codec
        from segdist.nets.paligemma.codec_report import codec_report as measure
        from segdist.nets.paligemma.codec_report import report_text
        from segdist.nets.paligemma.codec_training import train_codec as train
        from segdist.nets.paligemma.mask_crops import squares
        from segdist.nets.paligemma.recipe import load_recipe

        spec = load_recipe(recipe, overrides or [])
        covers_NSS = squares(_samples(spec.sources), parts=spec.parts, seed=spec.train.seed)
        if not len(covers_NSS):
            raise DataError(f"The sources of {recipe} have no mask to learn from.")
        say(f"{counted(len(covers_NSS), 'square')} of masks")
        unfinished = out.with_name(f"{out.name}.unfinished")
        save_codec(train(covers_NSS, spec.train, progress=say, state=unfinished), out)
        if spec.held_out:
            found = measure(_samples(spec.held_out), open_codec(str(out)), tiles=2)
            say(report_text(found, codec=str(out), tiles=2))
        say(f"written to {out}")


def _samples(sources: "list[SourceSpec] | tuple[SourceSpec, ...]", *, limit: int | None = None) -> "Iterator[Sample]":
    """The samples of sources; an error in the data stops, a warning is shown."""
    from itertools import islice

    from segdist.core.records import Severity
    from segdist.reading.archived import open_format
    from segdist.reading.sources import stop_on_errors

    errors: list[Finding] = []

    def report(finding: "Finding") -> None:
        if finding.severity is Severity.ERROR:
            errors.append(finding)
        else:
            say(str(finding), err=True)

    for source in sources:
        yield from islice(open_format(source.format, source.options()).read(report), limit)
        stop_on_errors(errors)
