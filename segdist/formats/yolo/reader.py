"""YOLO labels in: every line is a box or a polygon, or a finding that names it."""

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import ClassVar

from segdist import storage
from segdist.data.class_names import ClassNames
from segdist.data.codes import finding
from segdist.data.geometry import Problem, box_from_xywh, mask_from_segmentation
from segdist.data.listing import FolderFormat, Listing, Report, source_stem, upright_size_hw
from segdist.formats.yolo.layout import find_layout, label_name
from segdist.records import Instance, Sample, Severity
from segdist.spec import Strict

FURTHEST = 2.0
"""A coordinate in 0..1 that is larger than this, or below its negative, was not divided by the image's size."""


class Options(Strict):
    """Where the data set is."""

    path: str
    """The folder with data.yaml, or one with images and label files."""
    names: tuple[str, ...] = ()
    """Class names by id; empty takes those of data.yaml or classes.txt."""


class Format(FolderFormat):
    """Reads YOLO labels. An image without a label file has no object, as YOLO's own trainer takes it."""

    Options: ClassVar[type[Strict]] = Options

    def read(self, report: Report) -> Iterator[Sample]:
        """Every image of every split."""
        files = self.listing()
        layout = find_layout(files, self.options.names, report)
        names = ClassNames(report).table(layout.names, layout.file)
        _report_lonely_labels(files, report)
        for image, split in layout.images.items():
            size_hw = upright_size_hw(files.uri(image), image_id=image, report=report)
            if size_hw:
                instances = tuple(_Labels(files, label_name(image), names, size_hw, image, report).instances())
                yield Sample(image, files.uri(image), size_hw, instances, split, source_stem(image))


class _Labels:
    """The label file of one image."""

    def __init__(
        self,
        files: Listing,
        name: str,
        names: Mapping[int, str],
        size_hw: tuple[int, int],
        image_id: str,
        report: Report,
    ) -> None:
        self._files, self._name, self._names, self._size_hw = files, name, names, size_hw
        self._image_id, self._report = image_id, report

    def instances(self) -> Iterator[Instance]:
        if self._name not in self._files:
            message = "there is no label file; the image is taken as one without objects"
            self._find("label-file-missing", message, Severity.WARNING)
            return
        text = storage.read_bytes(self._files.uri(self._name)).decode("utf-8-sig", errors="replace")
        seen: set[str] = set()
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            if line in seen:
                self._find("annotation-duplicate", "the same line stands twice; kept once", Severity.REPAIRED, number)
            elif instance := self._instance(line, number):
                yield instance
            seen.add(line)

    def _instance(self, line: str, number: int) -> Instance | None:
        repairs: list[str] = []
        try:
            label, values = self._parsed(line)
            instance = _box(label, values, self._size_hw, repairs) if len(values) == 4 else None
            instance = instance or _polygon(label, values, self._size_hw, repairs)
        except Problem as problem:
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
        label = self._names.get(int(first)) if first.isdigit() else None
        if label is None:
            message = f"class id `{first}` is none of 0..{max(self._names)} in `names`; correct the line or data.yaml"
            raise Problem("category-unknown", Severity.ERROR, message)
        values = [_number(text) for text in rest]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise Problem("line-malformed", Severity.ERROR, _shape_message(len(values)))
        if any(not -FURTHEST < v < FURTHEST for v in values):
            message = f"coordinates must lie in 0..1, but one is {max(values, key=abs)}; divide by the image's size"
            raise Problem("coordinates-not-relative", Severity.ERROR, message)
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


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Problem("number-invalid", Severity.ERROR, f"coordinates must be finite numbers, but one is `{text}`")
    return value


def _shape_message(count: int) -> str:
    rule = "a line must hold a class and 4 numbers for a box, or at least 3 x, y pairs for a polygon"
    hint = "; a fifth number is a confidence: export truth, or predictions without it" if count == 5 else ""
    return f"{rule}, but holds {count} numbers{hint}"


def _report_lonely_labels(files: Listing, report: Report) -> None:
    """Label files whose image is not there: annotations that would be lost without a word."""
    known = {label_name(image) for image in files.images}
    for name in files.with_suffix(".txt"):
        if (
            "labels" in PurePosixPath(name).parts[:-1]
            and name not in known
            and PurePosixPath(name).name != "classes.txt"
        ):
            message = f"there is no image for the labels `{name}`; put it beside the others, or remove the file"
            report(finding("image-missing", message, file=files.uri(name), image=name))
