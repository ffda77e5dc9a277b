"""Boxes in one text file an image: `photo.corners` beside `photo.png`, with lines such as `roof 3 4 20 15`."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from segdist.core.records import Instance, ReportFinding, Sample
from segdist.core.text import NotTextError
from segdist.reading.codes import finding
from segdist.reading.geometry import UnusableAnnotation, box_from_xyxy
from segdist.reading.listing import FolderFormat, FolderOptions, Listing, split_of, upright_size_hw
from segdist.reading.looks import report_unread
from segdist.reading.text_files import read_text

SUFFIX = ".corners"


def recognises(files: Listing) -> bool:
    """Whether there is any such file."""
    return bool(files.with_suffix(SUFFIX))


class Options(FolderOptions):
    """Where the files are."""

    path: str
    """A folder with images at any depth; folders called train, valid and test are splits."""


class Format(FolderFormat[Options]):
    """Reads the boxes of each image; an image without a file is one without objects."""

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image below the folder."""
        files = self.listing()
        for name in files.images:
            uri = files.uri(name)
            size_hw = upright_size_hw(uri, image_id=name, report=report)
            if size_hw:
                boxes = str(PurePosixPath(name).with_suffix(SUFFIX))
                instances = tuple(_instances(files.uri(boxes), size_hw, report)) if boxes in files else ()
                yield Sample(name, uri, size_hw, instances, split_of(name) or "")
        report_unread(files, files.with_suffix(SUFFIX), report)


def _instances(uri: str, size_hw: tuple[int, int], report: ReportFinding) -> Iterator[Instance]:
    try:
        lines = read_text(uri, report).splitlines()
    except NotTextError as error:
        report(finding("row-malformed", str(error), file=uri))
        return
    for number, line in enumerate(lines, 1):
        repairs: list[str] = []
        label, *corners = line.split() or ("",)
        try:
            yield Instance(label, None, box_from_xyxy(corners, size_hw=size_hw, repairs=repairs))
        except UnusableAnnotation as unusable:
            report(finding(unusable.code, f"line {number}: {unusable.message}", file=uri, severity=unusable.severity))
