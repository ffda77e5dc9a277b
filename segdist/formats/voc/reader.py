"""Pascal VOC in: boxes of the XML files, masks of the mask images where there are some."""

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from segdist.core.errors import DataError
from segdist.core.records import Instance, ReportFinding, Sample, Severity
from segdist.core.text import NotTextError, counted, lines
from segdist.formats.voc.mask_images import MASK_FOLDERS, MaskImages
from segdist.formats.voc.xml_file import XmlFile, XmlObject, annotation_of
from segdist.reading.class_names import ClassNames
from segdist.reading.codes import Noted, finding
from segdist.reading.collected import Collected, MissingMasks
from segdist.reading.foreign_paths import KnownFiles
from segdist.reading.geometry import UnusableAnnotation, box_from_xyxy, mask_from_segmentation, stated_size
from segdist.reading.image_formats import IMAGE_SUFFIXES
from segdist.reading.listing import (
    SPLITS,
    FolderFormat,
    FolderOptions,
    Listing,
    source_stem,
    split_of,
    stem_of,
    swap_folder,
    upright_size_hw,
)
from segdist.reading.looks import report_unread
from segdist.reading.text_files import read_text
from segdist.reading.xml_files import NotXmlError, read_xml


class Options(FolderOptions):
    """Where the XML files are and how they count."""

    path: str
    """A folder as the VOC devkit has it (Annotations, JPEGImages, ImageSets, ...), or one with images beside XML."""
    first_pixel: Literal[0, 1] = 1
    """Number of the first row and column: 1 in Pascal VOC itself; 0 in LabelImg, CVAT, Roboflow and most others."""
    difficult: Literal["keep", "ignore", "drop"] = "keep"
    """What becomes of objects marked difficult: ignore makes them crowds, which training and evaluation pass over."""
    classes: dict[int, str] = {}
    """Class name by number in SegmentationClass; empty takes labelmap.txt, or the twenty classes of Pascal VOC."""


class Format(FolderFormat[Options]):
    """Reads VOC annotations; lists in ImageSets say which images count and in which split."""

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every listed image, or every image where there are no lists.

        Raises:
            DataError: there are no images.
        """
        files = self.listing()
        if not _photos(files):
            raise DataError(f"There are no images below {files.root}. `path` must name the folder that holds them.")
        places = _Places(files, report)
        reader = _Reader(files, self.options, report)
        for image, (name, content) in places.annotated():
            if sample := reader.sample(image, name, content, places.split(image)):
                yield sample
        reader.close()
        report_unread(files, [*files.with_suffix(".xml"), *reader.mask_files()], report)


class _Places:
    """Which XML file belongs to which image, and which split the image is in."""

    def __init__(self, files: Listing, report: ReportFinding) -> None:
        self._files, self._report = files, report
        self._splits = _image_sets(files, report)
        self._photos = dict.fromkeys(_photos(files))
        self._known = KnownFiles(self._photos)
        self._unreadable: set[str] = set()
        self._by_name: dict[str, list[str]] = {}
        for photo in self._photos:
            self._by_name.setdefault(PurePosixPath(photo).name.lower(), []).append(photo)
            self._by_name.setdefault(PurePosixPath(photo).stem.lower(), []).append(photo)

    def split(self, image: str) -> str:
        """The split of an image, by its list or its folder."""
        return self._splits.get(PurePosixPath(image).stem, split_of(image) or "")

    def annotated(self) -> Iterator[tuple[str, tuple[str, XmlFile | None]]]:
        """Each image with its XML file: one without is taken as one without objects, and reported."""
        of_image: dict[str, tuple[str, XmlFile | None]] = {}
        for name in self._files.with_suffix(".xml"):
            content = self._parsed(name)
            if content is None:
                continue
            image = self._image_of(name, content.filename)
            if not image:
                message = f"there is no image `{content.filename or stem_of(name)}` for it; put it into JPEGImages"
                self._report(finding("image-missing", message, file=self._files.uri(name), image=content.filename))
            elif image in of_image:
                message = f"`{of_image[image][0]}` annotates {image} already; this file was left out"
                self._report(finding("image-name-duplicate", message, file=self._files.uri(name), image=image))
            else:
                of_image[image] = (name, content)
        for photo in self._photos:
            own = of_image.get(photo, (stem_of(swap_folder(photo, "JPEGImages", "Annotations") or photo) + ".xml",))[0]
            if photo not in self._unreadable and (reason := self._files.why_broken(own)):
                self._skip(photo, f"{reason}; its image is left out", self._files.uri(own))
        unlisted = [p for p in self._photos if self._splits and PurePosixPath(p).stem not in self._splits]
        if unlisted:
            message = (
                f"in no list of ImageSets, so not read: {counted(len(unlisted), 'image')}: {', '.join(unlisted[:4])}"
            )
            self._report(finding("image-unlisted", message, file=self._files.root))
        for photo in self._photos:
            if photo not in unlisted and photo not in self._unreadable:
                yield photo, of_image.get(photo, ("", None))

    def _parsed(self, name: str) -> XmlFile | None:
        uri = self._files.uri(name)
        own = self._image_of(name, "")
        try:
            root = read_xml(uri, self._report, image=own)
        except NotXmlError as error:
            self._skip(own, f"{error}; export the annotation again", uri)
            return None
        content = annotation_of(root)
        if content is None:
            self._unreadable.add(own)
            lost = f", and {own} is left out with it" if own else ""
            message = f"its root is no `annotation`, but `{root.tag:.40}`; it was not read{lost}"
            self._report(finding("file-unread", message, file=uri, image=own))
        return content

    def _skip(self, image: str, why: str, uri: str) -> None:
        """Leave out the image of a file that cannot be read: nobody knows what is on it."""
        self._unreadable.add(image)
        self._report(finding("row-malformed", why, file=uri, image=image))

    def _image_of(self, name: str, filename: str) -> str:
        """The photo of an XML file: of its own stem beside it or in JPEGImages, or of the name that it writes."""
        written = PurePosixPath(filename.replace("\\", "/")).name.lower()
        for key in (PurePosixPath(name).stem.lower(), written):
            found = self._by_name.get(key, [])
            near = [p for p in found if _is_beside(p, name)]
            if len(near or found) == 1:
                return (near or found)[0]
        folder = str(PurePosixPath(name).parent)
        return self._known.match(filename, split=split_of(name) or "", near=folder).name


class _Reader:
    """Turns XML files and mask images into samples."""

    def __init__(self, files: Listing, options: Options, report: ReportFinding) -> None:
        self._files, self._options, self._report = files, options, report
        self._names, self._missing = ClassNames(report), MissingMasks(report)
        self._masks = MaskImages(files, options.classes, self._names, report)
        self._counts_from_0 = ""

    def sample(self, image: str, name: str, content: XmlFile | None, split: str) -> Sample | None:
        uri = self._files.uri(image)
        if reason := self._masks.why_broken(image):
            self._report(finding("mask-unreadable", f"its mask: {reason}", file=uri, image=image))
            return None
        if content is None and not self._masks.has(image):
            message = "there is no XML file for it; it is taken as one without objects"
            self._report(finding("label-file-missing", message, file=uri, image=image))
        if content and content.is_segmented and not self._masks.has(image):
            message = "it is marked as segmented, but has no mask image; its boxes are read"
            self._report(finding("label-file-missing", message, file=self._files.uri(name), image=image))
        size_hw = self._size_hw(image, name, content)
        if size_hw is None:
            return None
        collected = Collected(self._files.uri(name) if name else uri, image, self._report, self._missing)
        objects = list(self._objects(content, size_hw, collected))
        try:
            joined = list(self._masks.joined(image, objects, size_hw))
        except UnusableAnnotation as problem:  # of a mask image: nobody knows what is on the photo
            collected.note(problem.code, problem.message, severity=problem.severity)
            return None
        for instance, number in joined:
            collected.add(instance, number)
        return Sample(image, uri, size_hw, tuple(collected.instances), split, source_stem(image))

    def mask_files(self) -> list[str]:
        """The mask images that belong to photos."""
        return self._masks.files()

    def close(self) -> None:
        self._missing.close()
        if self._counts_from_0 and self._options.first_pixel == 1:
            message = f"a box begins at 0, but {self._counts_from_0} is read as counting from 1; set first_pixel: 0"
            self._report(finding("box-off-by-one", message, file=self._files.root))

    def _size_hw(self, image: str, name: str, content: XmlFile | None) -> tuple[int, int] | None:
        try:
            stated = stated_size(*content.size_hw) if content else None
        except UnusableAnnotation as problem:
            self._report(finding(problem.code, problem.message, file=self._files.uri(name), image=image))
            return None
        if stated is None:
            if content:
                message = f"`size` must be whole numbers above 0, but is {content.size_hw}; taken from the image"
                file = self._files.uri(name)
                self._report(finding("image-size-invalid", message, file=file, image=image, severity=Severity.REPAIRED))
            return upright_size_hw(self._files.uri(image), image_id=image, report=self._report)
        return stated

    def _objects(
        self, content: XmlFile | None, size_hw: tuple[int, int], collected: Collected
    ) -> Iterator[tuple[Instance | None, str]]:
        """Every object of the file by its number, None where it cannot be used: mask images count them all."""
        for number, one in enumerate(content.objects if content else (), 1):
            name = f"object {number}"
            if one.is_difficult and self._options.difficult == "drop":
                collected.note("object-difficult", "it is marked difficult and was left out", name)
                yield None, name
                continue
            instance, notes = self._instance(one, size_hw)
            for code, severity, message in notes:
                collected.note(code, message, name, severity)
            yield instance, name

    def _instance(self, one: XmlObject, size_hw: tuple[int, int]) -> tuple[Instance | None, list[Noted]]:
        repairs: list[str] = []
        try:
            if not one.name:
                raise UnusableAnnotation("category-unknown", Severity.ERROR, "an object must have a `name`; add it")
            polygon = [self._shifted(list(one.polygon), low=True)] if one.polygon else None
            mask = mask_from_segmentation(polygon, size_hw=size_hw, repairs=repairs) if polygon else None
            box_xyxy = box_from_xyxy(self._corners(one), size_hw=size_hw, repairs=repairs)
        except UnusableAnnotation as problem:
            return None, [(problem.code, problem.severity, problem.message)]
        said = [r for r in dict.fromkeys(repairs) if "as strings" not in r]  # XML knows text only
        notes: list[Noted] = [("annotation-repaired", Severity.REPAIRED, "; ".join(said))] if said else []
        is_crowd = one.is_difficult and self._options.difficult == "ignore"
        return Instance(self._names(one.name, self._files.root), mask, box_xyxy, is_crowd=is_crowd), notes

    def _corners(self, one: XmlObject) -> list[object]:
        """The corners with x2 and y2 exclusive; VOC counts from 1 and includes the last pixel, so those stay."""
        low, high = list(one.corners[:2]), list(one.corners[2:])
        if any(_number(v) == 0 for v in low):
            self._counts_from_0 = self._counts_from_0 or self._files.root
        return [*self._shifted(low, low=True), *high]

    def _shifted(self, values: list[Any], *, low: bool) -> list[Any]:
        """Values counted from 0; what is no number stays for the check that names it."""
        if not low or self._options.first_pixel == 0:
            return values
        return [value if math.isnan(number := _number(value)) else number - 1 for value in values]


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _is_beside(photo: str, name: str) -> bool:
    """Whether an XML file lies in a photo's folder, or in the folder beside it, as Annotations and JPEGImages do."""
    own, other = PurePosixPath(photo).parent, PurePosixPath(name).parent
    return own == other or own.parent == other.parent


def _photos(files: Listing) -> list[str]:
    """Images that are no masks."""
    return [n for n in files.images if not set(PurePosixPath(n).parts[:-1]) & set(MASK_FOLDERS)]


def _image_sets(files: Listing, report: ReportFinding) -> Mapping[str, str]:
    """The split by stem, from ImageSets/*/train.txt and the like; the first list that names an image counts."""
    found: dict[str, str] = {}
    for name in files.with_suffix(".txt"):
        parts, split = PurePosixPath(name).parts, SPLITS.get(PurePosixPath(name).stem.lower())
        if split is None or "ImageSets" not in parts:
            continue
        try:
            text = read_text(files.uri(name), report)
        except NotTextError as error:
            raise DataError(f"{files.uri(name)}: {error}. Write the list anew, one image a line.") from None
        for line in filter(None, (line.strip() for line in lines(text))):
            written = PurePosixPath(line.split()[0].replace("\\", "/"))
            stem = written.stem if written.suffix.lower() in IMAGE_SUFFIXES else written.name
            if found.setdefault(stem, split) != split:
                message = f"`{stem}` is listed for {found[stem]} and for {split}; {found[stem]} counts"
                report(finding("image-in-two-splits", message, file=files.uri(name), image=stem))
    return found
