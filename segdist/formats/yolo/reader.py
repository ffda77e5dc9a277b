"""YOLO labels in: every line is a box or a polygon, or a finding that names it."""

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from segdist.core.records import Instance, ReportFinding, Sample, Severity
from segdist.core.text import NotTextError, counted, lines
from segdist.formats.yolo.layout import find_layout
from segdist.reading.class_names import ClassNames
from segdist.reading.codes import finding
from segdist.reading.collected import MissingMasks
from segdist.reading.geometry import UnusableAnnotation, box_from_xywh, mask_from_segmentation
from segdist.reading.listing import FolderFormat, FolderOptions, Listing, label_name, source_stem, upright_size_hw
from segdist.reading.looks import report_unread
from segdist.reading.text_files import read_text

FURTHEST = 2.0
"""A coordinate in 0..1 that is larger than this, or below its negative, was not divided by the image's size."""


class Options(FolderOptions):
    """Where the data set is."""

    path: str
    """The folder with data.yaml, or one with images and label files."""
    names: tuple[str, ...] = ()
    """Class names by id; empty takes those of data.yaml or classes.txt."""


class Format(FolderFormat[Options]):
    """Reads YOLO labels. An image without a label file has no object, as YOLO's own trainer takes it."""

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image of every split."""
        files = self.listing()
        layout = find_layout(files, self.options.names, report)
        names, missing = ClassNames(report).table(layout.names, layout.file), MissingMasks(report)
        _report_labels_without_image(files, report)
        for image, split in layout.images.items():
            size_hw = upright_size_hw(files.uri(image), image_id=image, report=report)
            if size_hw:
                instances = _Labels(files, label_name(image), names, size_hw, image, missing, report).instances()
                if instances is not None:
                    yield Sample(image, files.uri(image), size_hw, instances, split, source_stem(image))
        missing.close()
        read = {label_name(image) for image in layout.images}
        report_unread(files, {n for n in files.with_suffix(".txt") if n in read or _is_in_labels(n)}, report)


class _Labels:
    """The label file of one image."""

    def __init__(
        self,
        files: Listing,
        name: str,
        names: Mapping[int, str],
        size_hw: tuple[int, int],
        image_id: str,
        missing: MissingMasks,
        report: ReportFinding,
    ) -> None:
        self._files, self._name, self._names, self._size_hw = files, name, names, size_hw
        self._image_id, self._missing, self._report = image_id, missing, report

    def instances(self) -> tuple[Instance, ...] | None:
        """The objects; None, and a finding, where the file cannot be read: nobody knows what is on the image."""
        if reason := self._files.why_broken(self._name):
            self._find("row-malformed", reason, Severity.ERROR)
            return None
        if self._name not in self._files:
            message = "there is no label file; the image is taken as one without objects"
            self._find("label-file-missing", message, Severity.WARNING)
            return ()
        try:
            text = read_text(self._files.uri(self._name), self._report, image=self._image_id)
        except NotTextError as error:
            self._find("row-malformed", f"{error}; export it again", Severity.ERROR)
            return None
        return tuple(self._instances(text))

    def _instances(self, text: str) -> Iterator[Instance]:
        seen: set[str] = set()
        for number, line in enumerate(map(str.strip, lines(text)), 1):
            if line in seen:
                self._find("annotation-duplicate", "duplicate line; kept once", Severity.REPAIRED, number)
            elif line and (instance := self._instance(line, number)):
                file = self._files.uri(self._name)
                self._missing.note(instance, file=file, image=self._image_id, name=f"line {number}")
                yield instance
            seen |= {line} - {""}

    def _instance(self, line: str, number: int) -> Instance | None:
        repairs: list[str] = []
        try:
            label, values = self._parsed(line)
            instance = _box(label, values, self._size_hw, repairs) if len(values) == 4 else None
            instance = instance or _polygon(label, values, self._size_hw, repairs)
        except UnusableAnnotation as problem:
            self._find(problem.code, problem.message, problem.severity, number)
            return None
        if repairs:
            self._find("annotation-repaired", "; ".join(repairs), Severity.REPAIRED, number)
        return instance

    def _parsed(self, line: str) -> tuple[str, list[float]]:
        """The label and the coordinates of a line.

        Raises:
            Problem: a number is missing, not finite, or not relative to the image's size; the class is unknown.
        """
        first, *rest = line.split()
        label = self._names.get(_class_id(first))
        if label is None:
            known = f"0..{max(self._names, default=0)}"
            message = f"class id `{first}` is none of {known} in `names`; correct the line or data.yaml"
            raise UnusableAnnotation("category-unknown", Severity.ERROR, message)
        values = [_number(text) for text in rest]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise UnusableAnnotation("line-malformed", Severity.ERROR, _shape_message(len(values)))
        if any(not -FURTHEST < v < FURTHEST for v in values):
            message = f"coordinates must lie in 0..1, but one is {max(values, key=abs)}; divide by the image's size"
            raise UnusableAnnotation("coordinates-not-relative", Severity.ERROR, message)
        return label, values

    def _find(self, code: str, message: str, severity: Severity, line: int = 0) -> None:
        file = self._files.uri(self._name)
        annotation = f"line {line}" if line else ""
        self._report(finding(code, message, file=file, image=self._image_id, annotation=annotation, severity=severity))


def _box(label: str, values: list[float], size_hw: tuple[int, int], repairs: list[str]) -> Instance:
    (cx, cy, w, h), (height, width) = values, size_hw
    xywh = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
    box_xyxy = box_from_xywh(xywh, size_hw=size_hw, repairs=repairs)
    return Instance(label, None, box_xyxy)


def _polygon(label: str, values: list[float], size_hw: tuple[int, int], repairs: list[str]) -> Instance:
    height, width = size_hw
    pixels = [value * (height if n % 2 else width) for n, value in enumerate(values)]
    mask = mask_from_segmentation([pixels], size_hw=size_hw, repairs=repairs)
    return Instance(label, mask, mask.box_xyxy)


def _class_id(text: str) -> int:
    """A class id, also as `0.0` or `1.0e+00`, as NumPy's `savetxt` writes it; -1 where it is no whole number."""
    value = _value(text)
    return int(value) if value.is_integer() else -1


def _number(text: str) -> float:
    value = _value(text)
    if not math.isfinite(value):
        raise UnusableAnnotation(
            "number-invalid", Severity.ERROR, f"coordinates must be finite numbers, but one is `{text}`"
        )
    return value


def _value(text: str) -> float:
    """A number as C and NumPy write it; NaN where it is none."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _shape_message(count: int) -> str:
    rule = "a line must hold a class and 4 numbers for a box, or at least 3 x, y pairs for a polygon"
    hint = "; a fifth number is a confidence: export truth, or predictions without it" if count == 5 else ""
    return f"{rule}, but holds {counted(count, 'number')}{hint}"


def _is_in_labels(name: str) -> bool:
    return "labels" in PurePosixPath(name).parts[:-1]


def _report_labels_without_image(files: Listing, report: ReportFinding) -> None:
    """Label files whose image is not there: annotations that would be lost without a word."""
    known = {label_name(image) for image in files.images}
    for name in files.with_suffix(".txt"):
        if _is_in_labels(name) and name not in known and PurePosixPath(name).name != "classes.txt":
            message = f"there is no image for the labels `{name}`; put it beside the others, or remove the file"
            report(finding("image-missing", message, file=files.uri(name), image=name))
