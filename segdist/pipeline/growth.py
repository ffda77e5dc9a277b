"""A cluster that can grow is asked for the machines of as many trials as are to run at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from segdist.core.spec import SweepSpec
from segdist.sweepfile.loading import trials_of


@contextmanager
def asked_to_grow(spec: SweepSpec) -> Iterator[None]:
    """Ask for room for `search.concurrency` trials, as long as it is needed; nothing where it is `auto`.

    Trials are started as the room for them is there, so that waiting ones are no demand that an autoscaler could see.
    One that cannot grow, and a cluster of our own, take no notice.
    """
    if spec.search.concurrency == "auto" or not os.environ.get("RAY_ADDRESS"):
        yield
        return
    from ray.autoscaler.sdk import request_resources

    asked = spec.resources
    worker = {"CPU": asked.cpus_per_worker, **({"GPU": asked.gpus} if asked.gpus else {})}
    trials = min(spec.search.concurrency, trials_of(spec))
    request_resources(bundles=[worker] * (asked.workers * trials))
    try:
        yield
    finally:
        request_resources(bundles=[])
