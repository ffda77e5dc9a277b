"""A few images of a data set with what is known of all of them, before or after the data set is made."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.records import Finding, LabelledImage, Sample
from segdist.core.spec import SweepSpec
from segdist.datasets.build import fetched, read
from segdist.datasets.checks import check_image
from segdist.datasets.ingest import ingest_key
from segdist.datasets.merge import Numbered
from segdist.datasets.shards import MANIFEST, Dataset
from segdist.datasets.split import NAMES, split
from segdist.reading.sources import class_names, keep_classes, open_sources

_LARGEST = 2
"""Of the images of each split, so many are the largest ones: they decide how much memory is needed."""


@dataclass(frozen=True)
class Excerpt:
    """Some images, and the sizes of the whole.

    Attributes:
        classes: the class names in order.
        images: number by split; copies of one image, which are left out when the data set is made, may still count.
        unmasked: the splits in which some object has no mask.
        rows: of each split some images, upright, with what is annotated.
        shard_bytes: that the whole data set takes, or is expected to.
        open_seconds: that an image takes to be fetched, decoded and checked; 0 where that is done.
        uri: of the data set where it is there already; "" where it is not.
    """

    classes: tuple[str, ...]
    images: dict[str, int]
    unmasked: frozenset[str]
    rows: dict[str, list[LabelledImage]]
    shard_bytes: float
    open_seconds: float
    uri: str


def excerpt(spec: SweepSpec, *, images: int) -> Excerpt:
    """Some images of a sweep's data set, which is not made for it.

    Args:
        spec: the sweep.
        images: of each split, at most.

    Raises:
        DataError: the data cannot be read, or there is nothing to train on.
    """
    root = storage.join(storage.absolute(spec.storage), "datasets", ingest_key(spec))
    return _of_made(root, images) if storage.exists(storage.join(root, MANIFEST)) else _of_sources(spec, images)


def _of_made(root: str, images: int) -> Excerpt:
    dataset = Dataset.open(root)
    splits = dataset.manifest.splits
    rows = {
        name: [(sample, content) for sample, content in islice(dataset.rows(name), images) if content is not None]
        for name in splits
    }
    size = sum(entry.size for entry in storage.find(root))
    images_of = {name: counts.images for name, counts in splits.items()}
    unmasked = frozenset(name for name, counts in splits.items() if counts.masks < counts.instances)
    return Excerpt(dataset.manifest.classes, images_of, unmasked, rows, size, 0.0, root)


def _of_sources(spec: SweepSpec, images: int) -> Excerpt:
    sources, findings = open_sources(spec.data), list[Finding]()
    pairs = read(spec.data, sources, findings)
    classes = class_names(spec.data.classes, Counter(i.label for _, s in pairs for i in s.instances))
    pairs = [(number, keep_classes(sample, classes)) for number, sample in pairs]
    places = split([sample for _, sample in pairs], spec.data.split)
    rows: dict[str, list[LabelledImage]] = {}
    started = time.perf_counter()
    for name in NAMES:
        members = [pair for pair in pairs if places[pair[1].image_id] == name]
        opened = (
            (upright, content)
            for number, sample in _chosen(members, images)
            if (content := fetched(sources[number], sample, findings)) and (upright := _upright(sample, content))
        )
        rows[name] = list(opened)
    if not rows["train"]:
        raise DataError("No training image could be opened. `segdist data validate` names what is wrong with them.")
    seen = [len(content) for of in rows.values() for _, content in of]
    each = (time.perf_counter() - started) / len(seen)
    counts = {name: n for name in NAMES if (n := sum(place == name for place in places.values()))}
    unmasked = frozenset(
        places[sample.image_id] for _, sample in pairs if any(instance.mask is None for instance in sample.instances)
    )
    return Excerpt(classes, counts, unmasked, rows, sum(seen) / len(seen) * len(pairs), each, "")


def _chosen(members: Sequence[Numbered], images: int) -> Iterator[Numbered]:
    """The largest images, and others evenly spaced."""
    largest = sorted(members, key=lambda pair: -pair[1].size_hw[0] * pair[1].size_hw[1])[:_LARGEST]
    names = {sample.image_id for _, sample in largest}
    others = [pair for pair in members if pair[1].image_id not in names]
    yield from largest[:images]
    left = max(images - len(largest), 0)
    yield from others[:: max(1, -(-len(others) // left))] if left else ()


def _upright(sample: Sample, content: bytes) -> Sample | None:
    return check_image(sample, content)[0]
