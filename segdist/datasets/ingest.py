"""The data set of a sweep: made once for its sources, found again by its key."""

from segdist.core import storage
from segdist.core.spec import SweepSpec, digest
from segdist.datasets.build import RunOnItems, build
from segdist.datasets.shards import MANIFEST, SCHEMA_VERSION, Dataset
from segdist.reading.sources import open_sources

CODE_VERSION = 3
"""Raised when the same sources give other samples than before."""


def ingest_key(spec: SweepSpec) -> str:
    """Names the data set of a sweep: changes with the data's keys, the sources' content, and our code.

    Raises:
        DataError: a source is not there.
    """
    signatures = [source.signature() for source in open_sources(spec.data)]
    # Which masks are hidden decides labelling and training, not what the data set holds.
    return digest([SCHEMA_VERSION, CODE_VERSION, spec.data.model_dump(mode="json", exclude={"boxes_only"}), signatures])


def find_or_build(spec: SweepSpec, spread: RunOnItems) -> Dataset:
    """The data set of a sweep, made where it is not there yet.

    Args:
        spec: the sweep.
        spread: where the work of making it is done.

    Raises:
        DataError: the data have errors (and `data.on_error` is not "skip"), or nothing to train on.
    """
    root = storage.join(storage.absolute(spec.storage), "datasets", ingest_key(spec))
    if storage.exists(storage.join(root, MANIFEST)):
        return Dataset.open(root)
    return build(root, spec.data, spread)
