"""A split as one memory-mapped Arrow file on the node: random access with flat memory, one copy for all processes."""

import fcntl
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from segdist.data.rows import SCHEMA, from_row, without_masks
from segdist.errors import StorageError
from segdist.records import Sample

ROWS_PER_BATCH = 16
"""Rows that one access has to look at."""


class ArrowFile:
    """Rows of one Arrow file by index; opened when first used, so that it may be sent to another process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._opened: Any = None
        self._ends: list[int] = []

    def __len__(self) -> int:
        self._reader()
        return self._ends[-1] if self._ends else 0

    def row(self, index: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """One row, of all columns or the named ones."""
        reader = self._reader()
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        batch = reader.get_batch(number)
        one = batch.slice(index - start, 1)
        found: list[dict[str, Any]] = (one.select(list(columns)) if columns else one).to_pylist()
        return found[0]

    def image_ids(self) -> list[str]:
        """The ids of all rows, in order."""
        reader = self._reader()
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        return [image_id for batch in batches for image_id in batch.column("image_id").to_pylist()]

    def __getstate__(self) -> dict[str, Any]:
        return {"_file": self._file, "_opened": None, "_ends": []}

    def _reader(self) -> Any:
        if self._opened is None:
            self._opened = pa.ipc.open_file(pa.memory_map(str(self._file)))
            count = self._opened.num_record_batches
            self._ends = list(accumulate(self._opened.get_batch(i).num_rows for i in range(count)))
        return self._opened


class Rows(Sequence[tuple[Sample, bytes]]):
    """A split's samples with their encoded images, ordered by image id, under the labels to learn from."""

    def __init__(self, images: ArrowFile, labels: ArrowFile | None, *, hide_masks: bool) -> None:
        self._images, self._labels, self._hide_masks = images, labels, hide_masks
        ids = images.image_ids()
        self._order = sorted(range(len(ids)), key=ids.__getitem__)
        self._label_of: Mapping[str, int] = {name: i for i, name in enumerate(labels.image_ids())} if labels else {}

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, but sample {index} was asked for")
        row = self._images.row(self._order[index])
        return self._labelled(row), row["image"]

    def sample(self, index: int) -> Sample:
        """One sample without its image."""
        columns = [name for name in SCHEMA.names if name != "image"]
        return self._labelled(self._images.row(self._order[index], columns))

    def _labelled(self, row: dict[str, Any]) -> Sample:
        number = self._label_of.get(row["image_id"])
        if number is not None and self._labels is not None:
            return from_row(self._labels.row(number))
        sample = from_row(row)
        return without_masks(sample) if self._hide_masks else sample


def cached(file: Path, batches: Iterator[pa.RecordBatch]) -> ArrowFile:
    """The Arrow file, written from `batches` by the first process that needs it.

    Raises:
        StorageError: the node's cache folder cannot be written.
    """
    try:
        with locked(file):
            if not file.exists():
                _write(file, batches)
    except OSError as error:
        raise StorageError(
            f"Cannot write the data cache {file}: {error}. Set SEGDIST_CACHE to a local folder with free space."
        ) from error
    return ArrowFile(file)


def _write(file: Path, batches: Iterator[pa.RecordBatch]) -> None:
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch in batches:
                for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                    writer.write_batch(batch.slice(start, ROWS_PER_BATCH))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process of the node at a time: the others wait for its file instead of writing their own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system when the process ends, however it ends
        yield
