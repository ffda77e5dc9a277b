"""The data set of a sweep: made once for its sources, on this machine or over Ray; found again by its key."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from segdist import storage
from segdist.data.build import build, here
from segdist.data.shards import MANIFEST, SCHEMA_VERSION, Dataset
from segdist.data.sources import open_sources
from segdist.pipeline.cluster import connected
from segdist.pipeline.dataflow import answers, map_items
from segdist.spec import SweepSpec, digest

CODE_VERSION = 3
"""Raised when the same sources give other samples than before."""
INLINE_IMAGES = 512
"""Up to this many images, working here takes less time than Ray Data takes to start (9 s on two cores)."""


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
    return build(root, spec.data, _over_ray)


def _over_ray(function: Callable[[bytes], str], items: Sequence[bytes], images: int) -> Iterator[str]:
    """A `Spread` over the cluster; in this process where there is little to do."""
    if images <= INLINE_IMAGES:
        yield from here(function, items, images)
        return

    def call(row: dict[str, Any]) -> str:
        return function(row["item"])

    with connected() as ray:
        yield from map_items(ray, answers(call), [{"item": item} for item in items])
