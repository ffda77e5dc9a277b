"""segdist's own data sets: a folder of Parquet shards with a manifest."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.plugins import DatasetFormat, DatasetWriter
from segdist.core.records import ReportFinding, Sample
from segdist.core.spec import Strict, digest
from segdist.datasets.rows import SCHEMA, checked, samples_of
from segdist.datasets.shards import MANIFEST, Dataset, ShardSummary, write_manifest, write_shard
from segdist.reading.class_names import ClassNames
from segdist.reading.listing import FolderOptions, Listing
from segdist.reading.table_rows import MARK, TableRows

IMAGES_PER_SHARD, BYTES_PER_SHARD = 64, 64_000_000
_LIGHT = [name for name in SCHEMA.names if name != "image"]
_Rows = list[tuple[Sample, bytes | None]]


def recognises(files: Listing) -> bool:
    """Whether there is a manifest of ours."""
    return MANIFEST in files and '"schema_version"' in files.head(MANIFEST)


class Options(FolderOptions):
    """Where the data set is."""

    path: str
    """The folder with manifest.json."""


class Format(DatasetFormat[Options]):
    """Reads a complete data set; its splits, groups and sources stay."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._path = storage.absolute(options.path).rstrip("/") or "/"
        self._rows = TableRows()

    def signature(self) -> str:
        """Changes with what can be learned from the data set, wherever it lies."""
        return digest(self._dataset.manifest.content_hash)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in the data set's own order."""
        names = ClassNames(lambda _: None)
        return tuple(dict.fromkeys(names.spelled(name, self._path) for name in self._dataset.manifest.classes))

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every sample; `image_uri` names the row that holds the image."""
        names = ClassNames(report)
        spelling = {name: names.spelled(name, self._path) for name in self._dataset.manifest.classes}
        differs = {name for name, new in spelling.items() if name != new}  # of older data sets; the rest was looked at
        for uri in self._dataset.shard_uris:
            samples = chain.from_iterable(self._samples(uri))
            for number, sample in enumerate(samples):
                instances = sample.instances
                if differs & {i.label for i in instances}:
                    instances = tuple(replace(i, label=spelling.get(i.label, i.label)) for i in instances)
                yield replace(sample, image_uri=f"{uri}{MARK}{number}", instances=instances)

    def _samples(self, uri: str) -> Iterator[list[Sample]]:
        try:
            for batch in self._rows.batches(uri, _LIGHT):
                yield samples_of(checked(batch))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{uri} must be a shard as segdist writes it, but: {error}. Make the data set anew."
            ) from None

    def licences(self) -> tuple[str, ...]:
        """The licences of the data set's own sources."""
        return self._dataset.manifest.licences

    def image_bytes(self, sample: Sample) -> bytes:
        """The encoded image in its row."""
        return bytes(self._rows.cell(sample.image_uri, "image"))

    @cached_property
    def _dataset(self) -> Dataset:
        found = Dataset.open(self._path)
        if found.manifest.kind != "dataset":
            raise DataError(f"{self._path} holds labels without images. Name the data set that they belong to.")
        return found


class Writer(DatasetWriter):
    """Writes shards of one split each, and the manifest; nothing is lost, image ids included."""

    class Options(Strict):
        """There is nothing to choose."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        options: Options,  # noqa: ARG002 - there are none
        report: ReportFinding,  # noqa: ARG002 - nothing is lost
    ) -> None:
        self._folder, self._classes = folder, tuple(classes)
        self._open: dict[str, _Rows] = {}
        self._shards: list[ShardSummary] = []
        self._licences: tuple[str, ...] = ()

    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
        """Keep a row; a full shard is written. The image's URI becomes the name that other formats give it."""
        rows = self._open.setdefault(sample.split, [])
        rows.append((replace(sample, image_uri=file_name), image_bytes))
        if len(rows) == IMAGES_PER_SHARD or sum(len(image or b"") for _, image in rows) > BYTES_PER_SHARD:
            self._flush(sample.split)

    def state_licences(self, names: Sequence[str]) -> None:
        """Keep the licences for the manifest."""
        self._licences = tuple(names)

    def close(self) -> None:
        """Write what is left, then the manifest."""
        for split in list(self._open):
            self._flush(split)
        write_manifest(str(self._folder), "dataset", self._classes, self._shards, licences=self._licences)

    def _flush(self, split: str) -> None:
        rows = self._open.pop(split)
        name = f"{split or 'all'}-{len(self._shards):05d}.parquet"
        self._shards.append(write_shard(str(self._folder / name), rows))
