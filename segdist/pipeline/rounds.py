"""A round of self-training over a cluster: students learn the labels there are, then every box is looked into again.

All of it is kept beside the labels that the round makes: the students, a poll, and every shard. What is there is not
made again.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial

from pydantic import TypeAdapter

from segdist.core import storage
from segdist.datasets.shards import Dataset, ShardSummary, write_manifest
from segdist.labelling.election import Choice
from segdist.labelling.quality import summarise
from segdist.labelling.rounds import Done, label_name
from segdist.pipeline import label_pool
from segdist.pipeline.label_pool import OnProgress
from segdist.pipeline.label_rows import KnownShard, LabelJob, LabelUnit, TeacherMaker
from segdist.pipeline.round_rows import RoundJob, RoundPoll, RoundShard, RoundUnit, student
from segdist.pipeline.students import learned
from segdist.sweepfile.students import student_of

ROUNDS_VERSION = 1
"""Raised when a round makes other labels of the same ones than before."""
_KNOWN = "known-"
"""Begins the names of files beside the labels that hold what they would be for objects with a human mask."""
_CHOICES = TypeAdapter(dict[str, Choice])


def self_trained(
    root: str, job: LabelJob, dataset: Dataset, before: Dataset, on_progress: OnProgress, teacher: TeacherMaker
) -> Dataset:
    """The labels of one more round.

    Args:
        root: where they go.
        job: with `label.rounds`, the number of this round.
        dataset: the images.
        before: the labels that the round begins with.
        on_progress: takes a line now and then.
        teacher: makes the teachers of the first labels, who are asked about objects that have a human mask.
    """
    policy = job.label
    places, halves = learned(root, policy, dataset, before, job.hidden, on_progress)
    fields = {name: getattr(job, name) for name in LabelJob.__dataclass_fields__}
    again = RoundJob(**fields, students=places, halves=halves, options=student_of(policy))
    known = _units(_known(before, job, dataset, teacher), dataset, root)
    if known:
        poll = label_pool.poll_of(
            [RoundUnit(**{**unit, "target": f"{unit['target']}.polled.json"}) for unit in known],
            lambda todo: label_pool.asked(todo, again, student, RoundPoll),
            whom="students about objects with a mask of a person",
            on_progress=on_progress,
        )
        choices = poll.choices(preferred=label_name(policy.rounds))
        again = replace(again, choices={label: choice for label, choice in choices.items() if choice.by == "masks"})

    def run(todo: Sequence[LabelUnit]) -> Iterator[ShardSummary]:
        for text in label_pool.asked(todo, again, student, RoundShard):
            yield ShardSummary.model_validate_json(text)

    units = [*_units(before.shard_uris, dataset, root), *known]
    shards, per_second = label_pool.made(root, units, run, told_as=job.told_as, on_progress=on_progress)
    shards = [shard for shard in shards if not shard.file.startswith(_KNOWN)]
    details = _details(again, dataset, before, shards, per_second)
    return write_manifest(root, "labels", dataset.manifest.classes, shards, findings=before.findings(), details=details)


def _details(
    job: RoundJob, dataset: Dataset, before: Dataset, shards: Sequence[ShardSummary], per_second: float | None
) -> dict[str, object]:
    """What the labels' manifest says: how good they are, who made them, and what each round has done."""
    notes, earlier = [shard.notes for shard in shards], before.manifest.details
    taken = Counter[str]()
    for note in notes:
        taken.update(note["taken"])
    return {
        **summarise(notes),
        "halved": earlier.get("halved", 0) + sum(note["halved"] for note in notes),
        "images_per_second": per_second,
        "teacher_seconds": earlier.get("teacher_seconds", 0.0) + sum(note["seconds"] for note in notes),
        "dataset": dataset.manifest.content_hash,
        "policy": job.label.model_dump(mode="json"),
        "choices": earlier.get("choices", {}),
        "rounds": [*earlier.get("rounds", []), asdict(Done(dict(taken), dict(job.choices)))],
    }


def _known(before: Dataset, job: LabelJob, dataset: Dataset, teacher: TeacherMaker) -> list[str]:
    """The shards that say what the labels would be for objects that have a human mask, of which there are some."""
    seen = [name for name in ("train", "val") if name in dataset.manifest.splits and name not in job.hidden]
    if not any(dataset.manifest.splits[name].masks for name in seen) and not job.decisions.of_image:
        return []
    there = [entry.uri for entry in storage.find(before.uri, suffix=".parquet")]
    there = sorted(uri for uri in there if _file(uri).startswith(_KNOWN))
    if "rounds" in before.manifest.details:
        return there  # the round made them
    units = label_pool.polled(dataset, job, partial(_known_shard, before.uri))
    first = replace(job, choices=_CHOICES.validate_python(before.manifest.details.get("choices") or {}))
    if todo := [unit for unit in units if unit["target"] not in there]:
        for _ in label_pool.asked(todo, first, teacher, KnownShard):
            pass
    return sorted(unit["target"] for unit in units)


def _known_shard(root: str, name: str) -> str:
    return storage.join(root, f"{_KNOWN}{name}.parquet")


def _units(labels: Sequence[str], dataset: Dataset, root: str) -> list[RoundUnit]:
    """Shards of labels, each with that of its images, and where those of the round go."""
    found = []
    for uri in labels:
        name, start, stop = _file(uri).removesuffix(".parquet").rsplit("-", 2)
        shard = storage.join(dataset.uri, f"{name.removeprefix(_KNOWN)}.parquet")
        target = storage.join(root, _file(uri))
        found.append(RoundUnit(shard=shard, labels=uri, target=target, start=int(start), stop=int(stop)))
    return found


def _file(uri: str) -> str:
    return uri.rpartition("/")[2]
