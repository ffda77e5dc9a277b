"""From the sources of a sweep to one list of samples: opened, read, merged."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from segdist.data.archived import open_format
from segdist.errors import DataError
from segdist.plugins import DatasetFormat
from segdist.records import Finding, Sample, Severity
from segdist.spec import DataSpec

MOST_SHOWN = 12
"""Findings that fit an error of one screen."""


def open_sources(data: DataSpec) -> list[DatasetFormat]:
    """The reader of each source, in order.

    Raises:
        SpecError: there is no such format, or its options are wrong.
    """
    return [open_format(source.format, source.options()) for source in data.sources]


def read_sources(sources: Sequence[DatasetFormat], report: Callable[[Finding], None]) -> Iterator[tuple[int, Sample]]:
    """The samples of all sources with their source's number; ids are made unique, so that no file hides another.

    With several sources, ids and groups are preceded by the source's number.
    """
    for number, source in enumerate(sources):
        prefix = f"{number}/" if len(sources) > 1 else ""
        for sample in source.read(_prefixed(report, prefix)):
            group = prefix + sample.group if sample.group else ""
            yield number, replace(sample, image_id=prefix + sample.image_id, group=group)


def class_names(wanted: Sequence[str], found: Counter[str]) -> tuple[str, ...]:
    """The classes of the data set: the wanted ones in their order, or all that were found, in alphabetical order.

    Raises:
        DataError: there are no instances, or a wanted class has none.
    """
    if not found:
        raise DataError(
            "The data have no annotated instance, so there is nothing to learn. Check the annotation files."
        )
    if missing := [name for name in wanted if name not in found]:
        raise DataError(
            f"`data.classes` names {', '.join(missing)}, of which there is no instance. "
            f"Found: {', '.join(sorted(found))}."
        )
    return tuple(wanted) or tuple(sorted(found))


def keep_classes(sample: Sample, classes: Sequence[str]) -> Sample:
    """The sample with the instances of these classes only."""
    kept = tuple(i for i in sample.instances if i.label in classes)
    return sample if len(kept) == len(sample.instances) else replace(sample, instances=kept)


def stop_on_errors(findings: Sequence[Finding]) -> None:
    """Stop before anything is learned from data that are wrong.

    Raises:
        DataError: there is a finding of severity error; the message lists the first of them.
    """
    errors = [f for f in findings if f.severity is Severity.ERROR]
    if not errors:
        return
    lines = [f"  {finding}" for finding in errors[:MOST_SHOWN]]
    more = [f"  ... and {len(errors) - MOST_SHOWN} more"] if len(errors) > MOST_SHOWN else []
    raise DataError(
        "\n".join(
            [
                f"The data have {len(errors)} error{'s' * (len(errors) > 1)}:",
                *lines,
                *more,
                "Mend them, or set `data.on_error: skip` to leave out what is wrong.",
            ]
        )
    )


def _prefixed(report: Callable[[Finding], None], prefix: str) -> Callable[[Finding], None]:
    """Findings that name the image as the merged data set does."""
    return lambda finding: report(replace(finding, image=prefix + finding.image) if finding.image else finding)
