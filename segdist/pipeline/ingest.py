"""The data set of a sweep, made over Ray where there is much to do."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from segdist.core.spec import SweepSpec
from segdist.datasets.build import here
from segdist.datasets.ingest import find_or_build
from segdist.datasets.shards import Dataset
from segdist.pipeline.cluster import connected
from segdist.pipeline.dataflow import answers, map_items

INLINE_IMAGES = 512
"""Up to this many images, working here takes less time than Ray Data takes to start (9 s on two cores)."""


def ingest(spec: SweepSpec) -> Dataset:
    """The data set of a sweep, made where it is not there yet; see `find_or_build`."""
    return find_or_build(spec, _over_ray)


def _over_ray(function: Callable[[bytes], str], items: Sequence[bytes], images: int) -> Iterator[str]:
    """A `RunOnItems` over the cluster; in this process where there is little to do."""
    if images <= INLINE_IMAGES:
        yield from here(function, items, images)
        return

    def call(row: dict[str, Any]) -> str:
        return function(row["item"])

    with connected() as ray:
        yield from map_items(ray, answers(call), [{"item": item} for item in items])
