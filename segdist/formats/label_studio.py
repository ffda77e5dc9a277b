"""Label Studio's JSON export: brushes, polygons, rectangles and ellipses of each task's latest annotation."""

from collections.abc import Iterable
from typing import Any, ClassVar

from segdist.data.codes import finding
from segdist.data.drawn.label_studio import images_of, latest
from segdist.data.drawn.listed import DrawnFormat, DrawnImage, DrawnOptions
from segdist.data.listing import Listing, Report
from segdist.data.looks import looks_of
from segdist.data.text_files import read_json
from segdist.spec import Strict

__all__ = ["Format", "Options", "recognises"]


class Options(DrawnOptions):
    """Where the JSON files are and what their shapes mean."""


class Format(DrawnFormat):
    """Reads submitted annotations; `/data/upload/1/0a1b2c3d-road.jpg` is the image `road.jpg` below the folder."""

    Options: ClassVar[type[Strict]] = Options
    tool = "Label Studio JSON"

    def annotation_files(self, files: Listing) -> list[str]:
        """JSON files with a list of tasks."""
        return looks_of(files).like("label_studio", ".json")

    def drawn(self, uri: str, report: Report) -> Iterable[DrawnImage]:
        """The images of the tasks of one file that somebody has submitted."""
        content = read_json(uri, report)
        tasks = [task for task in content if isinstance(task, dict)] if isinstance(content, list) else []
        _tell(tasks, uri, report)
        return images_of(content, self.options)


def recognises(files: Listing) -> bool:
    """Whether there is such a file."""
    return bool(looks_of(files).like("label_studio", ".json"))


def _tell(tasks: list[dict[str, Any]], uri: str, report: Report) -> None:
    """Which tasks were not read, or not all that was drawn for them."""
    open_ = sum(latest(task) is None for task in tasks)
    if open_:
        message = f"{open_} task(s) have no annotation that was submitted; their images were not read"
        report(finding("image-unlisted", message, file=uri))
    several = sum(len(task.get("annotations") or ()) > 1 for task in tasks)
    if several:
        message = f"{several} task(s) have several annotations; of each the one that was changed last was read"
        report(finding("annotations-unread", message, file=uri))
