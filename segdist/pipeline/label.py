"""Boxes to masks: a pool of teachers labels the shards of a data set; resumes shard by shard.

Human masks are kept, except in the splits of `data.boxes_only`, where they are hidden from the teacher's result and
only measure it. What people decided in a review wins over every teacher.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from segdist.commands.model import model_folder
from segdist.core import registry, storage
from segdist.core.errors import SpecError
from segdist.core.plugins import declaration
from segdist.core.spec import FILLED_BOX, LabelSpec, ModelSpec, SweepSpec, digest
from segdist.core.text import counted
from segdist.datasets.shards import (
    MANIFEST,
    SCHEMA_VERSION,
    Dataset,
    ShardSummary,
    read_rows,
    write_manifest,
    write_shard,
)
from segdist.labelling.corrections import Corrections, corrections_uri
from segdist.labelling.election import Choice
from segdist.labelling.quality import summarise
from segdist.pipeline import label_pool
from segdist.pipeline.label_pool import OnProgress
from segdist.pipeline.label_rows import LabelJob, LabelShard, LabelUnit, PollShard, TeacherMaker
from segdist.pipeline.panel import Panel, members
from segdist.pipeline.rounds import ROUNDS_VERSION, self_trained
from segdist.pipeline.students import check_students
from segdist.pipeline.teacher import check_teacher, shared_model, teacher_digest
from segdist.sweepfile.students import student_model, student_of

CODE_VERSION = 5
"""Raised when the same teacher gives other labels than before."""
_ELECTION_VERSION = 5
"""Raised when the same polls lead to other labels than before."""
_HOW_FAST = {
    "teacher", "teachers", "actors", "max_actors", "cpus_per_actor", "gpus_per_actor", "images_per_shard", "precision",
    "compile",
}  # fmt: skip
"""Keys of a label policy that do not tell which labels it makes, or that `label_key` looks at more closely."""


def label(
    spec: SweepSpec,
    dataset: Dataset,
    on_progress: OnProgress = lambda _: None,
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
    decisions = Corrections.load(corrections_uri(spec.storage, dataset.uri))
    made = _made(spec, dataset, _heeded(policy_of(spec), decisions), on_progress, teacher, limit)
    return corrected(made, decisions)


def _made(
    spec: SweepSpec,
    dataset: Dataset,
    decisions: Corrections,
    on_progress: OnProgress,
    teacher: TeacherMaker,
    limit: int,
) -> Dataset:
    """The labels of teachers, or of a round of self-training over those of the round before."""
    policy = policy_of(spec)
    trained_uri = checked_teacher(spec, policy)
    root = _root(spec, dataset, trained_uri, limit, decisions)
    if storage.exists(storage.join(root, MANIFEST)):
        return Dataset.open(root)
    source = f"label-{root.rpartition('/')[2]}"
    hidden, place = tuple(spec.data.boxes_only), storage.kind_of(root)
    job = LabelJob(
        policy, dataset.manifest.classes, hidden, source, trained_uri, sweep=spec.name, place=place, decisions=decisions
    )
    if not policy.rounds or not _is_asked(dataset, job):
        return _first(root, job, dataset, on_progress, teacher, limit)
    check_students(policy, dataset, job.hidden)
    before = _made(_with_rounds(spec, policy.rounds - 1), dataset, decisions, on_progress, teacher, limit)
    return self_trained(root, job, dataset, before, on_progress, teacher)


def _with_rounds(spec: SweepSpec, rounds: int) -> SweepSpec:
    return spec.model_copy(update={"label": policy_of(spec).model_copy(update={"rounds": rounds})})


def label_root(spec: SweepSpec, dataset: Dataset, limit: int = 0) -> str:
    """The folder that holds the labels of a sweep, or will."""
    policy = policy_of(spec)
    heeded = _heeded(policy, Corrections.load(corrections_uri(spec.storage, dataset.uri)))
    return _root(spec, dataset, checked_teacher(spec, policy), limit, heeded)


def _heeded(policy: LabelSpec, decisions: Corrections) -> Corrections:
    """The decisions by which other labels are made: teachers are chosen by them, and students learn them."""
    return decisions if policy.policy == "auto" or policy.rounds else Corrections({})


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
    if policy.rounds:
        student = student_of(policy).model_dump(mode="json", exclude={"model"})
        how |= {"student": [student, _identity(student_model(policy)), ROUNDS_VERSION]}
    else:
        del how["rounds"], how["student"]
    if policy.gpus_per_actor and policy.precision != "float32":
        how["precision"] = policy.precision
    who: list[object] = ["trained", trained_uri.rpartition("/")[2]] if trained_uri else _identity(policy.teacher)
    who += [part for further in policy.teachers for part in _identity(further)]
    content = [dataset.manifest.content_hash, list(dataset.manifest.classes), sorted(spec.data.boxes_only)]
    return digest([SCHEMA_VERSION, CODE_VERSION, content, how, who])


def _identity(teacher: ModelSpec) -> list[object]:
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


def _first(
    root: str,
    job: LabelJob,
    dataset: Dataset,
    on_progress: OnProgress,
    teacher: TeacherMaker,
    limit: int,
) -> Dataset:
    """The labels of teachers."""
    job = replace(job, choices=_choices(root, job, dataset, on_progress, teacher))

    def run(todo: Sequence[LabelUnit]) -> Iterator[ShardSummary]:
        return _run(todo, job, teacher)

    units = label_pool.units_of(root, dataset, job.label, limit)
    shards, per_second = label_pool.made(root, units, run, told_as=job.told_as, on_progress=on_progress)
    notes = [shard.notes for shard in shards]
    details = {
        **summarise(notes),
        "halved": sum(note.get("halved", 0) for note in notes),
        "images_per_second": per_second,
        "teacher_seconds": sum(note.get("seconds", 0.0) for note in notes),
        "dataset": dataset.manifest.content_hash,
        "policy": job.label.model_dump(mode="json"),
        "choices": {label: asdict(choice) for label, choice in job.choices.items()},
    }
    return write_manifest(root, "labels", dataset.manifest.classes, shards, details=details)


def _root(spec: SweepSpec, dataset: Dataset, trained_uri: str, limit: int, heeded: Corrections) -> str:
    name = label_key(spec, dataset, trained_uri) + (f"-first-{limit}" if limit else "")
    name += f"-heeds-{heeded.fingerprint}" if heeded.of_image else ""
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


def _is_asked(dataset: Dataset, job: LabelJob) -> bool:
    """Whether some object of the splits that are labelled has no mask that may be seen."""
    of_splits = dataset.manifest.splits
    return any(
        counts.instances > (0 if name in job.hidden else counts.masks)
        for name, counts in of_splits.items()
        if name in job.label.splits
    )


def _choices(
    root: str, job: LabelJob, dataset: Dataset, on_progress: OnProgress, teacher: TeacherMaker
) -> dict[str, Choice]:
    """Who labels each class, by a poll over some images; nobody is asked where nothing is to be labelled."""
    if job.label.policy != "auto" or not _is_asked(dataset, job):
        return {}

    def target(name: str) -> str:
        return storage.join(root, f"polled-{name}.json")

    units = label_pool.polled(dataset, job, target)
    poll = label_pool.poll_of(
        units,
        lambda todo: label_pool.asked(todo, job, teacher, PollShard),
        whom=f"all teachers about {counted(sum(len(unit['rows']) for unit in units), 'image')}",
        on_progress=on_progress,
    )
    return poll.choices(job.label.teacher.name, floor=FILLED_BOX.name)


def _run(units: Sequence[LabelUnit], job: LabelJob, teacher: TeacherMaker) -> Iterator[ShardSummary]:
    for text in label_pool.asked(units, job, teacher, LabelShard):
        yield ShardSummary.model_validate_json(text)


def _identifying_options(teacher: ModelSpec) -> dict[str, object]:
    """A family's options without those that say where and how much is kept, which changes no label."""
    fields = declaration(teacher.family).options.model_fields
    extras = {name: field.json_schema_extra for name, field in fields.items()}
    silent = {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("housekeeping")}
    return {name: value for name, value in teacher.family_options().items() if name not in silent}
