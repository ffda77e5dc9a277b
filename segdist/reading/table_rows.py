"""Rows of Parquet and Arrow files, in order or one by one: images that lie in tables are read from any node."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.locks import locked
from segdist.core.spec import digest

MARK = "#row="
"""Between a file and the number of a row in an image's URI."""
_ROW = re.compile(r"(?i)(.+\.(?:parquet|arrow))#row=(\d+)", re.DOTALL)
_ROWS, _ROWS_OF_A_PART = 32, 8
_MOST_BYTES, _LARGEST_VALUE = 1 << 29, 1 << 28
"""Of values of one column that stay in memory, and of one value: packed, a kilobyte can hold gigabytes."""
_MOST_RATIO, _ALWAYS_ALLOWED = 20, 1 << 30
"""How much more the rows of a group may hold than it stores, and bytes that they may hold in any case."""


def is_row(place: str) -> bool:
    """Whether a URI names a row of a table."""
    return bool(_ROW.fullmatch(place))


@dataclass
class _Group:
    """The values of one column of a row group that have been read, a part at a time; early ones go where it is large.

    Attributes:
        key: file, number of the group, and column.
        rest: the parts to come.
        parts: the parts in memory, each with the number of its first row.
    """

    key: tuple[str, int, str] = ("", -1, "")
    rest: Iterator[pa.Array] = field(default_factory=lambda: iter(()))
    parts: list[tuple[int, pa.Array]] = field(default_factory=list)

    def value(self, row: int) -> Any:
        """A value of a row that has not been dropped.

        Raises:
            StopIteration: there are fewer rows.
        """
        while not self.parts or row >= self.parts[-1][0] + len(self.parts[-1][1]):
            start = self.parts[-1][0] + len(self.parts[-1][1]) if self.parts else 0
            self.parts.append((start, next(self.rest)))
            while len(self.parts) > 1 and sum(part.nbytes for _, part in self.parts) > _MOST_BYTES:
                del self.parts[0]
        start, part = next(found for found in reversed(self.parts) if found[0] <= row)
        return part[row - start].as_py()


class TableRows:
    """Opens files when they are first used and keeps the last row group, because neighbours are asked for together."""

    def __init__(self) -> None:
        self._opened: tuple[str, object] = ("", None)
        self._group = _Group()

    def __getstate__(self) -> dict[str, object]:
        return {"_opened": ("", None), "_group": _Group()}

    def schema(self, uri: str) -> pa.Schema:
        """The columns of a file, with the metadata of its schema."""
        opened = self._open(uri)
        return opened.schema_arrow if isinstance(opened, pq.ParquetFile) else opened.schema

    def count(self, uri: str) -> int:
        """How many rows a file has; none is read."""
        opened = self._open(uri)
        return int(opened.metadata.num_rows if isinstance(opened, pq.ParquetFile) else opened.num_rows)

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
                for number in range(opened.num_row_groups):
                    group = opened.metadata.row_group(number)
                    _check_values(group, uri)
                    rows = _rows_at_once(group, _ROWS)
                    yield from _counted(opened.iter_batches(rows, row_groups=[number], columns=columns), group, uri)
            else:
                yield from (opened if columns is None else opened.select(columns)).to_batches(max_chunksize=_ROWS)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{uri} is damaged: {error}. Export it again.") from error

    def cell(self, place: str, column: str) -> Any:
        """One value, by a URI that ends in `#row=` and a number."""
        match = _ROW.fullmatch(place)
        if not match:
            raise DataError(f"{place} must name a row of a table, as `table.parquet{MARK}7` does.")
        uri, row = match[1], int(match[2])
        opened = self._open(uri)
        try:
            if isinstance(opened, pq.ParquetFile):
                return self._cell(uri, opened, column, row)
            return opened.column(column)[row].as_py()
        except (OSError, IndexError, StopIteration, pa.ArrowException) as error:
            raise DataError(
                f"{uri} cannot give row {row}: {error!r}. It is damaged or was changed; start again."
            ) from error

    def _cell(self, uri: str, opened: pq.ParquetFile, column: str, row: int) -> Any:
        """A value of a Parquet file, from the rows of its group that are in memory or come next."""
        group, place = 0, row
        while place >= opened.metadata.row_group(group).num_rows:
            place -= opened.metadata.row_group(group).num_rows
            group += 1
        key = (uri, group, column)
        if self._group.key != key or (self._group.parts and place < self._group.parts[0][0]):
            _check_values(opened.metadata.row_group(group), uri)
            rows = _rows_at_once(opened.metadata.row_group(group), _ROWS_OF_A_PART)
            batches = opened.iter_batches(rows, row_groups=[group], columns=[column])
            self._group = _Group(key, (batch.column(0) for batch in batches))
        return self._group.value(place)

    def _open(self, uri: str) -> Any:
        """A Parquet file, or the memory-mapped table of an Arrow file."""
        if self._opened[0] != uri:
            try:
                self._opened = (uri, _parquet(uri) if uri.lower().endswith(".parquet") else _arrow(uri))
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{uri} cannot be read as a table: {error}. Export it again.") from error
        return self._opened[1]


def _check_values(group: pq.RowGroupMetaData, uri: str) -> None:
    """Raises DataError where rows are larger than images are.

    The sizes of single columns are not looked at: where a file lies about them, Arrow ends the process.
    """
    megabytes = group.total_byte_size // max(group.num_rows, 1) // 10**6
    if group.total_byte_size > _LARGEST_VALUE * max(group.num_rows, 1):
        raise DataError(f"{uri} holds {megabytes:,} MB a row, more than any image.")


def _counted(batches: Iterator[pa.RecordBatch], group: pq.RowGroupMetaData, uri: str) -> Iterator[pa.RecordBatch]:
    """The batches of a group, until they are far more than it stores: rows that share a value cost it nothing."""
    most = max(_ALWAYS_ALLOWED, _MOST_RATIO * group.total_byte_size)
    for batch in batches:
        most -= batch.nbytes
        if most < 0:
            raise DataError(f"{uri} unpacks to more than {_MOST_RATIO} times what it stores: a bomb. Export it again.")
        yield batch


def _rows_at_once(group: pq.RowGroupMetaData, most: int) -> int:
    """How many rows fit into memory if each is as large as all that the group stores: many may share one value."""
    return max(1, min(most, _LARGEST_VALUE // max(group.total_byte_size, 1)))


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
