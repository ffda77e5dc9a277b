"""Boxes to masks: a pool of teachers labels the shards of a data set; resumes shard by shard.

Human masks are kept, except in the splits of `data.boxes_only`, where they are hidden from the teacher's result and
only measure it. What people decided in a review wins over every teacher.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from types import ModuleType
from typing import Any

from segdist.commands.model import model_folder
from segdist.core import registry, storage
from segdist.core.bounded_json import load_json
from segdist.core.errors import SpecError, StorageError
from segdist.core.plugins import declaration
from segdist.core.spec import LabelSpec, SweepSpec, TeacherSpec, digest
from segdist.datasets.shards import (
    MANIFEST,
    SCHEMA_VERSION,
    Dataset,
    ShardSummary,
    read_rows,
    read_summary,
    write_manifest,
    write_shard,
)
from segdist.labelling.corrections import Corrections, corrections_uri
from segdist.labelling.election import Choice, Poll
from segdist.labelling.quality import summarise
from segdist.pipeline.cluster import connected, slots
from segdist.pipeline.dataflow import map_items
from segdist.pipeline.gpus import given
from segdist.pipeline.label_rows import LabelJob, LabelShard, PollShard, PollUnit, TeacherMaker
from segdist.pipeline.meters import gauges
from segdist.pipeline.panel import Panel, members
from segdist.pipeline.teacher import check_teacher, shared_model, teacher_digest

CODE_VERSION = 3
"""Raised when the same teacher gives other labels than before."""
_ELECTION_VERSION = 2
"""Raised when the same polls lead to other labels than before."""
_HOW_FAST = {
    "teacher", "teachers", "actors", "max_actors", "cpus_per_actor", "gpus_per_actor", "images_per_shard", "precision",
    "compile",
}  # fmt: skip
"""Keys of a label policy that do not tell which labels it makes, or that `label_key` looks at more closely."""
POLLED_IMAGES = 96
"""Images about which all teachers are asked before one is chosen for each class, spread over the data set."""
_POLLED_AT_ONCE = 8
_POLL = "poll.json"


def label(
    spec: SweepSpec,
    dataset: Dataset,
    on_progress: Callable[[str], None] = lambda _: None,
    *,
    teacher: TeacherMaker = Panel,
    limit: int = 0,
) -> Dataset:
    """The labels of a sweep's data set, made where they are not there yet, under what people decided.

    Args:
        spec: with a `label` part.
        dataset: what `ingest` made of its data.
        on_progress: takes a line now and then.
        teacher: makes the teacher inside each actor.
        limit: label only the first images, as a set of its own; 0 for all.

    Raises:
        SpecError: the teacher does not understand the prompts.
        WeightsError: its weights are missing.
    """
    policy = policy_of(spec)
    trained_uri = checked_teacher(spec, policy)
    root = _root(spec, dataset, trained_uri, limit)
    if storage.exists(storage.join(root, MANIFEST)):
        made = Dataset.open(root)
    else:
        source = f"label-{root.rpartition('/')[2]}"
        hidden = tuple(spec.data.boxes_only)
        job = LabelJob(policy, dataset.manifest.classes, hidden, source, trained_uri, sweep=spec.name)
        made = _label(root, job, dataset, on_progress, teacher, limit)
    return corrected(made, Corrections.load(corrections_uri(spec.storage, dataset.uri)))


def label_root(spec: SweepSpec, dataset: Dataset, limit: int = 0) -> str:
    """The folder that holds the labels of a sweep, or will."""
    return _root(spec, dataset, checked_teacher(spec, policy_of(spec)), limit)


def policy_of(spec: SweepSpec) -> LabelSpec:
    """The label policy of a sweep.

    Raises:
        SpecError: it has none.
    """
    if spec.label is None:
        raise SpecError("`label` must name a teacher. Add one, or train on the masks that are there.")
    return spec.label


def label_key(spec: SweepSpec, dataset: Dataset, trained_uri: str = "") -> str:
    """Names a set of labels: changes with the images, the label policy, and the teacher's weights.

    Args:
        spec: with a `label` part.
        dataset: what is labelled.
        trained_uri: of a trained teacher's model, named by its content.
    """
    policy = policy_of(spec)
    how = policy.model_dump(mode="json", exclude=_HOW_FAST)
    if policy.policy == "vote":
        del how["policy"]  # what there was before teachers could be elected
    else:
        how["election"] = _ELECTION_VERSION
    if policy.gpus_per_actor and policy.precision != "float32":
        how["precision"] = policy.precision
    who: list[object] = ["trained", trained_uri.rpartition("/")[2]] if trained_uri else _identity(policy.teacher)
    who += [part for further in policy.teachers for part in _identity(further)]
    content = [dataset.manifest.content_hash, list(dataset.manifest.classes), sorted(spec.data.boxes_only)]
    return digest([SCHEMA_VERSION, CODE_VERSION, content, how, who])


def _identity(teacher: TeacherSpec) -> list[object]:
    return [teacher.family, _identifying_options(teacher), teacher_digest(teacher)]


def corrected(made: Dataset, decisions: Corrections) -> Dataset:
    """A set of labels with what people decided, as a set of its own; the labels themselves where nobody decided."""
    if not decisions.of_image:
        return made
    root = f"{made.uri}-{decisions.fingerprint}"
    if storage.exists(storage.join(root, MANIFEST)):
        return Dataset.open(root)
    shards = []
    for uri in made.shard_uris:
        rows = [(decisions.apply(sample), None) for sample, _ in read_rows(uri)]
        shards.append(write_shard(storage.join(root, uri.rpartition("/")[2]), rows))
    count = sum(len(of) for of in decisions.of_image.values())
    details = {**made.manifest.details, "corrected": count}
    return write_manifest(root, "labels", made.manifest.classes, shards, findings=made.findings(), details=details)


def _label(
    root: str,
    job: LabelJob,
    dataset: Dataset,
    on_progress: Callable[[str], None],
    teacher: TeacherMaker,
    limit: int,
) -> Dataset:
    job = replace(job, choices=_choices(root, job, dataset, teacher))
    units = _units(root, dataset, job.label, limit)
    there = {entry.uri for entry in storage.find(root, suffix=".parquet")}
    done = [read_summary(unit["target"]) for unit in units if unit["target"] in there]
    todo = [unit for unit in units if unit["target"] not in there]
    started = time.monotonic()
    with gauges(job.sweep) as shown:
        before = sum(len(summary.rows) for summary in done)
        planned = sum(int(str(unit["stop"])) - int(str(unit["start"])) for unit in units)
        shown.show("segdist_labelling_images", planned, sweep=job.sweep, state="planned")

        def show(images: int) -> None:
            shown.show("segdist_labelling_images", before + images, sweep=job.sweep, state="done")

        made = list(_reported(_run(todo, job, teacher), len(todo), started, on_progress, show)) if todo else []
    seconds = time.monotonic() - started
    notes = [shard.notes for shard in (*done, *made)]
    details = {
        **summarise(notes),
        "halved": sum(note.get("halved", 0) for note in notes),
        "images_per_second": sum(len(s.rows) for s in made) / seconds if made else None,
        "teacher_seconds": sum(note.get("seconds", 0.0) for note in notes),
        "dataset": dataset.manifest.content_hash,
        "policy": job.label.model_dump(mode="json"),
        "choices": {label: asdict(choice) for label, choice in job.choices.items()},
    }
    return write_manifest(root, "labels", dataset.manifest.classes, [*done, *made], details=details)


def _root(spec: SweepSpec, dataset: Dataset, trained_uri: str, limit: int) -> str:
    name = label_key(spec, dataset, trained_uri) + (f"-first-{limit}" if limit else "")
    return storage.join(storage.absolute(spec.storage), "labels", name)


def checked_teacher(spec: SweepSpec, policy: LabelSpec) -> str:
    """The URI of a trained teacher's model, "" for one of a family; its prompts are what it understands."""
    for alone in members(policy)[1:]:
        _check_prompts(alone, alone.teacher, alone.teacher.family)
    if policy.teacher.family:
        _check_prompts(policy, policy.teacher, policy.teacher.family)
        return ""
    from segdist.engine import checkpoint

    name = policy.teacher.trained
    with model_folder(name, spec.storage, spec.tracking.uri) as (folder, trusted):
        if not trusted:
            checkpoint.check_closed(folder)
        model = checkpoint.describe(folder).model
        _check_prompts(policy, model, name)
        return shared_model(folder, storage.absolute(spec.storage))


def _check_prompts(policy: LabelSpec, model: Any, name: str) -> None:
    family = declaration(model.family)
    registry.check_extra(f"The model family `{model.family}`", family.extra)
    options = family.options.model_validate(model.family_options())
    check_teacher(policy, family.prompts(options), name)


def _units(root: str, dataset: Dataset, spec: LabelSpec, limit: int) -> list[dict[str, object]]:
    """What is labelled and saved at once: at most `images_per_shard` images of one shard."""
    found = []
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


def _choices(root: str, job: LabelJob, dataset: Dataset, teacher: TeacherMaker) -> dict[str, Choice]:
    """Who labels each class, by a poll over some images; kept beside the labels, so that it is taken once."""
    if job.label.policy != "auto":
        return {}
    uri = storage.join(root, _POLL)
    poll = Poll()
    if storage.exists(uri):
        poll.add_content(load_json(storage.read_bytes(uri), uri, error=StorageError))
    else:
        for text in _asked(_polled(dataset, job.label), job, teacher, PollShard):
            poll.add_content(json.loads(text))
        storage.write_atomic(uri, json.dumps(poll.content).encode())
    return poll.choices()


def _polled(dataset: Dataset, spec: LabelSpec) -> list[PollUnit]:
    """Images over all shards of the splits that models learn and are chosen on; the test split is nobody's advice."""
    uris = [uri for uri in dataset.shard_uris if _split_of(uri) in {*spec.splits} - {"test"}]
    counts = [len(read_summary(uri).rows) for uri in uris]
    step = max(1, -(-sum(counts) // POLLED_IMAGES))
    units: list[PollUnit] = []
    before = 0
    for uri, count in zip(uris, counts, strict=True):
        rows = list(range(-before % step, count, step))
        before += count
        units += [{"shard": uri, "rows": rows[i : i + _POLLED_AT_ONCE]} for i in range(0, len(rows), _POLLED_AT_ONCE)]
    return units


def _run(units: Sequence[dict[str, object]], job: LabelJob, teacher: TeacherMaker) -> Iterator[ShardSummary]:
    for text in _asked(units, job, teacher, LabelShard):
        yield ShardSummary.model_validate_json(text)


def _asked(
    units: Sequence[dict[str, object] | PollUnit],
    job: LabelJob,
    teacher: TeacherMaker,
    actor: type[LabelShard | PollShard],
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


def _identifying_options(teacher: TeacherSpec) -> dict[str, object]:
    """A family's options without those that say where and how much is kept, which changes no label."""
    fields = declaration(teacher.family).options.model_fields
    extras = {name: field.json_schema_extra for name, field in fields.items()}
    silent = {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("housekeeping")}
    return {name: value for name, value in teacher.family_options().items() if name not in silent}


def _reported(
    shards: Iterator[ShardSummary],
    total: int,
    started: float,
    on_progress: Callable[[str], None],
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
