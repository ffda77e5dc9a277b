"""Commands that take a model out of a sweep. What is heavy is imported by the command that needs it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from segdist.cli.options import HOME_STORAGE, Debug, Json, Model, Storage, Tracking, report_user_errors, tile_size
from segdist.core.terminal import say, say_json

app = typer.Typer()


@app.command()
def predict(
    model: Model,
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... [OUT]",
            help="Image files, folders, archives, Parquet files, data sets, or s3://; without -o the last is OUT.",
        ),
    ],
    out: Annotated[
        str, typer.Option("-o", "--out", help="Folder for predictions.json and the rest; run again to go on.")
    ] = "",
    write: Annotated[
        list[str] | None,
        typer.Option(help="overlays, panels, masks, class_ids, geojson, text, or none.", show_default="overlays"),
    ] = None,
    boxes: Annotated[
        str, typer.Option(help="COCO file with the boxes to segment, for models prompted with boxes.")
    ] = "",
    truth: Annotated[
        str,
        typer.Option(help="Annotations of the images in any format, for --write panels."),
    ] = "",
    tile: Annotated[
        str,
        typer.Option(
            metavar="PIXELS|network|off", help="Cut large images into tiles of this side.", show_default="the model's"
        ),
    ] = "",
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="Of tiles, as a share of their side.")] = 0.125,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out what is scored lower.", show_default="the model's")
    ] = None,
    actors: Annotated[int, typer.Option(min=0, help="Models side by side; 0 chooses.")] = 0,
    storage: Storage = HOME_STORAGE,
    tracking: Tracking = "embedded",
    debug: Debug = False,
) -> None:
    """Segment images with a trained model: COCO JSON, pictures, masks, GeoJSON."""
    with report_user_errors(debug=debug):
        from segdist.core.errors import SpecError
        from segdist.pipeline.predict import predict_images
        from segdist.pipeline.predictor import How

        if not out and len(places) < 2:
            raise SpecError("Name images and a folder to write to: segdist predict MODEL IN... OUT")
        *inside, target = [*places, *([out] if out else [])]
        changes: dict[str, object] = {} if min_score is None else {"min_score": min_score}
        if tile:
            changes["tile"] = None if tile == "off" else {"size": tile_size(tile), "overlap": overlap}
        outputs = tuple(name for name in (write or ["overlays"]) if name != "none")
        how = How(outputs, changes, boxes, truth)
        where = predict_images(
            model, inside, target, how=how, actors=actors, storage_uri=storage, tracking=tracking, say=_say
        )
        say(where)


@app.command()
def export(
    model: Model,
    to: Annotated[str, typer.Option(help="safetensors, hf (for the Hugging Face hub), onnx, or pyfunc (MLflow).")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder that is not there yet.")],
    push: Annotated[str, typer.Option(metavar="OWNER/NAME", help="With hf: upload it to this repository.")] = "",
    storage: Storage = HOME_STORAGE,
    tracking: Tracking = "embedded",
    debug: Debug = False,
) -> None:
    """Write a model for production: adapters merged, self-contained, with a model card."""
    with report_user_errors(debug=debug):
        from segdist.commands.export import export_model
        from segdist.commands.export import push as upload
        from segdist.core.errors import ExportError

        if push and to != "hf":
            raise ExportError(f"`--push` goes with `--to hf`, but got --to {to}.")
        say(str(export_model(model, to, out, storage=storage, tracking=tracking)))
        if push:
            say(upload(out, push))


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="`SWEEP#TRIAL`, the run id of a trial, or `NAME@VERSION`.")],
    name: Annotated[str, typer.Option(help="The registered model.", show_default="the sweep's name")] = "",
    data: Annotated[
        str, typer.Option(help="Images to compare on, or a sweep file.", show_default="the common validation split")
    ] = "",
    metric: Annotated[str, typer.Option(help="What to compare by, e.g. iou.", show_default="the sweep's metric")] = "",
    force: Annotated[bool, typer.Option("--force", help="Move the alias whatever the result.")] = False,
    storage: Storage = HOME_STORAGE,
    tracking: Tracking = "embedded",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a model NAME@champion, if it is better than the present one on the same images beyond chance.

    Exits with 1 where it is not better and the alias stays.
    """
    with report_user_errors(debug=debug):
        from segdist.commands.promote import promote as decide

        found = decide(model, name=name, data=data, metric=metric, force=force, storage=storage, tracking=tracking)
        if as_json:
            say_json(found.to_json())
        else:
            say(found.text)
        if not found.promoted and found.champion != found.candidate:
            raise typer.Exit(1)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Where to listen; only this machine by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the token that requests must carry; or set SEGDIST_TOKEN.",
            show_default="one is drawn and printed",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name by which it may be asked, in addition to --host; repeatable."),
    ] = None,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Of a request.")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Of an image.")] = 50,
    max_megapixels_at_once: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Of all images being processed; others wait. A pixel takes some 25 bytes of memory: the default fits "
            "4 GB with Ray and a small model; raise it where there is more.",
        ),
    ] = 50,
    replicas: Annotated[int, typer.Option(min=1, help="Models side by side.")] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="Most images of one prediction.")] = 8,
    storage: Storage = HOME_STORAGE,
    tracking: Tracking = "embedded",
    debug: Debug = False,
) -> None:
    """Serve a model over HTTP: a page to drop an image on, an API, /docs, /health and /metrics."""
    with report_user_errors(debug=debug):
        from segdist.pipeline.serve import address
        from segdist.pipeline.serve import serve as run
        from segdist.serving.limits import Limits

        token = os.environ.pop("SEGDIST_TOKEN", "")  # nobody whom we start is report_user_errors
        where = address(host, port, token=token, token_file=token_file, names=allowed_host or ())
        limits = Limits(int(max_megabytes * 1e6), int(max_megapixels * 1e6), int(max_megapixels_at_once * 1e6))
        run(model, where, limits=limits, replicas=replicas, max_batch=max_batch, storage=storage, tracking=tracking)


def _say(text: str) -> None:
    say(text, err=True)
