"""`segdist data ...`: what happens to data before a sweep. What is heavy is imported by the command that needs it."""

from typing import TYPE_CHECKING, Annotated

import typer

from segdist.cli.options import Json, key_values, report_user_errors
from segdist.core import storage
from segdist.core.errors import DataError, SpecError, StorageError
from segdist.core.terminal import say, say_json
from segdist.core.text import counted

if TYPE_CHECKING:
    from segdist.core.records import Finding
    from segdist.core.spec import DataSpec

DataPlace = Annotated[str, typer.Argument(help="A folder, file or archive, local or s3://, or a segdist data set.")]
FormatName = Annotated[str, typer.Option("--format", help="The format of PATH, where it cannot be recognised.")]
Options = Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the format.")]

app = typer.Typer(help="Validate, merge, split, convert and look at annotated images.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Keeps `segdist data` a group whatever the number of its commands."""


@app.command()
def convert(
    path: DataPlace,
    to: Annotated[str, typer.Option(help="The format to write: coco, hf_objects, paligemma, png_masks, yolo, ...")],
    out: Annotated[str, typer.Option("-o", "--out", help="A folder or s3:// prefix that is not there yet.")],
    format_name: FormatName = "",
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the format read.")] = None,
    write: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the writer.")] = None,
    skip_errors: Annotated[bool, typer.Option("--skip-errors", help="Leave out what is wrong; it is counted.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not read the result back and compare.")] = False,
    as_json: Json = False,
) -> None:
    """Write a data set in another format; what the format cannot hold is counted, named and measured."""
    from segdist.converting.convert import convert as run
    from segdist.converting.convert import summary_text

    with report_user_errors():
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
        if as_json:
            say_json(result)
        else:
            say(summary_text(result))


@app.command()
def validate(
    path: Annotated[str, typer.Argument(help="A folder, file or archive, local or s3://.")] = "",
    format_name: FormatName = "",
    option: Options = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    no_images: Annotated[bool, typer.Option("--no-images", help="Check annotations only; open no image.")] = False,
    html: Annotated[str, typer.Option(help="Also write a page with pictures of the worst findings.")] = "",
    manifest: Annotated[str, typer.Option(help="Also write a manifest: classes, counts, licences, hash.")] = "",
    codes: Annotated[bool, typer.Option("--codes", help="List every check with its severity and meaning.")] = False,
    as_json: Json = False,
) -> None:
    """Check images and annotations; exit 0 without errors, 2 otherwise."""
    from segdist.checking.validation import Review, codes_text, review, summary_text
    from segdist.converting.convert import open_source
    from segdist.reading.codes import finding

    with report_user_errors():
        if codes:
            say(codes_text())
            return
        if not path:
            raise SpecError("A folder or file must be named, e.g. segdist data validate photos/")
        noticed_before: list[Finding] = []
        try:
            chosen = key_values(option or [])
            name, source = open_source(
                path, format_name, chosen, find_images=not no_images, report=noticed_before.append
            )
            found = review(source, name, open_images=not no_images, strict=strict, noticed_before=noticed_before)
        except (DataError, StorageError) as error:  # it could not even be opened: a finding too, so that --json is JSON
            source, found = (
                None,
                Review(format_name, [*noticed_before, finding("source-unreadable", str(error), file=path)]),
            )
        if manifest:
            storage.write_json(manifest, found.manifest().model_dump(mode="json"))
        if html:
            from segdist.pages.findings import write_review_page

            write_review_page(html, found, source)
        if as_json:
            say_json(found.as_json())
        else:
            say(summary_text(found))
        raise typer.Exit(0 if found.ok else 2)


@app.command()
def merge(
    spec: Annotated[str, typer.Argument(help="A YAML file of `sources`, `classes`, `split`, ..., or a sweep file.")],
    out: Annotated[str, typer.Option("-o", "--out", help="A folder or s3:// prefix for the data set.")],
    as_json: Json = False,
) -> None:
    """Merge sources into one data set: classes mapped, identical images kept once, split with groups whole."""
    from segdist.converting.merge_spec import load_data

    with report_user_errors():
        _build(load_data(spec), out, as_json=as_json)


@app.command()
def split(
    path: Annotated[str, typer.Argument(help="A data set of segdist, or anything else that can be read.")],
    out: Annotated[str, typer.Option("-o", "--out", help="A folder or s3:// prefix for the divided data set.")],
    format_name: FormatName = "",
    option: Options = None,
    val: Annotated[float, typer.Option(help="Share for validation.")] = 0.15,
    test: Annotated[float, typer.Option(help="Share for testing.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Same seed, same division.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the splits that are there; leaks are reported.")] = False,
    as_json: Json = False,
) -> None:
    """Divide into train, val and test: by classes and sizes, with copies and near-duplicates on one side."""
    from segdist.converting.convert import open_source
    from segdist.converting.merge_spec import data_spec

    with report_user_errors():
        name, _ = open_source(path, format_name, key_values(option or []))
        source = {"format": name, "path": path, **key_values(option or [])}
        division = {"val": val, "test": test, "seed": seed, "given": "keep" if keep else "redo"}
        _build(data_spec({"sources": [source], "split": division}, "the command line"), out, as_json=as_json)


@app.command()
def stats(
    path: DataPlace,
    format_name: FormatName = "",
    option: Options = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Open no image: no brightness.")] = False,
    html: Annotated[str, typer.Option(help="Also write a page with the charts.")] = "",
    as_json: Json = False,
) -> None:
    """Count classes, sizes, shapes, brightness and objects an image, for each split."""
    from segdist.checking.stats import statistics, summary_text
    from segdist.converting.convert import open_source
    from segdist.pages.statistics import write_stats_page

    with report_user_errors():
        _, source = open_source(path, format_name, key_values(option or []), find_images=not no_images)
        found = statistics(source, open_images=not no_images)
        if html:
            write_stats_page(html, found, title=f"Statistics of {_title(path)}")
        if as_json:
            say_json(found.as_json())
        else:
            say(summary_text(found))


@app.command()
def view(
    path: DataPlace,
    out: Annotated[str, typer.Option("-o", "--out", help="The page to write, e.g. gallery.html.")],
    format_name: FormatName = "",
    option: Options = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures at most; 60 make a page of some 3 MB.")] = 60,
    label: Annotated[list[str] | None, typer.Option("--class", metavar="NAME", help="Only images with it.")] = None,
    split: Annotated[list[str] | None, typer.Option(metavar="NAME", help="train, val or test.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same pictures.")] = 0,
) -> None:
    """Write a gallery of samples with their masks, to be filtered by class and split in the browser."""
    from segdist.converting.convert import open_source
    from segdist.pages.gallery import Wanted, write_gallery

    with report_user_errors():
        _, source = open_source(path, format_name, key_values(option or []))
        wanted = Wanted(count, tuple(label or ()), tuple(split or ()), seed)
        shown, findings = write_gallery(out, source, wanted, title=_title(path))
        for one in findings:
            say(str(one), color="yellow", err=True)
        say(f"{counted(shown, 'picture')} in {out}")


def _title(path: str) -> str:
    """What a page calls a data set: the last part of its place."""
    return path.rstrip("/").rpartition("/")[2] or path


def _build(data: "DataSpec", out: str, *, as_json: bool) -> None:
    from segdist.checking.dataset_text import dataset_text
    from segdist.datasets.build import build, on_all_cores
    from segdist.datasets.shards import MANIFEST

    root = storage.absolute(out)
    if storage.exists(storage.join(root, MANIFEST)):
        raise DataError(f"{out} holds a data set already. Name another folder, or delete it first.")
    dataset = build(root, data, on_all_cores)
    if as_json:
        say_json(dataset.manifest.model_dump(mode="json"))
    else:
        say(dataset_text(dataset))
