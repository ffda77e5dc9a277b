"""Boxes to masks: a pool of teachers labels the shards of a data set; resumes shard by shard.

Human masks are kept, except in the splits of `data.boxes_only`, where they are hidden from the teacher's result and
only measure it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segdist import masks, registry, storage
from segdist.data.examples import decode_image
from segdist.data.rows import without_masks
from segdist.data.shards import (
    MANIFEST,
    SCHEMA_VERSION,
    Dataset,
    ShardSummary,
    read_rows,
    read_summary,
    write_manifest,
    write_shard,
)
from segdist.errors import DataError, SpecError
from segdist.pipeline.cluster import connected, slots
from segdist.pipeline.dataflow import answers, map_items
from segdist.pipeline.teacher import Teacher, teacher_digest
from segdist.records import Finding, Instance, Sample, Severity
from segdist.spec import LabelSpec, SweepSpec, digest

CODE_VERSION = 1
"""Raised when the same teacher gives other labels than before."""
IMAGES_PER_CALL = 8
"""Images decoded and shown to the teacher at once."""


TeacherMaker = Callable[[LabelSpec, tuple[str, ...]], Teacher]
"""Makes the teacher inside an actor."""


@dataclass(frozen=True)
class LabelJob:
    """What every labelling actor needs to know."""

    label: LabelSpec
    classes: tuple[str, ...]
    hidden: tuple[str, ...]
    source: str
    """Written into each sample it labels."""


def label(
    spec: SweepSpec,
    dataset: Dataset,
    on_progress: Callable[[str], None] = lambda _: None,
    *,
    teacher: TeacherMaker = Teacher,
) -> Dataset:
    """The labels of a sweep's data set, made where they are not there yet.

    Args:
        spec: with a `label` part.
        dataset: what `ingest` made of its data.
        on_progress: takes a line now and then.
        teacher: makes the teacher inside each actor.

    Raises:
        SpecError: the teacher takes no boxes.
        WeightsError: its weights are missing.
    """
    if spec.label is None:
        raise SpecError("`label` must name a teacher. Add one, or train on the masks that are there.")
    _check_takes_boxes(spec.label)
    key = label_key(spec, dataset)
    root = storage.join(storage.absolute(spec.storage), "labels", key)
    if storage.exists(storage.join(root, MANIFEST)):
        return Dataset.open(root)
    job = LabelJob(spec.label, dataset.manifest.classes, tuple(spec.data.boxes_only), f"label-{key}")
    units = _units(root, dataset, spec.label)
    there = {entry.uri for entry in storage.find(root, suffix=".parquet")}
    done = [read_summary(unit["target"]) for unit in units if unit["target"] in there]
    todo = [unit for unit in units if unit["target"] not in there]
    started = time.monotonic()
    made = list(_reported(_run(todo, job, teacher), len(todo), started, on_progress)) if todo else []
    seconds = time.monotonic() - started
    details = summarise([*done, *made])
    details["images_per_second"] = sum(len(s.rows) for s in made) / seconds if made else None
    return write_manifest(root, "labels", dataset.manifest.classes, [*done, *made], details=details)


def label_key(spec: SweepSpec, dataset: Dataset) -> str:
    """Names a set of labels: changes with the images, the label policy, and the teacher's weights."""
    if spec.label is None:
        raise SpecError("`label` must name a teacher.")
    policy = spec.label.model_dump(
        mode="json", exclude={"teacher", "actors", "cpus_per_actor", "gpus_per_actor", "images_per_shard"}
    )
    teacher = [spec.label.teacher.family, spec.label.teacher.family_options(), teacher_digest(spec.label.teacher)]
    content = [dataset.manifest.content_hash, list(dataset.manifest.classes), sorted(spec.data.boxes_only)]
    return digest([SCHEMA_VERSION, CODE_VERSION, content, policy, teacher])


def label_samples(
    rows: Sequence[tuple[Sample, bytes | None]], job: LabelJob, teacher: Teacher
) -> tuple[list[Sample], list[Finding], dict[str, Any]]:
    """Labels for a few images, what was found wrong with them, and how good the labels are where truth is known."""
    samples: list[Sample] = []
    findings: list[Finding] = []
    tally = Tally()
    for start in range(0, len(rows), IMAGES_PER_CALL):
        batch = []
        for sample, image_bytes in rows[start : start + IMAGES_PER_CALL]:
            shown = without_masks(sample) if sample.split in job.hidden else sample
            indices = _asked(shown)
            try:
                image = decode_image(image_bytes or b"", name=sample.image_id) if indices else None
            except DataError as error:
                findings.append(_unreadable(sample, str(error)))
                image, indices = None, []
            batch.append((sample, shown, indices, image))
        asked = [(shown, indices, image) for _, shown, indices, image in batch if image is not None]
        answers = iter(teacher.masks(asked))
        for truth, shown, indices, image in batch:
            made = shown if image is None else _labelled(shown, indices, next(answers), job)
            tally.add(truth, made, indices)
            samples.append(made)
    return samples, findings, tally.notes()


class Tally:
    """Counts and IoU sums of labels; sums, so that shards add up."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(labelled=0, abstained=0, kept=0)
        self.per_class: dict[str, list[float]] = {}

    def add(self, truth: Sample, made: Sample, indices: Sequence[int]) -> None:
        """Count one image; instances whose hidden mask is known are compared with it."""
        self.counts["kept"] += sum(i.mask is not None for i in made.instances) - sum(
            made.instances[i].mask is not None for i in indices
        )
        for index in indices:
            true, guess = truth.instances[index], made.instances[index]
            self.counts["labelled" if guess.mask else "abstained"] += 1
            if true.mask is None:
                continue
            box = masks.from_box(true.box_xyxy, size_hw=truth.size_hw)
            sums = self.per_class.setdefault(true.label, [0, 0.0, 0.0])
            sums[0] += 1
            sums[1] += masks.iou(true.mask, guess.mask) if guess.mask else 0.0
            sums[2] += masks.iou(true.mask, box)

    def notes(self) -> dict[str, Any]:
        """JSON values for the shard."""
        return {"counts": dict(self.counts), "quality": self.per_class}


def summarise(shards: Sequence[ShardSummary]) -> dict[str, Any]:
    """Counts of all shards, and mean IoU of labels and of filled boxes with the hidden truth, over objects.

    `quality` is null where no truth is known.
    """
    counts: Counter[str] = Counter()
    sums: dict[str, list[float]] = {}
    for shard in shards:
        counts.update(shard.notes.get("counts", {}))
        for name, values in shard.notes.get("quality", {}).items():
            sums[name] = [a + b for a, b in zip(sums.get(name, [0, 0.0, 0.0]), values, strict=True)]
    whole = [sum(column) for column in zip(*sums.values(), strict=True)] if sums else None
    per_class = {name: _means(values) for name, values in sorted(sums.items())}
    return {**counts, "quality": {**_means(whole), "per_class": per_class} if whole else None}


class LabelShard:
    """One actor of the pool: holds a teacher, and labels a unit of a shard at a time."""

    def __init__(self, job: LabelJob, teacher: TeacherMaker) -> None:
        self._job = job
        self._teacher = teacher(job.label, job.classes)

    @answers
    def __call__(self, unit: dict[str, Any]) -> str:
        """Write the label shard of a unit; its summary as JSON."""
        rows = read_rows(unit["shard"])[unit["start"] : unit["stop"]]
        samples, findings, notes = label_samples(rows, self._job, self._teacher)
        written = write_shard(unit["target"], [(s, None) for s in samples], findings=findings, notes=notes)
        return written.model_dump_json()


def _means(sums: Sequence[float]) -> dict[str, Any]:
    return {"objects": int(sums[0]), "iou": sums[1] / sums[0], "box_fill_iou": sums[2] / sums[0]}


def _check_takes_boxes(spec: LabelSpec) -> None:
    family = registry.load("models", spec.teacher.family).FAMILY
    options = family.options.model_validate(spec.teacher.family_options())
    if "box" not in family.prompts(options):
        raise SpecError(
            f"A teacher must take boxes, but `{spec.teacher.family}` with these options takes "
            f"{', '.join(sorted(family.prompts(options)))}. Use the family `sam` with `prompt: box`."
        )


def _units(root: str, dataset: Dataset, spec: LabelSpec) -> list[dict[str, Any]]:
    """What is labelled and saved at once: at most `images_per_shard` images of one shard."""
    found = []
    for uri in dataset.shard_uris:
        name = uri.rsplit("/", 1)[-1].removesuffix(".parquet")
        if name.rpartition("-")[0] not in spec.splits:
            continue
        count = len(read_summary(uri).rows)
        for start in range(0, count, spec.images_per_shard):
            stop = min(start + spec.images_per_shard, count)
            target = storage.join(root, f"{name}-{start:05d}-{stop:05d}.parquet")
            found.append({"shard": uri, "start": start, "stop": stop, "target": target})
    return found


def _run(units: Sequence[dict[str, Any]], job: LabelJob, teacher: TeacherMaker) -> Iterator[ShardSummary]:
    spec = job.label
    with connected() as ray:
        # A fraction of a CPU lets reading go on beside the teachers; more teachers than CPUs would only queue.
        most = slots(ray, cpus=max(1.0, spec.cpus_per_actor), gpus=spec.gpus_per_actor)
        actors = min(len(units), most if spec.actors == "auto" else spec.actors)
        found = map_items(
            ray,
            LabelShard,
            units,
            fn_constructor_args=(job, teacher),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=spec.cpus_per_actor,
            num_gpus=spec.gpus_per_actor,
        )
        for text in found:
            yield ShardSummary.model_validate_json(text)


def _reported(
    shards: Iterator[ShardSummary], total: int, started: float, on_progress: Callable[[str], None]
) -> Iterator[ShardSummary]:
    images = 0
    for number, shard in enumerate(shards, start=1):
        images += len(shard.rows)
        seconds = time.monotonic() - started
        left = seconds / number * (total - number)
        on_progress(f"labelling {number}/{total} shards, {images / seconds:.1f} images/s, {left:.0f} s left")
        yield shard


def _asked(shown: Sample) -> list[int]:
    """The instances that need a mask."""
    return [
        index
        for index, i in enumerate(shown.instances)
        if i.mask is None and not i.is_crowd and i.box_xyxy[2] > i.box_xyxy[0] and i.box_xyxy[3] > i.box_xyxy[1]
    ]


def _labelled(shown: Sample, indices: Sequence[int], answers: Sequence[Instance], job: LabelJob) -> Sample:
    """The sample with the teacher's masks; a mask that is empty or scored too low stays a box."""
    instances = list(shown.instances)
    for index, answer in zip(indices, answers, strict=True):
        sure = answer.mask is not None and answer.mask.area > 0 and answer.score >= job.label.min_score
        score = min(max(answer.score, 0.0), 1.0)
        instances[index] = replace(instances[index], mask=answer.mask if sure else None, score=score)
    return replace(shown, instances=tuple(instances), source=job.source)


def _unreadable(sample: Sample, message: str) -> Finding:
    return Finding("image-unreadable", Severity.SKIPPED, message, file=sample.image_uri, image=sample.image_id)
