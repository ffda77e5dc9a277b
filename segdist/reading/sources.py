"""From the sources of a sweep to one list of samples: opened, read, merged."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from segdist.core.errors import DataError, did_you_mean
from segdist.core.plugins import DatasetFormat
from segdist.core.records import Finding, ReportFinding, Sample, Severity
from segdist.core.spec import DataSpec
from segdist.reading.archived import open_format
from segdist.reading.class_names import ClassNames, compared
from segdist.reading.codes import finding
from segdist.reading.guess import guess_format

HOW_TO_LEAVE_OUT = "`data.on_error: skip` in a sweep file, `--skip-errors` of `segdist data convert`"
"""What is wrong with data, by whoever reads them."""
MOST_SHOWN = 12
"""Findings that fit an error of one screen."""


def open_sources(data: DataSpec) -> list[DatasetFormat]:
    """The reader of each source, in order.

    Raises:
        SpecError: there is no such format, or its options are wrong.
    """
    return [open_format(source.format, source.options()) for source in data.sources]


def read_place(
    place: str,
    classes: Sequence[str] = (),
    *,
    format_name: str = "",
    options: Mapping[str, object] | None = None,
    findings: list[Finding] | None = None,
    skip_errors: bool = False,
) -> list[tuple[DatasetFormat, Sample]]:
    """Every sample of a folder, file or archive, with the reader that has its image.

    Args:
        place: what to read.
        classes: of a model; theirs is the spelling of classes that differ in spelling alone.
        format_name: "" for the one that is recognised.
        options: of the format; wrong ones are refused by `checked_options`.
        findings: takes what was noticed.
        skip_errors: leave out what is wrong instead of stopping.

    Raises:
        DataError: no format fits, or an annotation is wrong.
    """
    name = format_name or guess_format(place, None if findings is None else findings.append)
    source = {**(options or {}), "format": name, "path": place}
    findings = [] if findings is None else findings
    data = DataSpec.model_validate({"sources": [source], "classes": list(classes)})
    sources = open_sources(data)
    read = [(sources[number], sample) for number, sample in read_sources(data, sources, findings.append)]
    if not skip_errors:
        stop_on_errors(findings)
    return read


def read_sources(
    data: DataSpec, sources: Sequence[DatasetFormat], report: ReportFinding
) -> Iterator[tuple[int, Sample]]:
    """The samples of all sources with their source's number; ids are made unique, so that no file hides another.

    With several sources, ids and groups are preceded by the source's number. Classes are renamed, joined and dropped as
    each source's `class_map` says; what differs in spelling alone is one class over all sources, as within one.
    """
    names = ClassNames(report, data.classes)
    for number, (spec, source) in enumerate(zip(data.sources, sources, strict=True)):
        prefix = f"{number}/" if len(sources) > 1 else ""
        found: set[str] = set()
        class_map = {compared(name): new for name, new in spec.class_map.items()} | spec.class_map
        faults = Faults(_prefixed(report, prefix))
        for sample in faults.usable(source.read(faults)):
            group = f"{prefix}{spec.group or sample.group}" if spec.group or sample.group else ""
            found.update(i.label for i in sample.instances)
            named = replace(sample, image_id=prefix + sample.image_id, group=group, text=spec.text or sample.text)
            yield number, _mapped(named, class_map, names, f"source {number} ({spec.format})")
        spelled = {compared(name) for name in found}
        for name in sorted(name for name in spec.class_map if compared(name) not in spelled):
            message = f"`class_map` of source {number} names `{name}`, of which it has no instance. "
            report(finding("class-unmapped", message + did_you_mean(name, found)))


class Faults:
    """Takes what is reported while a source is read, and knows the images of which nothing right is left.

    An image whose annotations are all wrong is no image without objects: to learn from it would be to learn that there
    is nothing where somebody has drawn something. Nor is one in which only points and lines were drawn.
    """

    def __init__(self, report: ReportFinding, wrong: Iterable[str] = ()) -> None:
        self._report = report
        self.wrong = set(wrong)

    def __call__(self, one: Finding) -> None:
        """Take a finding."""
        is_wrong = one.severity is Severity.ERROR and one.code != "image-missing"  # its annotations may be none
        if one.image and (is_wrong or one.code == "shape-without-area"):
            self.wrong.add(one.image)
        self._report(one)

    def usable(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples without those images, and without those that are called as one before: each is reported."""
        seen: set[str] = set()
        for sample in samples:
            if sample.image_id in seen:
                message = "another image before it is called the same; rename one of the files"
                self._report(finding("image-id-duplicate", message, file=sample.image_uri, image=sample.image_id))
                continue
            seen.add(sample.image_id)
            if sample.instances or sample.image_id not in self.wrong:
                yield sample
                continue
            message = "none of its annotations can be used; it is left out, not taken as an image without objects"
            self._report(finding("annotations-lost", message, file=sample.image_uri, image=sample.image_id))


def licences(data: DataSpec, sources: Sequence[DatasetFormat]) -> tuple[str, ...]:
    """The licences of all sources: written in the specification, or stated by the source; known once it is read."""
    found: set[str] = set()
    for spec, source in zip(data.sources, sources, strict=True):
        found.update([spec.licence] if spec.licence else source.licences())
    return tuple(sorted(found - {""}))


def _mapped(sample: Sample, class_map: Mapping[str, str | None], names: ClassNames, place: str) -> Sample:
    """The sample under the new names of its classes."""
    new_names: dict[str, str | None] = {}
    for label in dict.fromkeys(i.label for i in sample.instances):
        new = class_map.get(label, class_map.get(compared(label), label))
        new_names[label] = names.spelled(new, place) if new else None
    if all(label == new for label, new in new_names.items()):
        return sample
    renamed = ((i, new_names[i.label]) for i in sample.instances)
    return replace(sample, instances=tuple(replace(i, label=label) for i, label in renamed if label))


def class_names(wanted: Sequence[str], found: Counter[str]) -> tuple[str, ...]:
    """The classes of the data set: the wanted ones in their order, or all that were found, in alphabetical order.

    Raises:
        DataError: there are no instances, or a wanted class has none.
    """
    if not found:
        raise DataError(
            "The data have no annotated instance, so there is nothing to learn. `segdist data validate PATH` says what "
            "was left out of the annotation files and why, e.g. boxes that lie outside their images."
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
                f"Fix them, or leave out what is wrong: {HOW_TO_LEAVE_OUT}.",
            ]
        )
    )


def _prefixed(report: ReportFinding, prefix: str) -> ReportFinding:
    """Findings that name the image as the merged data set does."""
    return lambda finding: report(replace(finding, image=prefix + finding.image) if finding.image else finding)
