"""Rows of Parquet and Arrow files, in order or one by one: images that lie in tables are read from any node."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segdist import storage
from segdist.data.cache import locked
from segdist.errors import DataError
from segdist.spec import digest

MARK = "#row="
"""Between a file and the number of a row in an image's URI."""
_ROWS = 32


class TableRows:
    """Opens files when they are first used and keeps the last row group, because neighbours are asked for together."""

    def __init__(self) -> None:
        self._opened: tuple[str, Any] = ("", None)
        self._group: tuple[tuple[str, int, str], Any] = (("", -1, ""), None)

    def __getstate__(self) -> dict[str, Any]:
        return {"_opened": ("", None), "_group": (("", -1, ""), None)}

    def schema(self, uri: str) -> pa.Schema:
        """The columns of a file, with the metadata of its schema."""
        opened = self._open(uri)
        return opened.schema_arrow if isinstance(opened, pq.ParquetFile) else opened.schema

    def rows(self, uri: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows in order; otherwise like `batches`."""
        for batch in self.batches(uri, columns):
            yield from batch.to_pylist()

    def batches(self, uri: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in order; a few of them are in memory at a time.

        Raises:
            DataError: the file is damaged.
        """
        opened = self._open(uri)
        try:
            if isinstance(opened, pq.ParquetFile):
                yield from opened.iter_batches(_ROWS, columns=columns)
            else:
                yield from (opened if columns is None else opened.select(columns)).to_batches(max_chunksize=_ROWS)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{uri} is damaged: {error}. Export it again.") from error

    def cell(self, place: str, column: str) -> Any:
        """One value, by a URI that ends in `#row=` and a number."""
        uri, _, number = place.rpartition(MARK)
        opened, row = self._open(uri), int(number)
        if not isinstance(opened, pq.ParquetFile):
            return opened.column(column)[row].as_py()
        for group in range(opened.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            if row < count:
                return self._column(uri, opened, group, column)[row].as_py()
            row -= count
        raise DataError(f"{uri} has no row {number}; it was changed after it was read. Start again.")

    def _column(self, uri: str, opened: pq.ParquetFile, group: int, column: str) -> Any:
        key = (uri, group, column)
        if self._group[0] != key:
            self._group = (key, opened.read_row_group(group, columns=[column]).column(column))
        return self._group[1]

    def _open(self, uri: str) -> Any:
        """A Parquet file, or the memory-mapped table of an Arrow file."""
        if self._opened[0] != uri:
            try:
                self._opened = (uri, _parquet(uri) if uri.lower().endswith(".parquet") else _arrow(uri))
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{uri} cannot be read as a table: {error}. Export it again.") from error
        return self._opened[1]


def _parquet(uri: str) -> pq.ParquetFile:
    filesystem, path = storage.arrow_filesystem(uri)
    return pq.ParquetFile(path, filesystem=filesystem)


def _arrow(uri: str) -> pa.Table:
    """A table whose memory is the file itself; `datasets` writes the stream format."""
    source = pa.memory_map(str(_local(uri)))
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()


def _local(uri: str) -> Path:
    """The file, or this node's copy of an object: only a file can be mapped into memory."""
    if storage.is_local(uri):
        return Path(uri)
    (entry,) = storage.find(uri)
    file = storage.cache_dir() / "tables" / digest([entry.uri, entry.size, entry.stamp])
    with locked(file):
        if not file.exists():
            part = file.with_suffix(".part")
            storage.download(uri, part)
            part.replace(file)
    return file
