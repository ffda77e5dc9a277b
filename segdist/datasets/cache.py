"""A split as one memory-mapped Arrow file on the node: random access with flat memory, one copy for all processes.

A row is an encoded image beside its sample in msgpack: a shard's nested columns would cost more to put together for
one row than they save, and nothing but this module reads the file.
"""

import uuid
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import accumulate
from pathlib import Path
from typing import overload

import msgspec
import pyarrow as pa

from segdist.core.errors import StorageError
from segdist.core.locks import locked
from segdist.core.records import LabelledImage, Sample
from segdist.core.text import counted
from segdist.datasets.rows import with_images, without_masks

ROWS_PER_BATCH = 16
"""Rows that one access has to look at."""
_SCHEMA = pa.schema([("image_id", pa.string()), ("sample", pa.binary()), ("image", pa.large_binary())])
_to_sample = msgspec.msgpack.Decoder(Sample).decode
_from_sample = msgspec.msgpack.Encoder().encode


class ArrowFile:
    """Rows of one Arrow file by index; opened when first used, so that it may be sent to another process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._opened: pa.RecordBatchFileReader | None = None
        self._ends: list[int] = []

    def __len__(self) -> int:
        self._reader()
        return self._ends[-1] if self._ends else 0

    def sample(self, index: int) -> Sample:
        """The sample of one row; its image is not read."""
        return _sample(*self._place(index))

    def row(self, index: int) -> tuple[Sample, bytes | None]:
        """One row: its sample and encoded image."""
        batch, number = self._place(index)
        return _sample(batch, number), batch.column("image")[number].as_py()

    def image_ids(self) -> list[str]:
        """The ids of all rows, in order."""
        reader = self._reader()
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        return [image_id for batch in batches for image_id in batch.column("image_id").to_pylist()]

    def _place(self, index: int) -> tuple[pa.RecordBatch, int]:
        """The batch that holds a row, and where in it."""
        reader = self._reader()
        number = bisect_right(self._ends, index)
        return reader.get_batch(number), index - (self._ends[number - 1] if number else 0)

    def __getstate__(self) -> dict[str, object]:
        return {"_file": self._file, "_opened": None, "_ends": []}

    def _reader(self) -> pa.RecordBatchFileReader:
        if self._opened is None:
            self._opened = pa.ipc.open_file(pa.memory_map(str(self._file)))
            count = self._opened.num_record_batches
            self._ends = list(accumulate(self._opened.get_batch(i).num_rows for i in range(count)))
        return self._opened


class Rows(Sequence[LabelledImage]):
    """A split's samples with their encoded images, ordered by image id, under the labels to learn from."""

    def __init__(self, images: ArrowFile, labels: ArrowFile | None, *, hide_masks: bool) -> None:
        self._images, self._labels, self._hide_masks = images, labels, hide_masks
        ids = images.image_ids()
        self._order = sorted(range(len(ids)), key=ids.__getitem__)
        self._label_of: Mapping[str, int] = {name: i for i, name in enumerate(labels.image_ids())} if labels else {}

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> tuple[Sample, bytes]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[Sample, bytes]]: ...

    def __getitem__(self, index: int | slice) -> tuple[Sample, bytes] | list[tuple[Sample, bytes]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {counted(len(self), 'sample')}, but sample {index} was asked for")
        sample, image = self._images.row(self._order[index])
        assert image is not None  # labels have none, a data set has all
        return self._labelled(sample), image

    def sample(self, index: int) -> Sample:
        """One sample without its image."""
        return self._labelled(self._images.sample(self._order[index]))

    def only(self, places: Sequence[int]) -> "Rows":
        """Those at some places, in this order."""
        some = copy(self)
        some._order = [self._order[place] for place in places]
        return some

    def _labelled(self, sample: Sample) -> Sample:
        number = self._label_of.get(sample.image_id)
        if number is not None and self._labels is not None:
            return self._labels.sample(number)
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
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            for batch in batches:
                for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                    writer.write_batch(_cached_rows(batch.slice(start, ROWS_PER_BATCH)))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _cached_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    rows = [{"image_id": s.image_id, "sample": _from_sample(s), "image": image} for s, image in with_images(batch)]
    return pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)


def _sample(batch: pa.RecordBatch, number: int) -> Sample:
    return _to_sample(batch.column("sample")[number].as_buffer())
