"""CVAT's XML, kind "CVAT for images 1.1": polygons, masks, boxes, ellipses and lines on the images of tasks."""

from collections.abc import Iterable

from segdist.core.records import ReportFinding
from segdist.reading.drawn.cvat import images_of
from segdist.reading.drawn.listed import DrawnFormat, DrawnImage, DrawnOptions
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of
from segdist.reading.xml_files import read_xml

__all__ = ["Format", "Options", "recognises"]


class Options(DrawnOptions):
    """Where the XML files are and what their shapes mean."""


class Format(DrawnFormat[Options]):
    """Reads every image of every task; shapes of one label and `group_id` are parts of one instance."""

    tool = "CVAT XML"

    def annotation_files(self, files: Listing) -> list[str]:
        """XML files with the root `annotations`."""
        return looks_of(files).like("cvat", ".xml")

    def drawn(self, uri: str, report: ReportFinding) -> Iterable[DrawnImage]:
        """The images of one file."""
        return images_of(read_xml(uri, report), self.options)


def recognises(files: Listing) -> bool:
    """Whether there is such a file."""
    return bool(looks_of(files).like("cvat", ".xml"))
