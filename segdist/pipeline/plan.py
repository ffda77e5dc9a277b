"""What a sweep will take: trials and how many at once, time, memory, money, disk; by doing a little of it.

Each family trains, scores, saves and evaluates a few steps on images of the sweep, in a process of its own; the search
is played with its own rules; the rest is arithmetic. What was predicted is kept in the sweep's folder, and its report
compares it with the truth.
"""

import os
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

from segdist.core import masks, storage
from segdist.core.errors import SpecError, StorageError
from segdist.core.records import Instance, LabelledImage, Sample
from segdist.core.spec import SearchSpec, SweepSpec
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.datasets.excerpt import Excerpt, excerpt
from segdist.engine.probe import Request
from segdist.engine.taken import Taken
from segdist.pipeline.cluster import connected, holders
from segdist.pipeline.gpus import expected, with_gpus
from segdist.pipeline.label import checked_teacher, policy_of
from segdist.pipeline.label_plan import label_seconds, sets_of_labels, student_taken, students_of
from segdist.pipeline.label_rows import LabelJob
from segdist.pipeline.packing import BESIDE, USABLE, Need, Node, fitting, memory_here, nodes_of, this_machine, usable
from segdist.pipeline.planned import PLAN, FamilyPlan, Plan, gigabytes, resident_bytes
from segdist.pipeline.probing import Answer, Taught, TeacherRequest, ask
from segdist.pipeline.recording import PICTURES_SHOWN
from segdist.pipeline.run import folder_of
from segdist.pipeline.travelling import taken_along
from segdist.searching.budget import Budget, Still
from segdist.searching.forecast import Forecast, Pace, forecast
from segdist.searching.memory import SIZES
from segdist.searching.proposals import Proposals
from segdist.searching.space import baseline
from segdist.sweepfile import label_policies
from segdist.sweepfile.grid import conditions_first
from segdist.sweepfile.loading import candidates, epochs_of, load

_IMAGES = 12
"""Of each split that are looked at."""
_DRAWS, _TRIES = 2, 20
"""Other points of the space at which each family is timed, and how many are drawn to find them."""
_MICRO_BATCH = "resources.micro_batch"
_STARTS = 22.0
"""Seconds for what every sweep does once: Ray starts, MLflow's tables are made, the report is written."""
_EACH_TRIAL = 1.0
"""Seconds between the end of a trial and the first step of the next, in a process that is there already."""
_PROCESS = 6.0
"""Seconds until a process of Ray's has imported what training needs."""
_RAY_BYTES = 120_000_000
"""That Ray has in the process of a trial (measured: 793 MB with it, 675 without)."""
_ROW_BYTES = 300
"""Of a labelled image without its masks."""
_CHECKPOINTS = 1.5
"""Of a trial that are left: its latest and its best, which may be the same."""
_REPORT_BYTES = 10e6
"""Of pictures of trials, at most, in a report."""
_PHOTO_BYTES, _MAP_BYTES = 50e3, 500.0
"""Of an image on the page of all trials: its photograph, at most, and what one trial found in it."""
_PNG = 1.4
"""How much larger than its JPEG a panel is as PNG, which MLflow's image grid takes (measured on cracks, facades,
roofs and potholes: 1.3 to 1.7)."""
_RANKED = 10
"""Pictures of a trial's worst, median and best images."""


def plan_sweep(file: str, overrides: Sequence[str]) -> tuple[SweepSpec, Plan]:
    """Predict what a sweep takes, and keep that in the sweep's folder.

    Args:
        file: the sweep file.
        overrides: `key=value`.

    Raises:
        SegdistError: the sweep cannot fit, with what would; or it cannot be run at all.
    """
    spec = load(file, overrides)
    storage.check_writable(spec.storage)
    with taken_along(spec.resources.environment):
        plan = _planned(spec, excerpt(spec, images=_IMAGES))
    storage.write_json(storage.join(folder_of(spec, "sweep"), PLAN), plan.model_dump(mode="json"))
    return spec, plan


def _planned(spec: SweepSpec, data: Excerpt) -> Plan:
    say(f"probing   {', '.join(candidates(spec))}: a few steps on images of the sweep", err=True)
    most_bytes = USABLE * memory_here() - BESIDE
    teacher, rows = _taught(spec, data, most_bytes)
    student = student_taken(spec, data, rows, most_bytes=most_bytes, beside=_RAY_BYTES + _mapped_bytes(data))
    found = [_family(spec, family, data, rows, most_bytes) for family in candidates(spec)]
    families, cards = [one for one, _ in found], found[0][1]
    nodes = _nodes(len(cards))
    spec = with_gpus(spec, expected(spec.resources.gpus_per_worker, nodes))
    if spec.resources.gpus and not cards:
        say("warning   trials will have cards, but this machine has none: seconds and memory are those of its CPU")
    need = _need(spec, families, cards)
    at_once = _at_once(spec, nodes, need)
    paces = {one.family: _pace(one, data, need.workers) for one in families}
    longest = max(pace.setup + pace.epoch * epochs_of(spec) for pace in paces.values())
    if spec.search.budget:
        Budget(spec, Still(len(nodes))).check(longest)
    seconds = {
        "start": _STARTS,
        "data": 2 * data.open_seconds * sum(data.images.values()),
        "labels": label_seconds(spec, data, teacher, student, nodes),
    }
    played = forecast(
        spec,
        at_once=at_once,
        pace=lambda values: paces[_family_of(spec, values)],
        begun=sum(seconds.values()),
        nodes=len(nodes),
    )
    seconds |= {
        "search": _PROCESS + played.seconds,
        "evaluation": _evaluation_seconds(data, families, played, fitting(nodes, replace(need, workers=1))),
    }
    disk = _disk(spec, data, rows, families, played)
    disk["labels"] += students_of(spec, data) * student.model_bytes if student else 0
    hours, price = played.trial_seconds / 3600 * need.workers, spec.resources.price_per_hour
    plan = Plan(
        sweep=spec.name,
        trials=played.trials,
        epochs=played.reached,
        images=data.images,
        nodes=tuple(_described(node) for node in nodes),
        at_once=at_once,
        families=tuple(families),
        seconds=seconds,
        trial_seconds=longest,
        cpu_hours=hours * need.cpus,
        gpu_hours=hours * need.gpus,
        money=None if price is None else price * len(nodes) * sum(seconds.values()) / 3600,
        peak_memory=max(
            *(max(one.largest.memory, one.own.memory) for one in families), student.memory if student else 0
        ),
        disk=disk,
        uploaded=_uploaded(spec, disk),
    )
    _check_disk(spec, plan)
    return plan


def _taught(spec: SweepSpec, data: Excerpt, most_bytes: float) -> tuple[Taught | None, dict[str, list[LabelledImage]]]:
    """What a teacher takes, and the images as trials will see them: where it has drawn no mask, with a filled box."""
    if spec.label is None:
        return None, {name: _with_masks(of) for name, of in data.rows.items()}
    policy = next(label_policies.policies(spec)).spec
    job = LabelJob(
        policy_of(policy), data.classes, tuple(spec.data.boxes_only), "plan", checked_teacher(policy, policy_of(policy))
    )
    shown = [(replace(sample, split=name), content) for name, of in data.rows.items() for sample, content in of]
    answer = ask(TeacherRequest(job, shown, job.label.cpus_per_actor), most_bytes=most_bytes)
    if answer.lack:
        raise SpecError(f"The teacher does not fit this machine: {answer.lack}. Name a smaller one (`label.teacher`).")
    labelled = {name: [row for row in answer.labelled if row[0].split == name] for name in data.rows}
    return answer.taught, {name: _with_masks(of) for name, of in labelled.items()}


def _with_masks(rows: Sequence[LabelledImage]) -> list[LabelledImage]:
    return [(replace(s, instances=tuple(_masked(i, s) for i in s.instances)), content) for s, content in rows]


def _masked(instance: Instance, sample: Sample) -> Instance:
    if instance.mask is not None:
        return instance
    return replace(instance, mask=masks.from_box(instance.box_xyxy, size_hw=sample.size_hw))


def _family(
    spec: SweepSpec, family: str, data: Excerpt, rows: Mapping[str, list[LabelledImage]], most_bytes: float
) -> tuple[FamilyPlan, list[float]]:
    """What a family takes, and the memory of each card of this machine.

    Raises:
        SpecError: not even one image at once fits at its largest point.
    """
    own_values = baseline(spec, {"model.family": family} if "model.family" in spec.space else {}) if spec.space else {}
    searched = (key for key in conditions_first(spec.space) if key.startswith(SIZES) and key != "model.family")
    sizes = {key: spec.space[key] for key in searched}
    request = Request(
        run=spec.run.override(label_policies.run_values(own_values)),
        sizes=sizes,
        draws=_draws(spec, family, sizes),
        largest=None,
        classes=data.classes,
        train=rows["train"],
        val=rows.get("val") or rows["train"],
        beside=_RAY_BYTES + _mapped_bytes(data),
    )
    first, fits, asked, micro_batch = _measured(request, most_bytes)
    cards, on_card = first.cards, bool(first.cards)
    if fits.lack and cards and _is_divided(spec):
        say(f"warning   `{family}` does not fit a card whole: its seconds are those of this machine's CPU", err=True)
        on_card, alone = False, request.run.override({"resources.gpus_per_worker": 0})
        first, fits, asked, micro_batch = _measured(replace(request, run=alone), most_bytes)
    if fits.lack:
        raise SpecError(_too_large(family, first, is_divided=_is_divided(spec)))
    largest = fits.largest or fits.own
    assert largest is not None
    largest = replace(largest, point=first.at if first.lack else largest.point)
    own = first.own or largest

    def of_worker(taken: Taken) -> Taken:
        return taken.divided(spec.resources.workers, on_card=on_card) if _is_divided(spec) else taken

    found = FamilyPlan(
        family=family,
        own=of_worker(own),
        timed=tuple(map(of_worker, (own, *first.draws))),
        largest=of_worker(largest),
        matters=first.matters,
        micro_batch=micro_batch,
        asked=asked,
        lack=first.lack,
    )
    return found, cards


def _measured(request: Request, most_bytes: float) -> tuple[Answer, Answer, int, int]:
    """What a family takes as the file has it, and with as many images at once as fit; how many it asks for, and gets.

    The second lacks something where not even one fits.
    """
    first = answer = ask(request, most_bytes=most_bytes)
    run = request.run.override(first.at)
    asked = micro_batch = run.resources.micro_batch or ceil(run.train.batch_size / run.resources.workers)
    while answer.lack and micro_batch > 1:
        micro_batch //= 2
        answer = ask(replace(request, largest={**first.at, _MICRO_BATCH: micro_batch}), most_bytes=most_bytes)
    return first, answer, asked, micro_batch


def _is_divided(spec: SweepSpec) -> bool:
    """Whether a worker has a part of the states only; a probe, which is one worker, has all of them."""
    return spec.resources.strategy == "fsdp" and spec.resources.workers > 1


def _mapped_bytes(data: Excerpt) -> int:
    """Of the splits that a trial reads through mapped files, which count as its memory once they were read."""
    read = data.images["train"] + data.images.get("val", 0)
    return round(data.shard_bytes * read / max(1, sum(data.images.values())))


def _draws(spec: SweepSpec, family: str, sizes: Container[str]) -> tuple[dict[str, object], ...]:
    """Points at which a family is timed beside its own: drawn at random, each of another size."""
    if not spec.space:
        return ()
    random = spec.model_copy(update={"search": SearchSpec(sampler="random", seed=spec.search.seed)})
    proposals, found = Proposals(random, ()), list[dict[str, object]]()
    own = {key: value for key, value in proposals.ask(0).items() if key in sizes}
    for number in range(1, _TRIES):
        values = proposals.ask(number)
        size = {key: value for key, value in values.items() if key in sizes}
        if _family_of(spec, values) == family and size not in (own, *found):
            found.append(size)
    return tuple(found[:_DRAWS])


def _too_large(family: str, answer: Answer, *, is_divided: bool) -> str:
    where = ", ".join(f"{key}={value}" for key, value in answer.at.items()) or "the values of the file"
    fits = f" What fits: the values of the file, with {gigabytes(answer.own.memory)}." if answer.own else ""
    keys = ", ".join(f"`{key}`" for key in answer.at) or f"`model.{family}.image_size`"
    here = (
        " A probe is one worker, which divides nothing: plan on a machine that holds the model whole, or run the sweep "
        "without a plan."
        if is_divided
        else ""
    )
    return (
        f"`{family}` must fit with at least one image a step, but with {where} {answer.lack}.{fits} Lower {keys}.{here}"
    )


def _nodes(cards: int) -> list[Node]:
    """The machines that trials will run on."""
    if not os.environ.get("RAY_ADDRESS"):
        return [this_machine(gpus=cards)]
    with connected() as ray:
        return nodes_of(ray)


def _need(spec: SweepSpec, families: Sequence[FamilyPlan], cards: Sequence[float]) -> Need:
    """What a trial reserves, and has to have.

    Raises:
        SpecError: a card's share is smaller than what a trial needs of it.
    """
    asked = spec.resources
    if asked.gpus and cards:
        share = USABLE * min(cards) * min(1.0, asked.gpus)
        for one in families:
            if one.largest.memory > share:
                raise SpecError(
                    f"`{one.family}` needs {gigabytes(one.largest.memory)} of a card, but `resources.gpus_per_worker: "
                    f"{asked.gpus:g}` is {gigabytes(share)} of it. Raise that to "
                    f"{min(1.0, ceil(100 * one.largest.memory / USABLE / min(cards)) / 100):g}."
                )
    return Need(asked.cpus_per_worker, asked.gpus, resident_bytes(families), asked.workers)


def _at_once(spec: SweepSpec, nodes: Sequence[Node], need: Need) -> int:
    """Trials at the same time.

    Raises:
        BackendError: not even one fits.
    """
    fits = holders(usable(nodes), need)
    return fits if spec.search.concurrency == "auto" else min(fits, spec.search.concurrency)


def _family_of(spec: SweepSpec, values: Mapping[str, object]) -> str:
    return str(values.get("model.family", spec.model.family))


def _pace(one: FamilyPlan, data: Excerpt, workers: int) -> Pace:
    """Of a trial of a family, on average over the points at which it was timed."""
    each = [
        (data.images["train"] * taken.step_seconds / taken.batch + data.images.get("val", 0) * taken.score_seconds)
        / workers
        + taken.save_seconds
        for taken in one.timed
    ]
    return Pace(_EACH_TRIAL + one.own.setup_seconds, sum(each) / len(each))


def _evaluation_seconds(data: Excerpt, families: Sequence[FamilyPlan], played: Forecast, at_once: int) -> float:
    each = [
        _PROCESS + one.own.timing_seconds + data.images.get("val", 0) * one.own.evaluate_seconds for one in families
    ]
    test = max(_PROCESS + data.images.get("test", 0) * one.own.evaluate_seconds for one in families)
    return ceil(played.trials / max(1, at_once)) * sum(each) / len(each) + test * ("test" in data.images)


def _disk(
    spec: SweepSpec,
    data: Excerpt,
    rows: Mapping[str, list[LabelledImage]],
    families: Sequence[FamilyPlan],
    played: Forecast,
) -> dict[str, float]:
    def mean(of: Sequence[float]) -> float:
        return sum(of) / len(of)

    def picture(one: FamilyPlan) -> float:
        return one.own.picture_bytes / max(1, spec.evaluate.pictures)

    shown = [sample for of in rows.values() for sample, _ in of]
    label_bytes = mean([float(sum(len(i.mask.counts) if i.mask else 0 for i in s.instances)) for s in shown])
    sets = sets_of_labels(spec, data)
    images, kept = sum(data.images.values()), data.images.get("val", 0)
    model = mean(
        [
            one.own.model_bytes + one.own.picture_bytes + _RANKED * picture(one) + kept * one.own.evaluation_bytes
            for one in families
        ]
    )
    grids = PICTURES_SHOWN * _PNG * mean([picture(one) for one in families]) * _times_shown(played.reached)
    shown_of_all = played.trials * mean([float(one.own.picture_bytes) for one in families])
    shown_of_best = max((_RANKED + spec.evaluate.pictures) * picture(one) for one in families)
    beside = min(kept, spec.evaluate.images_side_by_side)
    photo = min(_PHOTO_BYTES, data.shard_bytes / max(1, images))
    return {
        "data": data.shard_bytes,
        "labels": sets * images * (label_bytes + _ROW_BYTES),
        "checkpoints": _CHECKPOINTS * played.trials * mean([float(one.own.checkpoint_bytes) for one in families]),
        "kept models": _kept_of_a_trial(spec, data)
        * sum(played.reached)
        * mean([one.own.model_bytes for one in families]),
        "models": played.trials * model + grids,
        "report": 2 * 4 / 3 * (min(_REPORT_BYTES, shown_of_all) + shown_of_best)  # in base64, in two places
        + beside * (photo + played.trials * _MAP_BYTES),
    }


def _kept_of_a_trial(spec: SweepSpec, data: Excerpt) -> float:
    """Models that `train.keep_every` keeps in an epoch."""
    every = spec.train.keep_every
    return ceil(data.images["train"] / spec.train.batch_size) / every if every else 0.0


def _times_shown(reached: Sequence[float]) -> float:
    """How often MLflow's image grid gets pictures of trials: after 1, 2, 4, 8, ... epochs, and of the best one."""
    at_powers = [count for epoch, count in enumerate(reached, start=1) if epoch & (epoch - 1) == 0]
    return sum(at_powers) + reached[0]


def _uploaded(spec: SweepSpec, disk: Mapping[str, float]) -> dict[str, float]:
    """What leaves this machine."""
    tracked, stored = ("models", "report"), ("data", "labels", "checkpoints", "kept models", "report")
    found = {}
    if "://" in spec.tracking.uri and not spec.tracking.uri.startswith("sqlite"):
        found[spec.tracking.uri] = sum(disk[name] for name in tracked)
    if not storage.is_local(spec.storage):
        embedded = ("models",) if spec.tracking.uri == "embedded" else ()
        found[spec.storage] = sum(disk[name] for name in (*stored, *embedded))
    return found


def _check_disk(spec: SweepSpec, plan: Plan) -> None:
    """Refuse what the disk of the storage cannot hold.

    Raises:
        StorageError: it cannot.
    """
    if not storage.is_local(spec.storage):
        return
    free = free_bytes(spec.storage)
    once = plan.disk["data"] + plan.disk["labels"]
    if plan.disk_bytes > free - storage.SPARE_BYTES:
        each = (plan.disk_bytes - once) / max(1, plan.trials)
        fits = int((free - storage.SPARE_BYTES - once) / each) if each else 0
        what = f"`search.trials: {fits}` would fit" if fits > 0 else "Not even one trial would fit"
        raise StorageError(
            f"{spec.storage} must hold {gigabytes(plan.disk_bytes)} when the sweep is done and leave "
            f"{gigabytes(storage.SPARE_BYTES)}, but its disk has {gigabytes(free)} free. {what}: make space, or name "
            "another `storage`."
        )


def _described(node: Node) -> str:
    cards = f", {counted(node.gpus, 'card')}" if node.gpus else ""
    return f"{node.name}: {counted(node.cpus, 'CPU')}{cards}, {gigabytes(node.memory)}"


def free_bytes(uri: str) -> int:
    """Free bytes of the disk that a local folder is on, or will be."""
    folder = Path(storage.absolute(uri))
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
