"""What labelling takes: the passes of teachers over the images, and rounds of self-training after them."""

from collections.abc import Mapping, Sequence
from math import ceil

from segdist.core.errors import SpecError
from segdist.core.records import LabelledImage
from segdist.core.spec import LabelSpec, SweepSpec, digest
from segdist.datasets.excerpt import Excerpt
from segdist.engine.probe import Request
from segdist.engine.taken import Taken
from segdist.pipeline import label_pool
from segdist.pipeline.gpus import expected
from segdist.pipeline.packing import Need, Node, fitting
from segdist.pipeline.probing import Taught, ask
from segdist.pipeline.students import student_run
from segdist.sweepfile import label_policies
from segdist.sweepfile.students import student_of

_RAY_DATA = 9.0
"""Seconds until Ray Data has its first worker."""
_PROCESS = 6.0
"""Seconds until a process of Ray's has imported what training needs."""


def student_taken(
    spec: SweepSpec, data: Excerpt, rows: Mapping[str, Sequence[LabelledImage]], *, most_bytes: float, beside: int
) -> Taken | None:
    """What a student of `label.rounds` takes, by a few of its steps; None where there are no rounds, or no labels.

    Args:
        spec: the sweep.
        data: some of its images, and how many there are.
        rows: these, with masks.
        most_bytes: of resident memory.
        beside: bytes that a student has resident beside what the probe has.

    Raises:
        SpecError: the student does not fit.
    """
    policy = next((p.spec.label for p in label_policies.policies(spec) if p.spec.label and p.spec.label.rounds), None)
    if policy is None or not _asked_splits(spec, data):
        return None
    run = student_run(policy, _half(data), seed=0)
    request = Request(
        run=run,
        sizes={},
        draws=(),
        largest=None,
        classes=data.classes,
        train=rows["train"],
        val=rows["train"],
        beside=beside,
    )
    answer = ask(request, most_bytes=most_bytes)
    if answer.lack or answer.own is None:
        raise SpecError(
            f"A student of `label.rounds` does not fit this machine: {answer.lack}. Lower `label.student.batch_size`, "
            f"or name a smaller `label.student.model`."
        )
    return answer.own


def label_seconds(
    spec: SweepSpec, data: Excerpt, teacher: Taught | None, student: Taken | None, nodes: Sequence[Node]
) -> float:
    """Seconds until all labels are made; what several policies have in common is made once."""
    if spec.label is None or teacher is None:
        return 0.0
    label = spec.label
    images = sum(data.images.get(name, 0) for name in _asked_splits(spec, data))
    gpus = expected(label.gpus_per_actor, nodes).gpus
    many = fitting(nodes, Need(max(1.0, label.cpus_per_actor), gpus))
    units = sum(ceil(data.images.get(name, 0) / label.images_per_shard) for name in label.splits)
    actors = max(1, min(units, many if label.actors == "auto" else label.actors))
    seconds = 0.0
    for policy in _sets(spec, data):
        if not policy.rounds:
            seconds += _RAY_DATA + teacher.setup_seconds + images * teacher.image_seconds / actors
            if policy.policy == "auto" and (asked := label_pool.most_polled(data.images, policy)):
                at_once = max(1, min(label_pool.units_of_poll(asked), actors))
                seconds += _RAY_DATA + teacher.setup_seconds + asked * teacher.image_seconds / at_once
        elif student:
            train = student_run(policy, _half(data), seed=0).train
            steps = min(train.epochs * ceil(_half(data) / train.batch_size), student_of(policy).max_steps)
            one = _PROCESS + student.setup_seconds + steps * student.step_seconds
            seconds += 2 * _RAY_DATA + one * ceil(2 / max(1, many)) + images * student.score_seconds / actors
    return seconds


def sets_of_labels(spec: SweepSpec, data: Excerpt) -> int:
    """How many sets of labels are made, those that rounds begin with too."""
    return len(_sets(spec, data))


def students_of(spec: SweepSpec, data: Excerpt) -> int:
    """How many students learn."""
    return 2 * sum(policy.rounds > 0 for policy in _sets(spec, data)) if _asked_splits(spec, data) else 0


def _sets(spec: SweepSpec, data: Excerpt) -> list[LabelSpec]:
    """Every set of labels, each once, by the policy that makes it of the set before."""
    asked = bool(_asked_splits(spec, data))
    found: dict[str, LabelSpec] = {}
    for policy in label_policies.policies(spec) if spec.label else ():
        assert policy.spec.label is not None
        last = policy.spec.label.rounds
        for rounds in range(0 if asked else last, last + 1):
            one = policy.spec.label.model_copy(update={"rounds": rounds})
            excluded: set[str] = set() if rounds else {"student"}
            found.setdefault(digest(one.model_dump(mode="json", exclude=excluded)), one)
    return list(found.values())


def _half(data: Excerpt) -> int:
    return ceil(data.images.get("train", 0) / 2)


def _asked_splits(spec: SweepSpec, data: Excerpt) -> list[str]:
    """Those in which a teacher has something to draw."""
    splits = spec.label.splits if spec.label else ()
    return [name for name in splits if name in data.unmasked or (name in spec.data.boxes_only and name in data.images)]
