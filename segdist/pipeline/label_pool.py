"""Labelling over a cluster: a pool of actors, the units that they are given, and the shards that these become."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from types import ModuleType
from typing import Any

from segdist.core import storage
from segdist.core.bounded_json import load_json
from segdist.core.errors import StorageError
from segdist.core.spec import LabelSpec
from segdist.datasets.shards import Dataset, ShardSummary, read_samples, read_summary
from segdist.labelling.corrections import Corrections
from segdist.labelling.election import Poll
from segdist.pipeline.cluster import connected, slots
from segdist.pipeline.dataflow import map_items
from segdist.pipeline.gpus import given
from segdist.pipeline.label_rows import LabelJob, LabelUnit, PollUnit, TeacherMaker
from segdist.pipeline.meters import begin, gauges

POLLED_IMAGES = 96
"""Images about which all teachers are asked before one is chosen for each class."""
_POLLED_AT_ONCE = 8
_POLL = "polled.json"
OnProgress = Callable[[str], None]


def units_of(root: str, dataset: Dataset, spec: LabelSpec, limit: int) -> list[LabelUnit]:
    """At most `images_per_shard` images of one shard each."""
    found: list[LabelUnit] = []
    left = limit or None
    for uri in dataset.shard_uris:
        name = uri.rsplit("/", 1)[-1].removesuffix(".parquet")
        if _split_of(uri) not in spec.splits:
            continue
        count = len(read_summary(uri).rows)
        if left is not None:
            count, left = min(count, left), left - min(count, left)
        for start in range(0, count, spec.images_per_shard):
            stop = min(start + spec.images_per_shard, count)
            target = storage.join(root, f"{name}-{start:05d}-{stop:05d}.parquet")
            found.append({"shard": uri, "start": start, "stop": stop, "target": target})
    return found


def polled(
    dataset: Dataset, spec: LabelSpec, hidden: Sequence[str], decisions: Corrections | None = None
) -> list[PollUnit]:
    """Images of the splits that models learn and are chosen on; the test split is nobody's advice.

    Two thirds of them, if there are as many, show a human mask that may be seen; both parts are spread over all shards.

    Args:
        dataset: the images.
        spec: whose splits are labelled.
        hidden: splits whose human masks are not to be seen.
        decisions: of people in reviews; an image that they are about shows a human mask wherever it is.
    """
    decided = decisions.of_image if decisions else {}
    known: list[tuple[str, int]] = []
    others: list[tuple[str, int]] = []
    for uri in (uri for uri in dataset.shard_uris if _split_of(uri) in {*spec.splits} - {"test"}):
        for row, sample in enumerate(read_samples(uri)):
            of_people = any(i.mask is not None and not i.is_crowd for i in sample.instances)
            is_known = (of_people and _split_of(uri) not in hidden) or sample.image_id in decided
            (known if is_known else others).append((uri, row))
    chosen = _spread(known, POLLED_IMAGES * 2 // 3)
    chosen = sorted(chosen + _spread(others, POLLED_IMAGES - len(chosen)))
    units: list[PollUnit] = []
    for uri, of_shard in groupby(chosen, key=itemgetter(0)):
        rows = [row for _, row in of_shard]
        units += [{"shard": uri, "rows": rows[i : i + _POLLED_AT_ONCE]} for i in range(0, len(rows), _POLLED_AT_ONCE)]
    return units


def most_polled(images: Mapping[str, int], spec: LabelSpec) -> int:
    """How many images a poll is about, at most; see `polled`.

    Args:
        images: of each split.
        spec: whose splits are labelled.
    """
    return min(POLLED_IMAGES, sum(images.get(split, 0) for split in {*spec.splits} - {"test"}))


def units_of_poll(images: int) -> int:
    """What so many images of a poll are asked about in, at least."""
    return -(-images // _POLLED_AT_ONCE)


def _spread(places: list[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """At most so many of them, from the first to the last."""
    return places[:: max(1, -(-len(places) // most))]


def poll_of(root: str, ask: Callable[[], Iterator[str]]) -> Poll:
    """A poll, kept beside the labels, so that it is taken once."""
    uri = storage.join(root, _POLL)
    poll = Poll()
    if storage.exists(uri):
        poll.add_content(load_json(storage.read_bytes(uri), uri, error=StorageError))
    else:
        for text in ask():
            poll.add_content(json.loads(text))
        storage.write_atomic(uri, json.dumps(poll.content).encode())
    return poll


def made(
    root: str,
    units: Sequence[LabelUnit],
    run: Callable[[Sequence[LabelUnit]], Iterator[ShardSummary]],
    *,
    told_as: Mapping[str, str],
    on_progress: OnProgress,
) -> tuple[list[ShardSummary], float | None]:
    """The shards of all units, of which those that are there are not made again; images a second of the others."""
    there = {entry.uri for entry in storage.find(root, suffix=".parquet")}
    done = [read_summary(unit["target"]) for unit in units if unit["target"] in there]
    todo = [unit for unit in units if unit["target"] not in there]
    started = time.monotonic()
    begin("driver", sweep=told_as["sweep"], place=storage.kind_of(root))
    with gauges(told_as["sweep"]) as shown:
        before = sum(len(summary.rows) for summary in done)
        planned = before + sum(unit["stop"] - unit["start"] for unit in todo)
        shown.show("segdist_labelling_images", planned, state="planned", **told_as)

        def show(images: int) -> None:
            shown.show("segdist_labelling_images", before + images, state="done", **told_as)

        new = list(_reported(run(todo), len(todo), started, on_progress, show)) if todo else []
    images = sum(len(summary.rows) for summary in new)
    return [*done, *new], images / (time.monotonic() - started) if new else None


def asked(
    units: Sequence[LabelUnit] | Sequence[PollUnit], job: LabelJob, teacher: TeacherMaker, actor: Callable[..., Any]
) -> Iterator[str]:
    """What a pool of actors answers to each unit."""
    spec = job.label
    with connected() as ray:
        gpus = given(spec.gpus_per_actor, ray).gpus
        job = replace(job, label=spec.model_copy(update={"gpus_per_actor": gpus}))
        # A fraction of a CPU lets reading go on beside the teachers; more teachers than CPUs would only queue.
        most = slots(ray, cpus=max(1.0, spec.cpus_per_actor), gpus=gpus)
        actors = min(len(units), most if spec.actors == "auto" else spec.actors)
        yield from map_items(
            ray,
            actor,
            units,
            fn_constructor_args=(job, teacher),
            compute=_pool(ray, actors, min(len(units), spec.max_actors or actors)),
            num_cpus=spec.cpus_per_actor,
            num_gpus=gpus,
        )


def _pool(ray: ModuleType, actors: int, most: int) -> Any:
    """A pool that is there from the start, or one that grows while work waits."""
    if most <= actors:
        return ray.data.ActorPoolStrategy(size=actors)
    return ray.data.ActorPoolStrategy(min_size=actors, max_size=most, initial_size=actors)


def _reported(
    shards: Iterator[ShardSummary],
    total: int,
    started: float,
    on_progress: OnProgress,
    show: Callable[[int], None],
) -> Iterator[ShardSummary]:
    images = 0
    show(images)
    for number, shard in enumerate(shards, start=1):
        images += len(shard.rows)
        show(images)
        seconds = time.monotonic() - started
        minutes, rest = divmod(int(seconds / number * (total - number)), 60)
        on_progress(f"labelling shard {number}/{total}, {images / seconds:.1f} images/s, {minutes}:{rest:02d} left")
        yield shard


def _split_of(shard_uri: str) -> str:
    return shard_uri.rsplit("/", 1)[-1].rpartition("-")[0]
