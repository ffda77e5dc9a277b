"""Tables of images and objects in: every row is an image with its instances, or a finding that names it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from segdist.core import storage
from segdist.core.bounded_json import read_json
from segdist.core.bounded_yaml import load_yaml
from segdist.core.errors import DataError
from segdist.core.records import ReportFinding, Sample
from segdist.formats.hf_objects.columns import Malformed, annotations, class_names
from segdist.reading.class_names import ClassNames
from segdist.reading.coco.frames import BoxFrames
from segdist.reading.coco.instances import instance_of
from segdist.reading.codes import finding
from segdist.reading.collected import Collected, MissingMasks
from segdist.reading.foreign_paths import known_images
from segdist.reading.geometry import UnusableAnnotation, stated_size
from segdist.reading.images import header_of
from segdist.reading.listing import SPLITS, FolderFormat, FolderOptions, Listing, source_stem, split_of, upright_size_hw
from segdist.reading.looks import report_unread
from segdist.reading.table_rows import MARK, TableRows, is_row

_SPLIT_IN_NAME = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?=[-_.]|$)", re.IGNORECASE)
_STATE, _INFO = "state.json", "dataset_info.json"


class Options(FolderOptions):
    """Where the tables are and how they were written."""

    path: str
    """A folder with Parquet or Arrow files at any depth, one such file, or what `save_to_disk` wrote."""
    names: tuple[str, ...] = ()
    """Class names by number; empty takes those of the features."""
    boxes: Literal["xywh", "xyxy"] = "xywh"
    """xywh: x, y, width, height in pixels, as in COCO. xyxy: corners in pixels, as in Pascal VOC."""
    image: str = "image"
    """Name of the column of the images."""
    objects: str = "objects"
    """Name of the column of the objects."""


class Format(FolderFormat[Options]):
    """Reads rows of images and objects; images lie in the table, or as files below the folder."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._rows = TableRows()
        self._licences: tuple[str, ...] = ()

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every row of every table.

        Raises:
            DataError: there is no table, one is damaged, or the columns are not there.
        """
        files = self.listing()
        tables = _tables(files)
        if not tables:
            raise DataError(f"There are no .parquet or .arrow files below {files.root}. `path` must name some.")
        self._licences = _licences(files)
        names, missing = ClassNames(report), MissingMasks(report)
        ids: set[str] = set()
        for table in tables:
            yield from _Table(self, files, table, names, missing, ids, report).samples()
        missing.close()
        report_unread(files, files.with_suffix(".parquet", ".arrow"), report)

    def licences(self) -> tuple[str, ...]:
        """The licences that the data set's card or info states; known once it has been read."""
        return self._licences

    def image_bytes(self, sample: Sample) -> bytes:
        """The encoded image in its row, or its file."""
        if not is_row(sample.image_uri):
            return storage.read_bytes(sample.image_uri)
        cell = self._rows.cell(sample.image_uri, self.options.image)
        return bytes((cell.get("bytes") if isinstance(cell, dict) else cell) or b"")

    def schema_names(self, uri: str) -> tuple[str, ...]:
        """The class names by number in a table: of the options, or of its features.

        Raises:
            DataError: a column is not there.
        """
        schema = self._rows.schema(uri)
        for column in (self.options.image, self.options.objects):
            if column not in schema.names:
                raise DataError(
                    f"{uri} has no column `{column}`, only {', '.join(schema.names)}. Name it in the options."
                )
        return self.options.names or class_names(schema, self.options.objects)

    def rows(self, uri: str) -> Iterator[dict[str, Any]]:
        """The rows of a table, with the columns that are used."""
        used = (self.options.image, self.options.objects, "height", "width", "file_name")
        return self._rows.rows(uri, [name for name in self._rows.schema(uri).names if name in used])


class _Table:
    """The samples of one file."""

    def __init__(
        self,
        source: Format,
        files: Listing,
        name: str,
        names: ClassNames,
        missing: MissingMasks,
        ids: set[str],
        report: ReportFinding,
    ) -> None:
        self._source, self._files, self._name, self._report = source, files, name, report
        self._options = source.options
        self._uri = files.uri(name)
        self._missing, self._ids, self._class_names = missing, ids, names
        labels = source.schema_names(self._uri)
        self._labels = names.table(dict(enumerate(labels)), self._uri)
        self._split = _split(name)
        self._frames = BoxFrames(self._uri)

    def samples(self) -> Iterator[Sample]:
        for number, row in enumerate(self._source.rows(self._uri)):
            if sample := self._sample(number, row):
                yield sample
        if self._options.boxes == "xywh":
            self._frames.check(self._report)

    def _sample(self, number: int, row: Mapping[str, object]) -> Sample | None:
        cell = row[self._options.image]
        content = cell.get("bytes") if isinstance(cell, dict) else cell if isinstance(cell, bytes) else None
        path = str((cell.get("path") if isinstance(cell, dict) else cell if isinstance(cell, str) else "") or "")
        image_id = self._image_id(number, row, path)
        uri = f"{self._uri}{MARK}{number}" if content else self._located(path)
        if not uri:
            what = f"no file `{path}` below {self._files.root}" if path else "neither bytes nor a path"
            message = f"row {number} has no image: {what}; export the images with the table"
            self._report(finding("image-missing", message, file=self._uri, image=image_id))
            return None
        size_hw = self._size_hw(row, content, uri, image_id)
        if size_hw is None:
            return None
        collected = self._collected(row, image_id, size_hw)
        if collected is None:
            return None
        group = source_stem(path) if ".rf." in path else ""
        return Sample(image_id, uri, size_hw, tuple(collected.instances), self._split, group)

    def _image_id(self, number: int, row: Mapping[str, object], path: str) -> str:
        """The image's own name where it has one that no other image has."""
        stem = PurePosixPath(self._name).stem
        name = PurePosixPath(path.replace("\\", "/")).name or str(row.get("file_name") or f"{stem}-{number:06d}")
        wanted = f"{self._split or ''}/{name}".lstrip("/")
        if wanted in self._ids:
            wanted = f"{wanted}{MARK}{stem}-{number}"
        self._ids.add(wanted)
        return wanted

    def _located(self, path: str) -> str:
        """A file below the folder: by its path from the table or from there, or with the same end; "" for none."""
        beside = str(PurePosixPath(self._name).parent / path.replace("\\", "/"))
        for candidate in (beside, path):
            if path and candidate in self._files:
                return self._files.uri(candidate)
        found = (
            known_images(self._files).match(path, split=self._split, near=str(PurePosixPath(self._name).parent)).name
        )
        return self._files.uri(found) if found else ""

    def _size_hw(
        self, row: Mapping[str, object], content: bytes | None, uri: str, image_id: str
    ) -> tuple[int, int] | None:
        """The annotated frame: as stated in the row, or else the image's own size."""
        try:
            if stated := stated_size(row.get("height"), row.get("width")):
                return stated
        except UnusableAnnotation as problem:
            self._report(finding(problem.code, problem.message, file=self._uri, image=image_id))
            return None
        if content is None:
            return upright_size_hw(uri, image_id=image_id, report=self._report)
        try:
            return header_of(content).size_hw
        except DataError as error:
            self._report(finding("image-unreadable", str(error), file=uri, image=image_id))
            return None

    def _collected(self, row: Mapping[str, object], image_id: str, size_hw: tuple[int, int]) -> Collected | None:
        found = Collected(self._uri, image_id, self._report, self._missing)
        try:
            listed = list(annotations(row[self._options.objects]))
        except Malformed as error:
            found.note("row-malformed", f"{error}; the image was left out")
            return None
        for number, annotation in enumerate(listed):
            name = str(annotation.get("id", f"object {number}"))
            usable = self._with_corners(annotation)
            self._frames.add(usable.get("bbox"), size_hw)
            instance, notes = instance_of(*self._labelled(usable), size_hw=size_hw, expects_mask=False)
            found.add(instance, name, notes)
        return found

    def _labelled(self, annotation: dict[str, object]) -> tuple[dict[str, object], Mapping[str, str]]:
        """The annotation and the class names by id that it is to be read with; text is a class of its own."""
        category = annotation.get("category_id")
        if isinstance(category, str) and not category.strip().isdigit():
            return {**annotation, "category_id": 0}, {"0": self._class_names(category, self._uri)}
        if not self._labels and category is not None:
            raise DataError(f"{self._uri} numbers its classes and does not name them. Set `names` to their names.")
        return annotation, {str(key): label for key, label in self._labels.items()}

    def _with_corners(self, annotation: dict[str, object]) -> dict[str, object]:
        """The annotation with its box as COCO writes it."""
        box = annotation.get("bbox")
        if self._options.boxes == "xywh" or not isinstance(box, list) or len(box) != 4:
            return annotation
        try:
            x1, y1, x2, y2 = map(float, box)
        except (TypeError, ValueError):
            return annotation
        return {**annotation, "bbox": [x1, y1, x2 - x1, y2 - y1]}


def _tables(files: Listing) -> list[str]:
    """The data files; of a saved data set those that its state names, because caches lie beside them."""
    stated: dict[str, set[str]] = {}
    for name in files:
        if PurePosixPath(name).name == _STATE:
            listed = _json(files, name).get("_data_files") or []
            stated[_folder(name)] = {str(one.get("filename")) for one in listed if isinstance(one, dict)}
    found = files.with_suffix(".parquet", ".arrow")
    return [n for n in found if _folder(n) not in stated or PurePosixPath(n).name in stated[_folder(n)]]


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _json(files: Listing, name: str) -> dict[str, Any]:
    content = read_json(files.uri(name))
    return content if isinstance(content, dict) else {}


def _licences(files: Listing) -> tuple[str, ...]:
    """Licences of dataset_info.json, and of the card's front matter."""
    found = [str(_json(files, n).get("license") or "") for n in files if PurePosixPath(n).name == _INFO]
    if "README.md" in files:
        found += _card_licences(files.head("README.md"))
    return tuple(dict.fromkeys(filter(None, found)))


def _card_licences(text: str) -> list[str]:
    parts = text.split("---\n")
    try:
        card = load_yaml(parts[1], "README.md") if text.startswith("---\n") and len(parts) > 2 else {}
    except DataError:
        return []
    if not isinstance(card, dict):
        return []
    stated = card.get("license_name") or card.get("license") or []
    return [stated] if isinstance(stated, str) else [str(one) for one in stated]


def _split(name: str) -> str:
    """The split that a table is for: by its name (`train-00000-of-00001.parquet`) or its folder."""
    match = _SPLIT_IN_NAME.search(PurePosixPath(name).stem)
    return SPLITS[match.group(1).lower()] if match else split_of(name) or ""
