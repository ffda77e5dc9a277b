"""A trial of several workers takes the room that there is, and learns the same with fewer."""

from typing import Any

import pytest
from pydantic import ValidationError

from segdist.core.spec import RunSpec
from segdist.engine.data import EpochBatches
from segdist.pipeline import elastic
from segdist.pipeline.elastic import for_the_room, room
from segdist.pipeline.packing import Node
from segdist.pipeline.sweep import _concurrency
from tests.searching.sweeps import sweep


def run_of(batch_size: int, **resources: Any) -> RunSpec:
    content = {"model": {"family": "unet_cbam"}, "train": {"batch_size": batch_size}, "resources": resources}
    return RunSpec.model_validate(content)


@pytest.mark.parametrize(("micro_batch", "at_once"), [(None, 3), (2, 2)])
def test_fewer_workers_compute_as_many_images_at_once_and_the_step_stays_what_it_is(
    micro_batch: int | None, at_once: int
) -> None:
    run = run_of(10, workers=4, min_workers=1, micro_batch=micro_batch)
    fewer = run.with_workers(2)
    assert (fewer.resources.workers, fewer.micro_batch) == (2, at_once)
    assert fewer.fingerprint == run.fingerprint
    shown = []
    for asked in (run, fewer):
        count = asked.resources.workers
        batches = [
            EpochBatches(23, batch_size=10, micro_batch=asked.micro_batch, seed=1, rank=rank, world_size=count)
            for rank in range(count)
        ]
        assert max(n for one in batches for step in one.steps for n in step) == at_once
        shown.append([sorted(batches[0].images_of(step)) for step in range(len(batches[0].steps))])
    assert shown[0] == shown[1]
    assert [len(step) for step in shown[0]] == [10, 10, 3]


def test_it_waits_for_the_fewest_and_takes_what_there_is_up_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    run, ray = run_of(12, workers=4, min_workers=2, cpus_per_worker=2), Any
    looks = iter([[Node("a", 3)], [Node("a", 3), Node("b", 1)], [Node("a", 4), Node("b", 3)], [Node("a", 64)]])
    monkeypatch.setattr(elastic, "nodes_of", lambda *_, **__: next(looks))
    monkeypatch.setattr(elastic, "draining", dict)
    monkeypatch.setattr(elastic, "sleep", lambda _: None)
    assert for_the_room(run, ray).resources.workers == 3  # type: ignore[arg-type]
    assert for_the_room(run, ray) is run  # type: ignore[arg-type]
    assert for_the_room(run_of(4, workers=2), ray).resources.workers == 2  # type: ignore[arg-type]
    assert room(run, [Node("a", 5), Node("b", 1.9)]) == 2


def test_a_search_whose_cluster_has_room_for_the_fewest_alone_begins() -> None:
    spec = sweep()
    spec = spec.model_copy(update={"resources": run_of(8, workers=4, min_workers=2).resources})
    assert _concurrency(spec, [Node("a", 2.5)], 0) == 1
    assert _concurrency(spec, [Node("a", 8.5)], 0) == 2, "where there is room for all, as many as have that"


def test_the_fewest_are_no_more_than_all() -> None:
    with pytest.raises(ValidationError, match="`min_workers` must be at most `workers`, but got 3 for 2 workers"):
        run_of(8, workers=2, min_workers=3)
