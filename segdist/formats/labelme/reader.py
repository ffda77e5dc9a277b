"""LabelMe in: every shape is an instance or part of one, or a finding that names it."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any

from segdist.core import storage
from segdist.core.bounded_json import parse_json
from segdist.core.errors import DataError
from segdist.core.records import Instance, ReportFinding, Sample
from segdist.core.text import counted, guess_text, short
from segdist.formats.labelme.shapes import part_of
from segdist.reading.class_names import ClassNames
from segdist.reading.codes import finding
from segdist.reading.collected import Collected, MissingMasks
from segdist.reading.drawn.listed import Shape, gather
from segdist.reading.drawn.shapes import ShapeOptions
from segdist.reading.foreign_paths import known_images
from segdist.reading.geometry import UnusableAnnotation, stated_size
from segdist.reading.images import header_of
from segdist.reading.listing import (
    FolderFormat,
    FolderOptions,
    Listing,
    source_stem,
    split_of,
    stem_of,
    upright_size_hw,
)
from segdist.reading.looks import looks_of, report_unread
from segdist.reading.text_files import read_json

_BACKGROUND = ("__ignore__", "_background_")
"""Labels that LabelMe's own converters leave out."""


class Options(FolderOptions, ShapeOptions):
    """Where the JSON files are and what their shapes mean."""

    path: str
    """A folder with JSON files and images at any depth; folders called train, valid and test are splits."""


class Format(FolderFormat[Options]):
    """Reads LabelMe's files; shapes of one label and `group_id` are parts of one instance."""

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every annotated image. Images without a JSON file have not been annotated: they are named, and not read.

        Raises:
            DataError: there are no JSON files with shapes.
        """
        files = self.listing()
        looks = looks_of(files)
        broken = [n for n in looks.like("broken JSON", ".json") if looks.is_of_image(n)]
        found = looks.like("labelme", ".json")
        if not found:
            raise DataError(f"There are no LabelMe files below {files.root}: no JSON file with `shapes`.")
        found = sorted([*found, *broken])
        names, missing, used = ClassNames(report), MissingMasks(report), set[str]()
        for name in found:
            if sample := _File(files, name, self.options, names, missing, report).sample(used):
                yield sample
        missing.close()
        if left := [image for image in files.images if image not in used]:
            shown = ", ".join(left[:4])
            message = f"without a JSON file, so not read: {counted(len(left), 'image')}: {shown}"
            report(finding("image-unlisted", message, file=files.root))
        report_unread(files, found, report)

    def image_bytes(self, sample: Sample) -> bytes:
        """The image file, or what `imageData` holds."""
        content = storage.read_bytes(sample.image_uri)
        return (
            embedded_image(parse_json(guess_text(content).content)) or b""
            if sample.image_uri.lower().endswith(".json")
            else content
        )


class _File:
    """One JSON file."""

    def __init__(
        self,
        files: Listing,
        name: str,
        options: Options,
        names: ClassNames,
        missing: MissingMasks,
        report: ReportFinding,
    ) -> None:
        self._files, self._name, self._options, self._names = files, name, options, names
        self._missing, self._report, self._uri = missing, report, files.uri(name)

    def sample(self, used: set[str]) -> Sample | None:
        """The annotated image; `used` collects the image files that are annotated."""
        content = self._content(used)
        if content is None:
            return None
        written = str(content.get("imagePath") or "").replace("\\", "/")
        image = _image_of(self._files, self._name, written)
        if image in used:
            message = f"another JSON file annotates {image} already; this one was left out"
            self._report(finding("image-name-duplicate", message, file=self._uri, image=image))
            return None
        embedded = None if image else embedded_image(content)
        image_id = image or str(
            PurePosixPath(self._name).parent / (PurePosixPath(written).name or f"{stem_of(self._name)}")
        )
        if not image and not embedded:
            message = f"there is no image `{written}` beside it, and no usable `imageData`; put the image there"
            self._report(finding("image-missing", message, file=self._uri, image=image_id))
            return None
        used.add(image_id)
        uri = self._files.uri(image) if image else self._uri
        size_hw = self._size_hw(content, uri, image_id, embedded)
        if size_hw is None:
            return None
        instances = tuple(self._instances(content["shapes"], image_id, size_hw))
        return Sample(image_id, uri, size_hw, instances, split_of(self._name) or "", source_stem(image_id))

    def _content(self, used: set[str]) -> dict[str, Any] | None:
        """What the file says; None, and a finding, where it cannot be read: nobody knows what is on its image."""
        own = _image_of(self._files, self._name, "")
        try:
            content = read_json(self._uri, self._report, image=own)
            if isinstance(content, dict) and isinstance(content.get("shapes"), list):
                return content
            message = "it must be an object with a list `shapes`"
        except ValueError as error:
            message = f"{error}; save the annotation again"
        used.add(own)
        self._report(finding("row-malformed", message, file=self._uri, image=own))
        return None

    def _size_hw(
        self, content: Mapping[str, object], uri: str, image_id: str, embedded: bytes | None
    ) -> tuple[int, int] | None:
        """The annotated frame: as stated, or else the image's own size."""
        try:
            stated = stated_size(content.get("imageHeight"), content.get("imageWidth"))
        except UnusableAnnotation as problem:
            self._report(finding(problem.code, problem.message, file=self._uri, image=image_id))
            return None
        if stated:
            return stated
        if embedded is None:
            return upright_size_hw(uri, image_id=image_id, report=self._report)
        try:
            return header_of(embedded, name="`imageData`").size_hw
        except DataError as error:
            self._report(finding("image-unreadable", str(error), file=uri, image=image_id))
            return None

    def _instances(self, shapes: list[object], image_id: str, size_hw: tuple[int, int]) -> Iterator[Instance]:
        collected = Collected(self._uri, image_id, self._report, self._missing)
        gather(self._shapes(shapes, collected), size_hw, collected, lambda label: self._names(label, self._uri))
        return iter(collected.instances)

    def _shapes(self, shapes: list[object], collected: Collected) -> Iterator[Shape]:
        for number, shape in enumerate(shapes, 1):
            name = f"shape {number}"
            if not isinstance(shape, dict):
                collected.note("annotation-malformed", f"a shape must be an object, but is {short(shape)}", name)
                continue
            label = shape["label"] if isinstance(shape.get("label"), str) else ""
            if label in _BACKGROUND:
                collected.note("class-ignored", f"`{label}` is LabelMe's name for what is no object", name)
                continue
            yield Shape(label, name, partial(part_of, shape, self._options), shape.get("group_id"))


@lru_cache(maxsize=2)
def _beside(files: Listing) -> Mapping[str, str]:
    """The images by their path in lower case, with and without a suffix."""
    return {stem_of(name).lower(): name for name in files.images} | {name.lower(): name for name in files.images}


def _image_of(files: Listing, name: str, written: str) -> str:
    """The image file: where `imagePath` says, or beside the JSON file by name or stem, or by the end of its path."""
    folder, images = PurePosixPath(name).parent, _beside(files)
    for candidate in (_resolved(folder, written), written):
        if written and images.get(candidate.lower()) == candidate:
            return candidate
    own = images.get(str(folder / PurePosixPath(written).name).lower()) or images.get(stem_of(name).lower())
    return own or known_images(files).match(written, split=split_of(name) or "", near=str(folder)).name


def _resolved(folder: PurePosixPath, written: str) -> str:
    """A path from the source's folder with `..` taken away; one that leaves it finds nothing there."""
    parts: list[str] = []
    for part in (folder / written).parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def embedded_image(content: Mapping[str, object]) -> bytes | None:
    """The image inside the file; None where there is none that can be decoded."""
    data = content.get("imageData")
    if not isinstance(data, str) or not data:
        return None
    try:
        return base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error):
        return None
