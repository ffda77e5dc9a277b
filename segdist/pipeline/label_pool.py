"""Labelling over a cluster: a pool of actors, the units that they are given, and the shards that these become."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from types import ModuleType
from typing import Any, TypeVar

from segdist.core import storage
from segdist.core.bounded_json import load_json
from segdist.core.errors import StorageError
from segdist.core.spec import LabelSpec
from segdist.core.text import counted
from segdist.datasets.shards import Dataset, ShardSummary, read_samples, read_summary
from segdist.labelling.election import Poll
from segdist.pipeline.cluster import connected, slots
from segdist.pipeline.dataflow import map_items
from segdist.pipeline.gpus import given
from segdist.pipeline.label_rows import LabelJob, LabelUnit, PollUnit, TeacherMaker
from segdist.pipeline.meters import begin, gauges

POLLED_IMAGES = 96
"""Images about which all teachers are asked before one is chosen for each class."""
_POLLED_AT_ONCE = 8
OnProgress = Callable[[str], None]
_Unit = TypeVar("_Unit", bound=PollUnit | LabelUnit)
_T = TypeVar("_T")


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


def polled(dataset: Dataset, job: LabelJob, target: Callable[[str], str]) -> list[PollUnit]:
    """Images of the splits that models learn and are chosen on; the test split is nobody's advice.

    Two thirds of them, if there are as many, show a human mask that may be seen; both parts are spread over all shards.

    Args:
        dataset: the images.
        job: which splits are labelled, and what of people may be seen: an image that a review has decided about shows
            a human mask wherever it is.
        target: the file that a unit becomes, by a name of its own.
    """
    known: list[tuple[str, int]] = []
    others: list[tuple[str, int]] = []
    for uri in (uri for uri in dataset.shard_uris if _split_of(uri) in {*job.label.splits} - {"test"}):
        for row, sample in enumerate(read_samples(uri)):
            of_people = any(i.mask is not None and not i.is_crowd for i in sample.instances)
            is_known = (of_people and _split_of(uri) not in job.hidden) or sample.image_id in job.decisions.of_image
            (known if is_known else others).append((uri, row))
    chosen = _spread(known, POLLED_IMAGES * 2 // 3)
    chosen = sorted(chosen + _spread(others, POLLED_IMAGES - len(chosen)))
    units: list[PollUnit] = []
    for uri, of_shard in groupby(chosen, key=itemgetter(0)):
        every = [row for _, row in of_shard]
        for start in range(0, len(every), _POLLED_AT_ONCE):
            rows = every[start : start + _POLLED_AT_ONCE]
            name = uri.rpartition("/")[2].removesuffix(".parquet")
            units.append({"shard": uri, "rows": rows, "target": target(f"{name}-{rows[0]:05d}-{rows[-1] + 1:05d}")})
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


def poll_of(
    units: Sequence[_Unit], ask: Callable[[Sequence[_Unit]], Iterator[str]], *, whom: str, on_progress: OnProgress
) -> Poll:
    """What units have counted, each in a file beside the labels, so that nobody is asked twice.

    Args:
        units: all of them; `target` is the file.
        ask: has some of them asked.
        whom: is asked, and about what, in words.
        on_progress: takes a line with each.
    """
    todo, poll = [unit for unit in units if not storage.exists(unit["target"])], Poll()
    if todo:
        on_progress(f"asking {whom}, to choose who labels each class")
        for _, place in _with_place(ask(todo), len(todo)):
            on_progress(f"asking {whom}: {place}")
    for unit in units:
        poll.add_content(load_json(storage.read_bytes(unit["target"]), unit["target"], error=StorageError))
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

        new: list[ShardSummary] = []
        if todo:
            on_progress(f"labelling {counted(planned - before, 'image')} in {counted(len(todo), 'shard')}")
            new = list(_reported(run(todo), len(todo), started, on_progress, show))
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
    for shard, place in _with_place(shards, total):
        images += len(shard.rows)
        show(images)
        on_progress(f"labelling shard {place}, {images / (time.monotonic() - started):.1f} images/s")
        yield shard


def _with_place(done: Iterator[_T], total: int) -> Iterator[tuple[_T, str]]:
    """Each with its place among all, and the minutes and seconds that are left."""
    started = time.monotonic()
    for number, one in enumerate(done, start=1):
        minutes, rest = divmod(int((time.monotonic() - started) / number * (total - number)), 60)
        yield one, f"{number}/{total}, {minutes}:{rest:02d} left"


def _split_of(shard_uri: str) -> str:
    return shard_uri.rsplit("/", 1)[-1].rpartition("-")[0]
