"""Sources to one data set: read, checked, merged, split, and written as shards by Ray Data; resumes shard by shard."""

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segdist import storage
from segdist.data.shards import (
    MANIFEST,
    SCHEMA_VERSION,
    Dataset,
    ShardSummary,
    read_summary,
    write_manifest,
    write_shard,
)
from segdist.data.sources import class_names, keep_classes, open_sources, read_sources, stop_on_errors
from segdist.data.split import NAMES, leaks, split
from segdist.data.validate import check_image
from segdist.errors import DataError, StorageError
from segdist.pipeline.cluster import connected
from segdist.pipeline.dataflow import answers, map_items
from segdist.plugins import DatasetFormat
from segdist.records import Finding, Sample, Severity
from segdist.spec import DataSpec, SweepSpec, digest

CODE_VERSION = 1
"""Raised when the same sources give other samples than before."""
IMAGES_PER_SHARD = 64
PIXELS_PER_SHARD = 128_000_000
"""A shard is held in memory while it is written: large photos make shards of fewer images."""
INLINE_IMAGES = 512
"""Up to this many images, writing them here takes less time than Ray Data takes to start (9 s on two cores)."""

Numbered = tuple[int, Sample]
"""A sample and the number of the source it came from."""


@dataclass(frozen=True)
class _Work:
    """One shard to write."""

    uri: str
    data: DataSpec
    pairs: tuple[Numbered, ...]


def ingest_key(spec: SweepSpec) -> str:
    """Names the data set of a sweep: changes with the data's keys, the sources' content, and our code.

    Raises:
        DataError: a source is not there.
    """
    signatures = [source.signature() for source in open_sources(spec.data)]
    # Which masks are hidden decides labelling and training, not what the data set holds.
    return digest([SCHEMA_VERSION, CODE_VERSION, spec.data.model_dump(mode="json", exclude={"boxes_only"}), signatures])


def ingest(spec: SweepSpec) -> Dataset:
    """The data set of a sweep, made where it is not there yet.

    Raises:
        DataError: the data have errors (and `data.on_error` is not "skip"), or nothing to train on.
    """
    root = storage.join(storage.absolute(spec.storage), "datasets", ingest_key(spec))
    if storage.exists(storage.join(root, MANIFEST)):
        return Dataset.open(root)
    findings: list[Finding] = []
    pairs, classes = _read(spec.data, open_sources(spec.data), findings)
    shards = _write(root, spec.data, pairs)
    try:
        _check(spec.data, shards)
    except DataError:
        storage.remove(root)  # the sources will change, and their key with them
        raise
    places = {row.image_id: row.split for shard in shards for row in shard.rows}
    hashes = {row.image_id: row.image_sha256 for shard in shards for row in shard.rows}
    findings += leaks(places, hashes, code="image-in-two-splits", what="identical images")
    sources = [{"format": s.format, **s.options()} for s in spec.data.sources]
    return write_manifest(root, "dataset", classes, shards, findings=findings, details={"sources": sources})


def _read(
    data: DataSpec, sources: Sequence[DatasetFormat], findings: list[Finding]
) -> tuple[list[Numbered], tuple[str, ...]]:
    """The samples with their splits, and the class names."""
    pairs = list(read_sources(sources, findings.append))
    if data.on_error == "stop":
        stop_on_errors(findings)
    missing = {f.image for f in findings if f.code == "image-missing"}
    pairs = [(n, sample) for n, sample in pairs if sample.image_id not in missing]
    found = Counter(i.label for _, sample in pairs for i in sample.instances)
    classes = class_names(data.classes, found)
    pairs = [(n, keep_classes(sample, classes)) for n, sample in pairs]
    places = split([sample for _, sample in pairs], data.split)
    groups = {sample.image_id: sample.group for _, sample in pairs}
    findings += leaks(places, groups, code="source-in-two-splits", what="copies of one source")
    pairs = [(n, replace(sample, split=places[sample.image_id])) for n, sample in pairs]
    _require_training(sum(bool(s.instances) for _, s in pairs if s.split == "train"))
    return pairs, classes


def _check(data: DataSpec, shards: Sequence[ShardSummary]) -> None:
    if data.on_error == "stop":
        stop_on_errors([f for s in shards for f in s.found])
    trained = [s.splits["train"] for s in shards if "train" in s.splits]
    _require_training(sum(c.images - c.empty_images for c in trained))


def _require_training(images: int) -> None:
    if not images:
        raise DataError(
            "No training sample: the split `train` has no image with an annotation. "
            "Check the annotations, or lower `data.split.val` and `data.split.test`."
        )


def _write(root: str, data: DataSpec, pairs: Sequence[Numbered]) -> list[ShardSummary]:
    """Summaries of all shards; those that are there already are only looked at."""
    there = {entry.uri.rsplit("/", 1)[-1] for entry in storage.find(root, suffix=".parquet")}
    done, todo = [], []
    for name, members in _shards(pairs).items():
        uri = storage.join(root, name)
        if name in there:
            done.append(read_summary(uri))
        else:
            todo.append(_Work(uri, data, tuple(members)))
    return [*done, *_run(todo)]


def _shards(pairs: Sequence[Numbered]) -> Mapping[str, list[Numbered]]:
    """Shard names and their samples: one split each, bounded in images and pixels, in the order of image ids."""
    found: dict[str, list[Numbered]] = {}
    for place in NAMES:
        number, pixels = -1, 0
        members = sorted((p for p in pairs if p[1].split == place), key=lambda p: p[1].image_id)
        for pair in members:
            area = pair[1].size_hw[0] * pair[1].size_hw[1]
            name = f"{place}-{number:05d}.parquet"
            if number < 0 or len(found[name]) == IMAGES_PER_SHARD or pixels + area > PIXELS_PER_SHARD:
                number, pixels = number + 1, 0
                name = f"{place}-{number:05d}.parquet"
                found[name] = []
            found[name].append(pair)
            pixels += area
    return found


def _run(works: Sequence[_Work]) -> Iterator[ShardSummary]:
    if sum(len(work.pairs) for work in works) <= INLINE_IMAGES:
        yield from map(_write_one, works)
        return
    with connected() as ray:
        for text in map_items(ray, _write_row, [{"work": pickle.dumps(work)} for work in works]):
            yield ShardSummary.model_validate_json(text)


@answers
def _write_row(row: dict[str, Any]) -> str:
    return _write_one(pickle.loads(row["work"])).model_dump_json()  # noqa: S301 - our own driver's


def _write_one(work: _Work) -> ShardSummary:
    """Fetch, decode and check the images of one shard, and write it."""
    sources = open_sources(work.data)
    findings: list[Finding] = []
    rows: list[tuple[Sample, bytes | None]] = []
    for number, sample in work.pairs:
        try:
            content = sources[number].image_bytes(sample)
        except StorageError as error:
            findings.append(Finding("image-unreadable", Severity.ERROR, str(error), sample.image_uri, sample.image_id))
            continue
        checked, found = check_image(sample, content)
        findings += found
        if checked:
            rows.append((checked, content))
    return write_shard(work.uri, rows, findings=findings)
