"""One data set in another format: read, checked, written, read back and compared; every loss is counted and named."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from segdist.converting.export import FileNames, new_folder
from segdist.converting.losses import ReportedLosses
from segdist.converting.round_trip import MOST_SHOWN, compare
from segdist.converting.sample_store import SampleStore
from segdist.core import registry, storage
from segdist.core.errors import DataError, SpecError, StorageError, did_you_mean
from segdist.core.json_values import JsonDict, JsonObject
from segdist.core.plugins import DatasetFormat, DatasetWriter, WritableFormat, dataset_format
from segdist.core.records import Finding, Sample, Severity
from segdist.core.redaction import redact_all
from segdist.core.spec import Strict
from segdist.core.text import counted
from segdist.datasets.checks import check_image
from segdist.reading.archived import open_format
from segdist.reading.coco.export import CONVERSION
from segdist.reading.codes import finding
from segdist.reading.finding_tally import FindingTally
from segdist.reading.guess import guess_format
from segdist.reading.sources import Faults, stop_on_errors

MOST_ERRORS = 1000
StrictT = TypeVar("StrictT", bound=Strict)


@dataclass
class _Read:
    """A source, read once."""

    source: DatasetFormat
    samples: SampleStore = field(default_factory=SampleStore)
    findings: FindingTally = field(default_factory=FindingTally)
    errors: list[Finding] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)

    def report(self, one: Finding) -> None:
        self.findings(one)
        if one.severity is Severity.ERROR and len(self.errors) < MOST_ERRORS:
            self.errors.append(one)

    def add(self, sample: Sample) -> None:
        self.samples.add(sample.image_id, sample)
        self.labels.update(i.label for i in sample.instances)
        self.splits[sample.split] += 1


def convert(
    place: str,
    out: str,
    *,
    to: str,
    format_name: str = "",
    read_options: Mapping[str, object] | None = None,
    write_options: Mapping[str, object] | None = None,
    skip_errors: bool = False,
    verify: bool = True,
) -> JsonDict:
    """Write a data set in another format.

    Args:
        place: a folder, file, archive or `s3://` URI.
        out: a folder or `s3://` prefix that is not there yet.
        to: the format to write.
        format_name: the format of `place`; "" for the one that it shows.
        read_options: further options of the format read.
        write_options: options of the writer.
        skip_errors: leave out what is wrong instead of stopping.
        verify: read the result back and compare every mask and box.

    Returns:
        What stands in `conversion.json`: counts, findings of the source, losses, and the round trip.

    Raises:
        DataError: the source has errors, or nothing in it; or something that the format can hold does not come back.
        SpecError: an option is wrong, or the format cannot be written.
        StorageError: `out` is there already or cannot be written.
    """
    writer_type, chosen = _writer(to, write_options or {})
    reported: list[Finding] = []
    name, source = open_source(place, format_name, read_options or {}, report=reported.append)
    started = time.monotonic()
    read = _read(source, reported)
    if not skip_errors:
        stop_on_errors(read.errors)
    losses, seconds = FindingTally(), {"read": round(time.monotonic() - started, 2)}
    classes = _classes(read)
    with new_folder(out) as folder:
        started = time.monotonic()
        reported_losses = ReportedLosses(losses)
        written = _write(read, writer_type(folder, classes, chosen, reported_losses), skip_errors=skip_errors)
        seconds["write"] = round(time.monotonic() - started, 2)
        result = _summary(read, written, classes) | {"losses": losses.as_json()}
        if verify:
            started = time.monotonic()
            result |= _round_trip(to, folder, written, reported_losses, out)
            seconds["verify"] = round(time.monotonic() - started, 2)
        result = {"source": place, "format": name, "to": to, "out": out, **result, "seconds": seconds}
        storage.write_json(str(folder / CONVERSION), redact_all(result))
    return result


def writable() -> list[str]:
    """The formats that can be written."""
    return [name for name in registry.names("formats") if isinstance(registry.load("formats", name), WritableFormat)]


def _writer(name: str, options: Mapping[str, object]) -> tuple[type[DatasetWriter], Strict]:
    module = registry.load("formats", name)
    if not isinstance(module, WritableFormat):
        raise SpecError(f"The format `{name}` can be read but not written. Written can be: {', '.join(writable())}.")
    return module.Writer, checked_options(module.Writer.Options, options, what=f"writing {name}")


def open_source(
    place: str,
    format_name: str,
    options: Mapping[str, object],
    *,
    find_images: bool = True,
    report: Callable[[Finding], None] | None = None,
) -> tuple[str, DatasetFormat]:
    """The name of a place's format, and its reader.

    Args:
        place: a folder, file, archive or `s3://` URI.
        format_name: "" for the one that it shows.
        options: further ones of the format.
        find_images: whether annotations without an image are a finding, where the format can tell.
        report: takes a finding where several formats fit; the log by default.

    Raises:
        DataError: no format fits.
        SpecError: there is no such format, or an option is wrong.
    """
    name = format_name or guess_format(place, report)
    keys = dataset_format(name).Options
    if not find_images and "find_images" in keys.model_fields:
        options = {"find_images": False, **options}
    options = {**options, "path": place}
    checked_options(keys, options, what=f"reading {name}")
    return name, open_format(name, options)


def checked_options(keys: type[StrictT], options: Mapping[str, object], *, what: str) -> StrictT:
    """Options as the plug-in's model of them.

    Raises:
        SpecError: a key is unknown or a value wrong; the message names the key and the nearest right one.
    """
    try:
        return keys.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = did_you_mean(key, keys.model_fields) if first["type"] == "extra_forbidden" and keys.model_fields else ""
        raise SpecError(f"The option `{key}` for {what} is wrong: {first['msg']}. {known}".strip()) from error


def _read(source: DatasetFormat, reported: Sequence[Finding]) -> _Read:
    read = _Read(source)
    for one in reported:
        read.report(one)
    missing: set[str] = set()

    def report(one: Finding) -> None:
        read.report(one)
        if one.code == "image-missing":
            missing.add(one.image)

    faults = Faults(report)
    for sample in faults.usable(source.read(faults)):
        if sample.image_id not in missing:
            read.add(sample)
    if "" in read.splits and len(read.splits) > 1:
        raise DataError(
            f"Either all images or none must have a split, but {read.splits['']} have none and "
            f"{read.splits.total() - read.splits['']} have one. Divide them first: segdist data split."
        )
    return read


def _classes(read: _Read) -> tuple[str, ...]:
    """Class names in the source's own order, where it has one; else in alphabetical order."""
    known = read.source.classes
    return known if set(read.labels) <= set(known) else tuple(sorted(read.labels))


def _write(read: _Read, writer: DatasetWriter, *, skip_errors: bool) -> SampleStore:
    """Write every usable image; gives the samples by the file name that each was written under."""
    names, written, seen = FileNames(), SampleStore(), len(read.errors)
    for sample in read.samples:
        try:
            content = read.source.image_bytes(sample)
        except StorageError as error:
            read.report(finding("image-unreadable", str(error), file=sample.image_uri, image=sample.image_id))
            continue
        checked, found = check_image(sample, content)
        for one in found:
            read.report(one)
        if checked:
            file_name = names.name(checked, content)
            writer.add(checked, content, file_name)
            written.add(file_name, checked)
    if not skip_errors:
        stop_on_errors(read.errors[seen:])
    if not len(written):
        raise DataError("There is no image to write. Check the path and the format.")
    writer.state_licences(read.source.licences())
    writer.close()
    return written


def _summary(read: _Read, written: SampleStore, classes: Sequence[str]) -> dict[str, object]:
    instances, masks, splits = 0, 0, Counter[str]()
    for sample in written:
        instances += len(sample.instances)
        masks += sum(i.mask is not None for i in sample.instances)
        splits[sample.split] += 1
    return {
        "images": len(written),
        "instances": instances,
        "masks": masks,
        "splits": dict(splits),
        "classes": list(classes),
        "findings": read.findings.as_json(),
    }


def _round_trip(name: str, folder: Path, written: SampleStore, reported: ReportedLosses, out: str) -> dict[str, object]:
    """Read the written folder as anybody would, and compare.

    Raises:
        DataError: what the format can hold does not come back; what it cannot, the writer has reported.
    """
    findings = FindingTally()
    back = open_format(name, {"path": str(folder)})
    trip = compare(written, back.read(findings), reported)
    errors = findings.first(Severity.ERROR)
    if trip.failed or errors:
        lines = [
            f"{out} was not written, because reading it back as {name} fails: {_trip_line(trip.as_json())}",
            *(f"  {line}" for line in [*errors, *trip.failures]),
            *(
                [f"  ... and {counted(trip.failed - len(trip.failures), 'more image')}"]
                if trip.failed > MOST_SHOWN
                else []
            ),
            "Fix the source (e.g. classes or files that its readers take for one), or keep it as it is: --no-verify.",
        ]
        raise DataError("\n".join(lines))
    return {"round_trip": trip.as_json(), "read_back": findings.as_json()}


def summary_text(result: JsonObject) -> str:
    """What a conversion did, for people."""
    lines = [
        f"{result['format']} -> {result['to']}: {_amounts(result)}",
        *(f"  {e['severity']}[{e['code']}] x{e['count']}: {_example(e)}" for e in result["findings"]),
    ]
    lines += [f"  lost[{e['code']}] x{e['count']}: {_example(e)}" for e in result["losses"]]
    if trip := result.get("round_trip"):
        lines.append("read back: " + ("exact; " if trip["exact"] else "") + _trip_line(trip))
    return "\n".join([*lines, f"written to {result['out']}"])


def _amounts(result: JsonObject) -> str:
    splits = ", ".join(f"{name or 'no split'} {count}" for name, count in result["splits"].items())
    counts = [counted(result[f"{one}s"], one) for one in ("instance", "mask")]
    return ", ".join(
        [f"{counted(result['images'], 'image')} ({splits})", *counts, counted(len(result["classes"]), "class")]
    )


def _example(entry: JsonObject) -> str:
    first = entry["examples"][0]
    place = ", ".join(filter(None, (first["image"], first["annotation"] and f"annotation {first['annotation']}")))
    return f"{first['message']}" + (f" (first: {place})" if place else "")


def _trip_line(trip: JsonObject) -> str:
    text = (
        f"{trip['images_back']} of {counted(trip['images'], 'image')}, {trip['instances_back']} of "
        f"{counted(trip['instances'], 'instance')}, "
        f"{trip['masks_exact']} of {counted(trip['masks'], 'mask')} to the pixel"
    )
    if trip["masks_exact"] < trip["masks"]:
        text += f" (IoU mean {trip['mask_iou_mean']}, smallest {trip['mask_iou_min']})"
    return f"{text}, boxes moved by {trip['box_shift_max']} pixels at most"
