"""The students of a round of self-training: two, each of which learns the labels of one half of the training images."""

import json
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from segdist.core import storage
from segdist.core.errors import BackendError, DataError, DivergedError
from segdist.core.records import Sample
from segdist.core.spec import LabelSpec, ResourceSpec, RunSpec, TrainSpec
from segdist.core.text import counted
from segdist.datasets.shards import Dataset
from segdist.labelling.rounds import Halves, can_teach, halves_of
from segdist.pipeline.cluster import connected, slots
from segdist.pipeline.dataflow import answers, map_items
from segdist.pipeline.gpus import given
from segdist.pipeline.label_pool import OnProgress
from segdist.sweepfile.students import student_model, student_of

if TYPE_CHECKING:
    from segdist.engine.fit import Metrics

_MODEL_FILE = "model.json"
"""Of a model folder the file that is written last."""
_MOST_CPUS = 4
"""Of a student: a small network is not quicker with more."""


def check_students(policy: LabelSpec, dataset: Dataset, hidden: Sequence[str]) -> None:
    """There must be something to learn, before a teacher is asked for hours.

    Raises:
        DataError: fewer than two training images, or none that will have a mask.
    """
    counts = dataset.manifest.splits.get("train")
    images, objects, masks = (counts.images, counts.instances, counts.masks) if counts else (0, 0, 0)
    if images < 2 or not objects:
        raise _nothing_to_learn(policy, f"`train` has {counted(images, 'image')} with {counted(objects, 'object')}")
    if "train" not in policy.splits and (not masks or "train" in hidden):
        raise _nothing_to_learn(policy, "`label.splits` leaves `train` out, and it has no masks that may be seen")


def _nothing_to_learn(policy: LabelSpec, why: str) -> DataError:
    return DataError(
        f"`label.rounds: {policy.rounds}` trains two students on two halves of the labelled images of `train`, but "
        f"{why}. Add images to `train`, or set `label.rounds: 0`."
    )


def student_run(policy: LabelSpec, images: int, *, seed: int, cpus: int = 1, gpus: float = 0.0) -> RunSpec:
    """What a student learns from so many images, and how: `epochs` of them, or what `max_steps` allow."""
    student = student_of(policy)
    epochs = max(1, min(student.epochs, student.max_steps * student.batch_size // max(1, images)))
    train = TrainSpec(
        epochs=epochs,
        batch_size=student.batch_size,
        lr=student.lr,
        encoder_lr_factor=student.encoder_lr_factor,
        augment=("flip", "flip_vertical", "brightness"),
        checkpoint_every=epochs,
    )
    return RunSpec(
        model=student_model(policy),
        train=train,
        resources=ResourceSpec(cpus_per_worker=cpus, gpus_per_worker=gpus),
        seed=seed,
    )


def learned(
    root: str,
    policy: LabelSpec,
    dataset: Dataset,
    labels: Dataset,
    hidden: Sequence[str],
    on_progress: OnProgress,
) -> tuple[tuple[str, ...], Halves]:
    """The model folders of the students of both halves, trained where they are not there yet; which images are whose.

    Args:
        root: of the labels that are to be made; the students are kept in it.
        policy: with `rounds`, the number of this one.
        dataset: the images.
        labels: to learn from.
        hidden: splits whose human masks are not to be seen.
        on_progress: takes a line now and then.

    Raises:
        DataError: there are not two images to learn from.
        DivergedError: the loss of a student was no number.
    """
    teaching = [sample for sample in _training_samples(dataset, labels, hidden) if can_teach(sample)]
    halves = halves_of(teaching)
    if halves is None:
        raise _nothing_to_learn(policy, f"{counted(len(teaching), 'image')} of it has a label")
    places = tuple(storage.join(root, "students", str(half)) for half in (0, 1))
    todo = [n for n, place in enumerate(places) if not storage.exists(storage.join(place, _MODEL_FILE))]
    if not todo:
        return places, halves
    counts = [sum(halves.of(sample) == half for sample in teaching) for half in (0, 1)]
    on_progress(
        f"round {policy.rounds}: {counted(len(todo), 'student')} to learn the labels of "
        f"{' and of '.join(counted(counts[n], 'image') for n in todo)}"
    )
    with connected() as ray:
        gpus = given(policy.gpus_per_actor, ray).gpus
        # as many as both can have, also where one is there: other threads add up in another order
        cpus = next((n for n in range(_MOST_CPUS, 1, -1) if _both_fit(ray, n, gpus)), 1)

        @answers
        def learn(unit: dict[str, int]) -> str:
            half = unit["half"]
            run = student_run(policy, counts[half], seed=2 * policy.rounds + half, cpus=cpus, gpus=gpus)
            return _learn(run, half, halves, places[half], dataset, labels, hidden, most=_most(policy, run))

        units = [{"half": half} for half in todo]
        for text in map_items(ray, learn, units, num_cpus=cpus, num_gpus=gpus):
            found = json.loads(text)
            on_progress(
                f"round {policy.rounds}: a student has learned {counted(found['images'], 'image')} in "
                f"{counted(found['epochs'], 'epoch')}"
            )
    return places, halves


def _both_fit(ray: ModuleType, cpus: int, gpus: float) -> bool:
    try:
        return slots(ray, cpus=cpus, gpus=gpus) >= 2
    except BackendError:
        return False


def _training_samples(dataset: Dataset, labels: Dataset, hidden: Sequence[str]) -> list[Sample]:
    """Of the training split the samples that have labels, or else people's masks."""
    labelled = list(labels.samples("train"))
    if labelled or "train" in hidden:
        return labelled
    return list(dataset.samples("train"))


def _most(policy: LabelSpec, run: RunSpec) -> int:
    """Images of an epoch, where `max_steps` do not allow for more."""
    student = student_of(policy)
    return student.max_steps * student.batch_size // run.train.epochs


def _learn(
    run: RunSpec,
    half: int,
    halves: Halves,
    place: str,
    dataset: Dataset,
    labels: Dataset,
    hidden: Sequence[str],
    *,
    most: int,
) -> str:
    """Train one student, and keep it."""
    from segdist.engine import checkpoint
    from segdist.engine.fit import fit
    from segdist.engine.workers import reserved
    from segdist.nets.segmenter import Segmenter

    rows = dataset.reader("train", storage.cache_dir(), labels=labels, hide_masks="train" in hidden)
    known = {sample.image_id for sample in _training_samples(dataset, labels, hidden)}
    samples = ((n, rows.sample(n)) for n in range(len(rows)))
    own = [n for n, s in samples if s.image_id in known and can_teach(s) and halves.of(s) == half]
    drawn = np.random.default_rng(run.seed).permutation(own)[:most]
    train = rows.only(drawn.tolist())

    def report(metrics: "Metrics", _: object) -> None:
        """Nobody watches a student."""

    with reserved(cpus=run.resources.cpus_per_worker, gpus=run.resources.gpus):
        try:
            network = fit(run, labels.manifest.classes, train=train, val=train[:1], report=report)
        except DivergedError as error:
            raise DivergedError(
                f"A student of `label.rounds` has diverged. Lower `label.student.lr`. {error}"
            ) from error
    assert isinstance(network, Segmenter)
    checkpoint.upload(place, *checkpoint.content(network, run, labels.manifest.classes))
    return json.dumps({"images": len(train), "epochs": run.train.epochs})
