"""Images to predict on, wherever they lie: files, folders, archives, tables and data sets, local or not."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.datasets.shards import MANIFEST, Dataset
from segdist.reading.archives import INSIDE, is_archive, split_place, unpacked
from segdist.reading.image_formats import IMAGE_SUFFIXES
from segdist.reading.listing import Listing
from segdist.reading.table_rows import MARK, TableRows

NoteUnread = Callable[[str, str], None]
"""Takes a file's place and what there is to say about it."""
TABLES = (".parquet",)
_MOST_SHOWN, _LONGEST_NAME = 12, 4_096
_IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "content")
_NAME_COLUMNS = ("image_id", "file_name", "filename", "name", "path")


@dataclass(frozen=True)
class Input:
    """One image, not yet read.

    Attributes:
        uri: a file, `archive!/file`, or `table#row=NUMBER`.
        name: what outputs are named after.
        stamp: changes when the content does.
        column: of a table, that holds the encoded image.
    """

    uri: str
    name: str
    stamp: str
    column: str = ""

    def to_json(self) -> dict[str, str]:
        """JSON values."""
        return asdict(self)


class Reader:
    """Reads inputs on any node; archives are unpacked there once, tables stay open."""

    def __init__(self) -> None:
        self._tables = TableRows()

    def read(self, one: Input) -> bytes:
        """The encoded image.

        Raises:
            DataError: a table holds no image there.
            StorageError: the file is gone.
        """
        if one.column:
            return _encoded(self._tables.cell(one.uri, one.column), one.uri)
        return storage.read_bytes(self.file(one))

    def file(self, one: Input) -> str:
        """The file itself, for what lies beside it; "" for a row of a table."""
        if one.column:
            return ""
        archive, inside = split_place(one.uri)
        return storage.join(unpacked(archive), inside) if inside and is_archive(archive) else one.uri


def find_inputs(places: list[str], unread: NoteUnread) -> Iterator[Input]:
    """Every image, in order.

    Args:
        places: image files, folders, archives (`photos.zip`, `photos.zip!/test`), Parquet files with encoded images,
            and data sets of segdist; paths or `s3://`.
        unread: is called with files that look like images but are not read, with the reason.

    Raises:
        DataError: a place is not there, or there is no image in any of them.
    """
    found, reasons = 0, list[str]()

    def note(uri: str, reason: str) -> None:
        reasons.append(f" {uri}: {reason}.")
        unread(uri, reason)

    for place in places:
        for one in _inside(place, note):
            found += 1
            yield one
    if not found:
        message = f"There is no image in {', '.join(places)}: none of {', '.join(IMAGE_SUFFIXES)}, nor a table."
        raise DataError(message + "".join(reasons[:_MOST_SHOWN]))


def _inside(place: str, unread: NoteUnread) -> Iterator[Input]:
    if is_archive(place):
        yield from _packed(place, unread)
        return
    uri = storage.absolute(place).rstrip("/") or "/"
    if storage.exists(storage.join(uri, MANIFEST)):
        for shard in Dataset.open(uri).shard_uris:
            yield from _rows(shard)
        return
    files = Listing(uri)
    if not files.entries and not files.unread and not files.broken:
        raise DataError(f"There is no {place}. Name image files, folders, archives, Parquet files or data sets.")
    for name in files.with_suffix(*IMAGE_SUFFIXES, *TABLES):
        if not name.lower().endswith(TABLES):
            yield Input(files.uri(name), name, _stamp(files.entries[name]))
            continue
        try:
            yield from _rows(files.uri(name))
        except DataError as error:
            if len(files.entries) == 1:
                raise
            unread(files.uri(name), str(error))
    for name, reason in (files.broken | files.unread).items():
        unread(files.uri(name), reason)


def _packed(place: str, unread: NoteUnread) -> Iterator[Input]:
    archive, _ = split_place(place)
    files, start = Listing(unpacked(place)), unpacked(archive)

    def uri(name: str) -> str:
        return f"{storage.absolute(archive)}{INSIDE}{files.uri(name).removeprefix(start).lstrip('/')}"

    for name in files.images:
        yield Input(uri(name), name, _stamp(files.entries[name]))
    for name, reason in files.unread.items():
        unread(uri(name), reason)


def _rows(uri: str) -> Iterator[Input]:
    """The rows of a Parquet file that hold images; all rows must."""
    tables = TableRows()
    schema = tables.schema(uri)
    column = next((name for name in _IMAGE_COLUMNS if name in schema.names and _holds_images(schema.field(name))), "")
    if not column:
        raise DataError(
            f"{uri} must have a column of encoded images called {' or '.join(_IMAGE_COLUMNS)}, but has "
            f"{', '.join(schema.names)}."
        )
    named = next((name for name in _NAME_COLUMNS if name in schema.names), "")
    (entry,) = storage.find(uri)
    stem = PurePosixPath(uri).stem
    names = (_name(cell) for batch in tables.batches(uri, [named]) for cell in batch.column(0))
    for number, name in enumerate(names if named else [""] * tables.count(uri)):
        yield Input(f"{uri}{MARK}{number}", name or f"{stem}-{number:06d}", _stamp(entry), column)


def _name(cell: pa.Scalar) -> str:
    """The name that a table gives an image; "" where it gives none that is text of a reasonable length."""
    try:
        name = "" if cell.as_py() is None else str(cell.as_py())
    except ValueError:  # bytes that are no UTF-8
        return ""
    return name if len(name) <= _LONGEST_NAME else ""


def _holds_images(field: pa.Field) -> bool:
    """Bytes, or the struct of bytes and path that the Hugging Face library writes."""
    kind = field.type
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(k).name for k in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _encoded(value: Any, uri: str) -> bytes:
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not content:
        raise DataError(f"{uri} holds no image.")
    return bytes(content)


def _stamp(entry: storage.Entry) -> str:
    return f"{entry.size}-{entry.stamp}"
