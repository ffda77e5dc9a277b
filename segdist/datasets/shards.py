"""Data sets as Parquet shards and a manifest; the manifest is written last, so its presence means complete.

A data set of kind "dataset" holds images with their own annotations. One of kind "labels" holds samples without image
bytes, which overlay the data set's by image id.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from segdist.core import storage
from segdist.core.bounded_json import read_json
from segdist.core.errors import DataError
from segdist.core.records import Finding, Sample, Severity
from segdist.core.spec import Strict
from segdist.core.text import short
from segdist.datasets.cache import ArrowFile, Rows, cached
from segdist.datasets.rows import SCHEMA, samples_of, to_row, with_images
from segdist.datasets.sizes import size_name

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
FINDINGS = "findings.json"
ROWS_PER_GROUP = 32
"""Rows that a reader has to hold at once."""
_FINDINGS_KEY, _NOTES_KEY = b"segdist.findings", b"segdist.notes"
_LIGHT = [name for name in SCHEMA.names if name != "image"]


class SplitCounts(Strict):
    """How much there is in one split."""

    images: int
    """Images, with and without objects."""
    instances: int
    """Instances of all classes, crowds included."""
    masks: int
    """Instances whose mask is known."""
    empty_images: int
    """Images without an instance."""
    per_class: dict[str, int]
    """Instances of each class."""
    per_size: dict[str, int] = {}
    """Instances of each size, by COCO's bounds: small below 32 x 32 pixels, medium below 96 x 96, large."""


class Manifest(Strict):
    """What a data set consists of."""

    schema_version: int = SCHEMA_VERSION
    """Raised when the columns change."""
    kind: Literal["dataset", "labels"]
    """Images with their own annotations, or labels that overlay them."""
    classes: tuple[str, ...]
    """Class names in order."""
    splits: dict[str, SplitCounts]
    """Counts of each split that is not empty."""
    shards: tuple[str, ...]
    """Files beside the manifest."""
    findings: dict[str, dict[str, int]]
    """How many findings of each severity and code; the findings themselves are in findings.json."""
    content_hash: str
    """Sixteen hex digits that depend on what can be learned, not on row order, file names or machine."""
    licences: tuple[str, ...] = ()
    """Licences that the sources state."""
    details: dict[str, Any] = {}
    """What the step that made it measured: the quality of labels, images a second."""


class RowSummary(Strict):
    """What the manifest needs to know of one row."""

    image_id: str
    """Of the sample."""
    split: str
    """Of the sample."""
    digest: str
    """Of all that can be learned from it."""
    image_sha256: str
    """Of the encoded image; "" in a set of labels."""


class ShardSummary(Strict):
    """What the manifest needs to know of one shard."""

    file: str
    """File name."""
    rows: tuple[RowSummary, ...]
    """Each row."""
    splits: dict[str, SplitCounts]
    """Counts of each split."""
    findings: tuple[dict[str, str], ...]
    """What was found wrong while the shard was made."""
    notes: dict[str, Any] = {}
    """What was measured while it was made."""

    @property
    def found(self) -> list[Finding]:
        """The findings."""
        return [finding_of(f) for f in self.findings]


def write_shard(
    uri: str,
    rows: Iterable[tuple[Sample, bytes | None]],
    *,
    findings: Sequence[Finding] = (),
    notes: dict[str, Any] | None = None,
) -> ShardSummary:
    """Write one shard; it is there whole or not at all.

    Args:
        uri: where, ending in `.parquet`.
        rows: samples with their encoded images, or None in a label shard. One shard is held in memory: keep it small.
        findings: what was found wrong while it was made; they travel in the file, so that resuming forgets none.
        notes: what was measured; JSON values.

    Raises:
        StorageError: it cannot be written.
    """
    table = pa.Table.from_pylist([to_row(sample, image) for sample, image in rows], schema=SCHEMA)
    said = json.dumps([vars(f) for f in findings]).encode()
    table = table.replace_schema_metadata({_FINDINGS_KEY: said, _NOTES_KEY: json.dumps(notes or {}).encode()})
    sink = io.BytesIO()
    # Images and run lengths are compressed already; dictionary pages and zstd serve the small columns.
    compression = {name: "none" if name == "image" else "zstd" for name in SCHEMA.names}
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression=_by_leaf(compression),
        use_dictionary=["split", "source"],
    )
    storage.write_atomic(uri, sink.getvalue())
    return _summary(uri, table)


def read_summary(uri: str) -> ShardSummary:
    """The summary of a shard that is there already; its images are not read.

    Raises:
        DataError: the file is no shard, or damaged.
    """
    return _summary(uri, _parquet(uri).read(columns=_LIGHT))


def write_manifest(
    root_uri: str,
    kind: Literal["dataset", "labels"],
    classes: Sequence[str],
    shards: Iterable[ShardSummary],
    *,
    findings: Sequence[Finding] = (),
    licences: Iterable[str] = (),
    details: dict[str, object] | None = None,
) -> "Dataset":
    """Complete a data set: findings.json, then the manifest.

    Args:
        root_uri: the folder of the shards.
        kind: "dataset" or "labels".
        classes: class names in order.
        shards: all of them.
        findings: those made before the shards were.
        licences: of the sources.
        details: what the step measured.
    """
    parts = sorted(shards, key=lambda s: s.file)
    everything = [*findings, *(f for part in parts for f in part.found)]
    digests = [row.digest for part in parts for row in part.rows]
    manifest = Manifest(
        kind=kind,
        classes=tuple(classes),
        splits=added_counts([part.splits for part in parts]),
        shards=tuple(part.file for part in parts),
        findings=count_findings(everything),
        content_hash=content_hash(kind, classes, digests),
        licences=tuple(sorted(licences)),
        details=details or {},
    )
    storage.write_json(storage.join(root_uri, FINDINGS), [vars(f) for f in everything])
    storage.write_json(storage.join(root_uri, MANIFEST), manifest.model_dump(mode="json"))
    return Dataset(root_uri, manifest)


def content_hash(kind: str, classes: Sequence[str], digests: Iterable[str]) -> str:
    """Sixteen hex digits that depend on what can be learned: not on the order of rows, their files or the machine."""
    content = json.dumps([SCHEMA_VERSION, kind, list(classes), sorted(digests)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def count_findings(findings: Iterable[Finding]) -> dict[str, dict[str, int]]:
    """How many of each severity and code."""
    counted: dict[str, Counter[str]] = {}
    for finding in findings:
        counted.setdefault(str(finding.severity), Counter())[finding.code] += 1
    return {severity: dict(sorted(codes.items())) for severity, codes in sorted(counted.items())}


class Dataset:
    """A complete data set, or a complete set of labels, in a folder or under an `s3://` prefix."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self.uri, self.manifest = uri, manifest

    @classmethod
    def open(cls, uri: str) -> Self:
        """The data set in a folder.

        Raises:
            DataError: it has no manifest, or one that another version of segdist wrote.
        """
        place = storage.join(uri, MANIFEST)
        if not storage.exists(place):
            raise DataError(f"{uri} is no complete data set: it has no {MANIFEST}. Run the sweep again to finish it.")
        content = read_json(place)
        if not isinstance(content, dict):
            raise DataError(f"{place} must be an object with `schema_version`, but is {short(content)}.")
        if content.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"{place} has schema version {content.get('schema_version')}, but this segdist reads {SCHEMA_VERSION}. "
                "Delete the folder to have it made anew."
            )
        try:
            return cls(uri, Manifest.model_validate(content))
        except ValidationError as error:
            raise DataError(f"{place} is damaged: {error}. Delete the folder to have it made anew.") from error

    @property
    def shard_uris(self) -> list[str]:
        """The shards' full URIs."""
        return [storage.join(self.uri, name) for name in self.manifest.shards]

    def findings(self) -> list[Finding]:
        """Everything that was found wrong."""
        return [finding_of(f) for f in read_json(storage.join(self.uri, FINDINGS))]

    def samples(self, split: str | None = None) -> Iterator[Sample]:
        """The samples of a split, or all; images are not read."""
        for batch in self._batches(split, _LIGHT):
            yield from samples_of(batch)

    def rows(self, split: str | None = None) -> Iterator[tuple[Sample, bytes | None]]:
        """The samples of a split, or all, with their encoded images; None in a set of labels."""
        for batch in self._batches(split, SCHEMA.names):
            yield from with_images(batch)

    def reader(
        self, split: str, cache_dir: Path | str, *, labels: "Dataset | None" = None, hide_masks: bool = False
    ) -> Rows:
        """Random access to a split, through a memory-mapped copy on this node.

        Args:
            split: "train", "val" or "test".
            cache_dir: a folder on a local disk, shared by all processes of the node.
            labels: what to learn from instead of the data set's own annotations, where it knows the image.
            hide_masks: leave out the masks of images that `labels` does not know: their truth is for measuring only.
        """
        overlay = labels.cached_split(split, cache_dir) if labels else None
        return Rows(self.cached_split(split, cache_dir), overlay, hide_masks=hide_masks)

    def cached_split(self, split: str, cache_dir: Path | str) -> ArrowFile:
        """One split as an Arrow file on this node, keyed by content."""
        file = Path(cache_dir) / self.manifest.content_hash / f"{split}.samples.arrow"
        return cached(file, self._batches(split, SCHEMA.names))

    def _batches(self, split: str | None, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for uri in self.shard_uris:
            for batch in _parquet(uri).iter_batches(ROWS_PER_GROUP, columns=list(columns)):
                storage.note_traffic("read", uri, batch.nbytes)
                kept = batch if split is None else batch.filter(pc.equal(batch.column("split"), split))
                if kept.num_rows:
                    yield kept.replace_schema_metadata(None).cast(SCHEMA.empty_table().select(list(columns)).schema)


def read_rows(uri: str) -> list[tuple[Sample, bytes | None]]:
    """All rows of one shard.

    Raises:
        DataError: the file is no shard, or damaged.
    """
    rows: list[tuple[Sample, bytes | None]] = []
    for batch in _parquet(uri).iter_batches():
        storage.note_traffic("read", uri, batch.nbytes)
        rows += with_images(batch)
    return rows


def read_samples(uri: str) -> list[Sample]:
    """The samples of one shard, in order; images are not read.

    Raises:
        DataError: the file is no shard, or damaged.
    """
    return [sample for batch in _parquet(uri).read(columns=_LIGHT).to_batches() for sample in samples_of(batch)]


def _parquet(uri: str) -> pq.ParquetFile:
    filesystem, path = storage.arrow_filesystem(uri)
    try:
        return pq.ParquetFile(path, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"The shard {uri} cannot be read: {error}. Delete it and run the sweep again.") from error


def finding_of(content: Mapping[str, str]) -> Finding:
    """A finding that was stored as JSON."""
    return Finding(**{**content, "severity": Severity(content["severity"])})  # type: ignore[arg-type]


def _by_leaf(compression: dict[str, str]) -> dict[str, str]:
    """Compression by Parquet leaf: nested columns are named by their path."""
    leaves = {f"instances.list.element.{f.name}": "zstd" for f in SCHEMA.field("instances").type.value_type}
    leaves["instances.list.element.box.list.element"] = leaves.pop("instances.list.element.box")
    return {**{name: codec for name, codec in compression.items() if name != "instances"}, **leaves}


def _summary(uri: str, table: pa.Table) -> ShardSummary:
    metadata = table.schema.metadata or {}
    rows = table.select(list(RowSummary.model_fields)).to_pylist()
    samples = [sample for batch in table.select(_LIGHT).to_batches() for sample in samples_of(batch)]
    return ShardSummary(
        file=uri.rsplit("/", 1)[-1],
        rows=tuple(RowSummary(**row) for row in rows),
        splits={
            name: count_samples([s for s in samples if s.split == name]) for name in sorted({s.split for s in samples})
        },
        findings=tuple(json.loads(metadata.get(_FINDINGS_KEY, b"[]"))),
        notes=json.loads(metadata.get(_NOTES_KEY, b"{}")),
    )


def count_samples(samples: Sequence[Sample]) -> SplitCounts:
    """How much there is in these."""
    instances = [i for s in samples for i in s.instances]
    return SplitCounts(
        images=len(samples),
        instances=len(instances),
        masks=len(instances) - [i.mask for i in instances].count(None),
        empty_images=[s.instances for s in samples].count(()),
        per_class=dict(sorted(Counter([i.label for i in instances]).items())),
        per_size=dict(sorted(Counter(map(size_name, instances)).items())),
    )


def added_counts(parts: Sequence[Mapping[str, SplitCounts]]) -> dict[str, SplitCounts]:
    """The sums over shards, by split."""
    names = [n for n in ("train", "val", "test", "") if any(n in part for part in parts)]
    return {name: total_counts([part[name] for part in parts if name in part]) for name in names}


def total_counts(counts: Collection[SplitCounts]) -> SplitCounts:
    """The sums of counts."""
    per_class, per_size = Counter[str](), Counter[str]()
    for one in counts:
        per_class.update(one.per_class)
        per_size.update(one.per_size)
    return SplitCounts(
        images=sum(c.images for c in counts),
        instances=sum(c.instances for c in counts),
        masks=sum(c.masks for c in counts),
        empty_images=sum(c.empty_images for c in counts),
        per_class=dict(sorted(per_class.items())),
        per_size=dict(sorted(per_size.items())),
    )
