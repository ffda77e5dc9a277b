"""Images to predict on, wherever they lie: files, folders, archives, tables and data sets, local or not."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from segdist import storage
from segdist.data.archives import INSIDE, is_archive, split_place, unpacked
from segdist.data.image_formats import IMAGE_SUFFIXES
from segdist.data.listing import Listing
from segdist.data.shards import MANIFEST, Dataset
from segdist.data.table_rows import MARK, TableRows
from segdist.errors import DataError

TABLES = (".parquet",)
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


def find_inputs(places: list[str]) -> Iterator[Input]:
    """Every image, in order.

    Args:
        places: image files, folders, archives (`photos.zip`, `photos.zip!/test`), Parquet files with encoded images,
            and data sets of segdist; paths or `s3://`.

    Raises:
        DataError: a place is not there, or there is no image in any of them.
    """
    found = 0
    for place in places:
        for one in _inside(place):
            found += 1
            yield one
    if not found:
        raise DataError(f"There is no image in {', '.join(places)}: none of {', '.join(IMAGE_SUFFIXES)}, nor a table.")


def _inside(place: str) -> Iterator[Input]:
    if is_archive(place):
        archive, _ = split_place(place)
        root = unpacked(place)
        inner = Listing(root)
        start = unpacked(archive)
        for name in inner.images:
            path = inner.uri(name).removeprefix(start).lstrip("/")
            yield Input(f"{storage.absolute(archive)}{INSIDE}{path}", name, _stamp(inner.entries[name]))
        return
    uri = storage.absolute(place).rstrip("/")
    if storage.exists(storage.join(uri, MANIFEST)):
        for shard in Dataset.open(uri).shard_uris:
            yield from _rows(shard)
        return
    files = Listing(uri)
    if not files.entries:
        raise DataError(f"There is no {place}. Name image files, folders, archives, Parquet files or data sets.")
    for name in files.with_suffix(*IMAGE_SUFFIXES, *TABLES):
        if name.lower().endswith(TABLES):
            yield from _rows(files.uri(name))
        else:
            yield Input(files.uri(name), name, _stamp(files.entries[name]))


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
    for number, row in enumerate(tables.rows(uri, [named] if named else [column])):
        name = str(row[named]) if named else f"{stem}-{number:06d}"
        yield Input(f"{uri}{MARK}{number}", name, _stamp(entry), column)


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
