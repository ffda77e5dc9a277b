"""Sources to one data set: read, opened, merged, split, and written as shards; goes on where it was stopped.

What runs where is the caller's: `spread` maps a function over items in this process, in several, or on a cluster.
"""

import hashlib
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from segdist.core import storage
from segdist.core.errors import DataError, StorageError
from segdist.core.plugins import DatasetFormat
from segdist.core.records import Finding, Sample
from segdist.core.spec import DataSpec, digest
from segdist.datasets.checks import check_image, open_image
from segdist.datasets.merge import Numbered, OpenedImage, merged
from segdist.datasets.near_duplicates import ImageHash, look
from segdist.datasets.parallel import ordered_map
from segdist.datasets.shards import Dataset, ShardSummary, finding_of, read_summary, write_manifest, write_shard
from segdist.datasets.split import NAMES, leaks, split, untrained
from segdist.reading.codes import finding
from segdist.reading.sources import class_names, keep_classes, licences, open_sources, read_sources, stop_on_errors

IMAGES_PER_SHARD = 64
PIXELS_PER_SHARD = 128_000_000
"""A shard is held in memory while it is written: large photos make shards of fewer images."""
OPENED = "opened"
"""Folder of what is known of opened images, for a run that goes on; gone when the data set is complete."""


class RunOnItems(Protocol):
    """Runs a function over items, anywhere; answers may come in any order."""

    def __call__(self, function: Callable[[bytes], str], items: Sequence[bytes], images: int) -> Iterable[str]:
        """The answers; `images` says how much work there is."""


@dataclass(frozen=True)
class _Work:
    """Images to open, or one shard to write; `turned` are the images whose annotations must be turned upright."""

    uri: str
    data: DataSpec
    pairs: tuple[Numbered, ...]
    turned: frozenset[str] = frozenset()


def build(root: str, data: DataSpec, spread: RunOnItems) -> Dataset:
    """Make the data set of a specification in a folder.

    Raises:
        DataError: the data have errors (and `data.on_error` is not "skip"), or nothing to train on.
    """
    findings: list[Finding] = []
    sources = open_sources(data)
    pairs = read(data, sources, findings)
    seen = _opened(root, data, pairs, findings, spread)
    if data.on_error == "stop":
        try:
            stop_on_errors(findings)
        except DataError:
            storage.remove(root)  # the sources will change
            raise
    kept, classes = _arranged(data, pairs, seen, findings)
    shards = _written(root, data, kept, frozenset(name for name, one in seen.items() if one.turned), spread)
    findings += _leaks(shards, {s.image_id: s.group for _, s in pairs})
    described = [{"format": s.format, **s.options()} for s in data.sources]
    dataset = write_manifest(
        root,
        "dataset",
        classes,
        shards,
        findings=findings,
        licences=licences(data, sources),
        details={"sources": described, "split": data.split.model_dump(mode="json")},
    )
    storage.remove(storage.join(root, OPENED))
    return dataset


def read(data: DataSpec, sources: Sequence[DatasetFormat], findings: list[Finding]) -> list[Numbered]:
    """The samples of all sources under the names of the data set."""
    pairs = list(read_sources(data, sources, findings.append))
    if data.on_error == "stop":
        stop_on_errors(findings)
    missing = {f.image for f in findings if f.code == "image-missing"}
    found = Counter(i.label for _, sample in pairs for i in sample.instances)
    classes = class_names(data.classes, found)
    return [(n, keep_classes(s, classes)) for n, s in pairs if s.image_id not in missing]


def _arranged(
    data: DataSpec, pairs: Sequence[Numbered], seen: Mapping[str, OpenedImage], findings: list[Finding]
) -> tuple[list[Numbered], tuple[str, ...]]:
    """The samples without copies, with their splits, and the class names."""
    if data.split.given == "redo":
        pairs = [(n, replace(s, split="")) for n, s in pairs]
    kept = merged(pairs, seen, findings.append, near_bits=data.near_duplicates)
    classes = class_names(data.classes, Counter(i.label for _, s in kept for i in s.instances))
    places = split([sample for _, sample in kept], data.split)
    kept = [(n, replace(sample, split=places[sample.image_id])) for n, sample in kept]
    if not any(s.instances for _, s in kept if s.split == "train"):
        raise DataError(
            "No training sample: the split `train` has no image with an annotation. "
            "Check the annotations, or lower `data.split.val` and `data.split.test`."
        )
    counts: dict[str, Counter[str]] = {}
    for _, sample in kept:
        counts.setdefault(sample.split, Counter()).update(i.label for i in sample.instances)
    findings += untrained(counts)
    return kept, classes


def _leaks(shards: Sequence[ShardSummary], groups: Mapping[str, str]) -> list[Finding]:
    rows = [row for shard in shards for row in shard.rows]
    places = {row.image_id: row.split for row in rows}
    hashes = {row.image_id: row.image_sha256 for row in rows}
    return [
        *leaks(places, hashes, code="image-in-two-splits", what="identical images"),
        *leaks(places, {i: groups[i] for i in places}, code="source-in-two-splits", what="copies of one source"),
    ]


def _opened(
    root: str, data: DataSpec, pairs: Sequence[Numbered], findings: list[Finding], spread: RunOnItems
) -> dict[str, OpenedImage]:
    """What is known of each image that could be opened; what was found before is not done again."""
    there = {e.uri.rpartition("/")[2] for e in storage.find(storage.join(root, OPENED))}
    todo, answers = [], []
    for start in range(0, len(pairs), IMAGES_PER_SHARD):
        members = tuple(pairs[start : start + IMAGES_PER_SHARD])
        name = digest([(s.image_id, s.image_uri, s.size_hw) for _, s in members]) + ".json"
        uri = storage.join(root, OPENED, name)
        if name in there:
            answers.append(json.dumps(storage.read_json(uri)))
        else:
            todo.append(_Work(uri, data, members))
    answers += spread(_open, [pickle.dumps(work) for work in todo], sum(len(w.pairs) for w in todo))
    order = {s.image_id: number for number, (_, s) in enumerate(pairs)}
    found: list[Finding] = []
    seen = {}
    for answer in map(json.loads, answers):
        found += map(finding_of, answer["findings"])
        seen.update(
            {name: OpenedImage(one["sha256"], _look_of(one), one["turned"]) for name, one in answer["images"].items()}
        )
    findings += sorted(found, key=lambda f: order[f.image])
    return seen


def _look_of(one: Mapping[str, Any]) -> ImageHash:
    return ImageHash(one["phash"], bytes.fromhex(one["thumb"]))


def _open(packed: bytes) -> str:
    """Fetch, decode and look at some images; what is known of them is kept, should the run be stopped."""
    work: _Work = pickle.loads(packed)  # noqa: S301 - our own driver's
    sources = open_sources(work.data)
    findings: list[Finding] = []
    images = {}
    for number, sample in work.pairs:
        content = fetched(sources[number], sample, findings)
        if content is None:
            continue
        checked = open_image(sample, content)
        findings += checked.findings
        if checked.sample is not None and checked.image_HWC is not None:
            seen = look(checked.image_HWC)
            turned = checked.sample is not sample
            images[sample.image_id] = {
                "turned": turned,
                "sha256": hashlib.sha256(content).hexdigest(),
                "phash": seen.phash,
                "thumb": seen.thumb.hex(),
            }
    answer = {"images": images, "findings": [vars(f) for f in findings]}
    storage.write_json(work.uri, answer)
    return json.dumps(answer)


def fetched(source: DatasetFormat, sample: Sample, findings: list[Finding]) -> bytes | None:
    """The encoded image of a sample; None, with a finding, where it cannot be read."""
    try:
        return source.image_bytes(sample)
    except (StorageError, DataError) as error:
        findings.append(finding("image-unreadable", str(error), file=sample.image_uri, image=sample.image_id))
        return None


def _written(
    root: str, data: DataSpec, pairs: Sequence[Numbered], turned: frozenset[str], spread: RunOnItems
) -> list[ShardSummary]:
    """Summaries of all shards; those that are there already are only looked at."""
    there = {entry.uri.rsplit("/", 1)[-1] for entry in storage.find(root, suffix=".parquet")}
    done, todo = [], []
    for name, members in _shards(pairs).items():
        uri = storage.join(root, name)
        if name in there:
            done.append(read_summary(uri))
        else:
            mine = turned & {s.image_id for _, s in members}
            todo.append(_Work(uri, data, tuple(members), mine))
    answers = spread(_write, [pickle.dumps(work) for work in todo], sum(len(w.pairs) for w in todo))
    return [*done, *map(ShardSummary.model_validate_json, answers)]


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


def _write(packed: bytes) -> str:
    """Fetch the images of one shard and write it, each sample in the frame of its upright image."""
    work: _Work = pickle.loads(packed)  # noqa: S301 - our own driver's
    sources = open_sources(work.data)
    findings: list[Finding] = []
    rows: list[tuple[Sample, bytes | None]] = []
    for number, sample in work.pairs:
        content = fetched(sources[number], sample, findings)
        if content is None:
            continue
        upright = check_image(sample, content)[0] if sample.image_id in work.turned else sample
        if upright:
            rows.append((upright, content))
    return write_shard(work.uri, rows, findings=findings).model_dump_json()


def here(function: Callable[[bytes], str], items: Sequence[bytes], images: int) -> Iterator[str]:  # noqa: ARG001
    """A `RunOnItems` in this process."""
    return map(function, items)


def on_all_cores(function: Callable[[bytes], str], items: Sequence[bytes], images: int) -> Iterator[str]:  # noqa: ARG001
    """A `RunOnItems` over the processes of this machine."""
    return ordered_map(function, items)
