"""Label Studio's JSON export: brushes, polygons, rectangles and ellipses of each task's latest annotation."""

from collections.abc import Iterator

from segdist.core.records import ReportFinding
from segdist.core.text import counted
from segdist.reading.codes import finding
from segdist.reading.drawn.label_studio import image_of, regions_of
from segdist.reading.drawn.listed import DrawnFormat, DrawnImage, DrawnOptions
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of
from segdist.reading.text_files import read_json

__all__ = ["Format", "Options", "recognises"]


class Options(DrawnOptions):
    """Where the JSON files are and what their shapes mean."""


class Format(DrawnFormat[Options]):
    """Reads submitted annotations; `/data/upload/1/0a1b2c3d-road.jpg` is the image `road.jpg` below the folder."""

    tool = "Label Studio JSON"

    def annotation_files(self, files: Listing) -> list[str]:
        """JSON files with a list of tasks."""
        return looks_of(files).like("label_studio", ".json")

    def drawn(self, uri: str, report: ReportFinding) -> Iterator[DrawnImage]:
        """The images of the tasks of one file that somebody has submitted; a task that is broken is left out."""
        content = read_json(uri, report)
        if not isinstance(content, list):
            raise ValueError(f"it must be a list of tasks, but is {type(content).__name__}")
        open_ = several = 0
        for number, task in enumerate(content, 1):
            try:
                regions = regions_of(task)
            except ValueError as error:
                report(finding("row-malformed", f"{error}; export it again", file=uri, annotation=f"task {number}"))
                continue
            if regions is None:
                open_ += 1
                continue
            several += len(task.get("annotations") or ()) > 1
            yield image_of(task, regions, self.options)
        if open_:
            message = f"not read, for no annotation of it was submitted: {counted(open_, 'task')}"
            report(finding("image-unlisted", message, file=uri))
        if several:
            message = (
                f"{counted(several, 'task has', 'tasks have')} several annotations: the one that "
                f"was changed last was read"
            )
            report(finding("annotations-unread", message, file=uri))


def recognises(files: Listing) -> bool:
    """Whether there is such a file."""
    return bool(looks_of(files).like("label_studio", ".json"))
