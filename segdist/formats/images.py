"""A folder of bare images, to be labelled or browsed."""

from collections.abc import Iterator

from segdist.core.errors import DataError
from segdist.core.records import ReportFinding, Sample
from segdist.reading.listing import FolderFormat, FolderOptions, source_stem, split_of, upright_size_hw
from segdist.reading.looks import report_unread


class Options(FolderOptions):
    """Where the images lie."""

    path: str
    """A folder with images at any depth; folders called train, valid and test are splits."""


class Format(FolderFormat[Options]):
    """Reads images without a label; `segdist data convert` takes a folder for this only where no format fits."""

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image below the folder."""
        files = self.listing()
        if not files.images:
            raise DataError(f"There are no images below {files.root}. `path` must name a folder that holds some.")
        for name in files.images:
            uri = files.uri(name)
            size_hw = upright_size_hw(uri, image_id=name, report=report)
            if size_hw:
                yield Sample(name, uri, size_hw, split=split_of(name) or "", group=source_stem(name))
        report_unread(files, (), report)
