"""Annotation files that list several images with the shapes drawn on each, as samples.

A tool's own module says what its files hold (`DrawnImage`); what images they mean, and what may be wrong with them, is
the same for all of them and stands here.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, TypeVar

from segdist.core.errors import DataError
from segdist.core.records import ReportFinding, Sample, Severity
from segdist.core.spec import digest
from segdist.core.text import counted
from segdist.reading.class_names import ClassNames
from segdist.reading.codes import finding
from segdist.reading.collected import Collected, MissingMasks
from segdist.reading.drawn.shapes import Part, ShapeOptions, joined
from segdist.reading.foreign_paths import Match, known_images
from segdist.reading.geometry import UnusableAnnotation, stated_size
from segdist.reading.listing import SPLITS, FolderFormat, FolderOptions, Listing, source_stem, split_of, upright_size_hw
from segdist.reading.looks import report_unread

SizeHw = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """One shape as it is written.

    Attributes:
        label: the class name; "" where there is none.
        name: what messages call it.
        part: what it covers in an image of a size, and what was repaired; raises `UnusableAnnotation`.
        group: shapes of one image, label and group are parts of one instance; None where it stands alone.
    """

    label: str
    name: str
    part: Callable[[SizeHw, list[str]], Part]
    group: object = None


@dataclass(frozen=True)
class DrawnImage:
    """One image with everything drawn on it.

    Attributes:
        names: what the image may be called, the likeliest first: paths and URLs as they are written.
        shapes: in order.
        size_hw: as it is stated; None where it is not.
        split: the name of a split, as the tool writes it.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    size_hw: tuple[object, object] | None = None
    split: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.names[0] if self.names else ""


class DrawnOptions(FolderOptions, ShapeOptions):
    """Where the annotation files are and what their shapes mean."""

    path: str
    """The annotation file, or a folder with such files and images at any depth; folders called train, valid and test
    are splits."""


DrawnOptionsT_co = TypeVar("DrawnOptionsT_co", bound=DrawnOptions, covariant=True)


class DrawnFormat(FolderFormat[DrawnOptionsT_co]):
    """Reads the annotation files of a tool below a folder, or one of them by its path."""

    tool: ClassVar[str]
    """What messages call the files."""

    @abstractmethod
    def annotation_files(self, files: Listing) -> list[str]:
        """The files to read."""

    @abstractmethod
    def drawn(self, uri: str, report: ReportFinding) -> Iterable[DrawnImage]:
        """The images of one file.

        Raises:
            ValueError: it cannot be read; the message says why.
        """

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image that a file lists. Others have not been annotated: they are named, and not read.

        Raises:
            DataError: there is no such file.
        """
        listed = self.listing()
        places = self.annotation_files(listed)
        if not places:
            raise DataError(f"There is no {self.tool} file below {listed.root}. `path` must name one, or its folder.")
        is_named = listed.place != listed.root
        files = Listing(listed.root) if is_named else listed
        reader = _Reader(files, self.options, report)
        for place in places:
            uri = files.uri(place)
            try:
                images = list(self.drawn(uri, report))
            except ValueError as error:
                report(finding("source-unreadable", f"{error}; export it again", file=uri))
                continue
            yield from reader.samples(place, images)
        reader.close()
        if not is_named:
            report_unread(files, places, report)

    def signature(self) -> str:
        """Changes with the options and with the name, size or time of any file beside."""
        files = self.listing()
        around = [(e.uri, e.size, e.stamp) for e in Listing(files.root).entries.values()]
        return digest([super().signature(), around])


class _Reader:
    """Turns the images of annotation files into samples."""

    def __init__(self, files: Listing, options: DrawnOptions, report: ReportFinding) -> None:
        self._files, self._options, self._report = files, options, report
        self._known = known_images(files)
        self._names, self._missing = ClassNames(report), MissingMasks(report)
        self._used: dict[str, str] = {}

    def samples(self, place: str, images: Sequence[DrawnImage]) -> Iterator[Sample]:
        """The images of one file."""
        uri = self._files.uri(place)
        for image, match in zip(images, self._matches(images, place), strict=True):
            if not match.name:
                rivals = f": it may be {' or '.join(match.rivals[:3])}" if match.rivals else ""
                message = f"there is no image `{image.name:.200}` below {self._files.root}{rivals}; put it there"
                self._report(finding("image-missing", message, file=uri, image=image.name))
            elif match.name in self._used:
                message = f"`{self._used[match.name]}` annotates {match.name} already; this entry was left out"
                self._report(finding("image-name-duplicate", message, file=uri, image=match.name))
            elif sample := self._sample(match.name, image, place):
                yield sample
            self._used.setdefault(match.name, place)

    def close(self) -> None:
        """Tell what concerns the whole source."""
        self._missing.close()
        if left := [name for name in self._files.images if name not in self._used]:
            message = f"in no annotation file, so not read: {counted(len(left), 'image')}: {', '.join(left[:4])}"
            self._report(finding("image-unlisted", message, file=self._files.root))

    def _matches(self, images: Sequence[DrawnImage], place: str) -> list[Match]:
        """The file that each image means, never one file for images that are written with different paths."""
        folder = str(PurePosixPath(place).parent)
        near = "" if folder == "." else folder
        splits = [SPLITS.get(image.split.lower()) or split_of(place) or "" for image in images]
        written = [self._likeliest(image, split, near) for image, split in zip(images, splits, strict=True)]
        found = {
            split: self._known.match_all(
                [w for w, s in zip(written, splits, strict=True) if s == split], split=split, near=near
            )
            for split in set(splits)
        }
        return [found[split][name] for name, split in zip(written, splits, strict=True)]

    def _likeliest(self, image: DrawnImage, split: str, near: str) -> str:
        """The first of the names of an image that a file has; the first where none has."""
        names = (name for name in image.names if self._known.match(name, split=split, near=near).name)
        return next(names, image.name)

    def _sample(self, name: str, image: DrawnImage, place: str) -> Sample | None:
        uri = self._files.uri(name)
        size_hw = self._size_hw(name, image, self._files.uri(place))
        if size_hw is None:
            return None
        collected = Collected(self._files.uri(place), name, self._report, self._missing)
        gather(image.shapes, size_hw, collected, lambda label: self._names(label, self._files.uri(place)))
        split = SPLITS.get(image.split.lower()) or split_of(name) or split_of(place) or ""
        return Sample(name, uri, size_hw, tuple(collected.instances), split, source_stem(name))

    def _size_hw(self, name: str, image: DrawnImage, file: str) -> SizeHw | None:
        """The annotated frame: as stated where the image has these sides; None, and a finding, where it cannot be."""
        actual = upright_size_hw(self._files.uri(name), image_id=name, report=self._report)
        if actual is None or image.size_hw is None:
            return actual
        stated = stated_size(*image.size_hw, most=math.inf)
        if stated is None:
            message = f"height and width must be whole numbers above 0, but are {image.size_hw}; taken from the image"
            self._report(finding("image-size-invalid", message, file=file, image=name, severity=Severity.REPAIRED))
            return actual
        if sorted(stated) == sorted(actual):  # a photo that EXIF turns may be annotated as it is stored
            return stated
        message = f"it was annotated at (h, w) {stated}, but has {actual}; put the annotated image there, or draw anew"
        self._report(finding("image-size-differs", message, file=file, image=name))
        return None


def gather(shapes: Iterable[Shape], size_hw: SizeHw, collected: Collected, spelled: Callable[[str], str]) -> None:
    """Collect the instances of an image from its shapes; what is wrong with one is noted, and the others stay."""
    groups: dict[tuple[str, str], list[Part]] = {}
    for shape in shapes:
        repairs: list[str] = []
        try:
            if not shape.label.strip():
                raise UnusableAnnotation("category-unknown", Severity.ERROR, "it has no class; give it one")
            label = spelled(shape.label)
            part = shape.part(size_hw, repairs)
        except UnusableAnnotation as problem:
            collected.note(problem.code, problem.message, shape.name, problem.severity)
            continue
        if repairs:
            collected.note("annotation-repaired", "; ".join(dict.fromkeys(repairs)), shape.name)
        name = shape.name if shape.group is None else f"group {shape.group}"
        groups.setdefault((label, name), []).append(part)
    for (label, name), parts in groups.items():
        collected.add(joined(label, parts, size_hw), name)
