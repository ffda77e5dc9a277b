"""One unit of labelling: the images of a part of a shard, decoded, asked about, decided and measured."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, TypedDict

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.plugins import Question
from segdist.core.records import Finding, Sample, Severity
from segdist.core.spec import LabelSpec
from segdist.datasets.rows import without_masks
from segdist.datasets.shards import read_rows, write_shard
from segdist.labelling.boxes import has_size
from segdist.labelling.corrections import Corrections
from segdist.labelling.decide import pseudo_label
from segdist.labelling.election import Choice, Poll, elected
from segdist.labelling.tally import Tally
from segdist.pipeline.dataflow import answers
from segdist.pipeline.meters import Laps, begin, count, tell_traffic
from segdist.pipeline.teacher import Answers
from segdist.reading.codes import finding
from segdist.reading.examples import decode_image

IMAGES_PER_CALL = 8
"""Images shown to the teacher at once, where they are small."""
PIXELS_PER_CALL = 1 << 26
"""Of these images together, 200 MB in RGB; a larger one is shown alone."""
DECODERS = 2
"""Threads of an actor that decode its next images while the teacher is busy with these."""
TeacherMaker = Callable[[LabelSpec, tuple[str, ...], str], Answers]
"""Makes the teachers inside an actor; the text is the URI of a trained model, or empty."""


@dataclass(frozen=True)
class LabelJob:
    """What every labelling actor needs to know."""

    label: LabelSpec
    classes: tuple[str, ...]
    hidden: tuple[str, ...]
    source: str
    """Written into each sample it labels."""
    trained_uri: str = ""
    """Of the model folder of a teacher that segdist trained."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """With `label.policy: auto`, who labels each class."""
    sweep: str = ""
    """For which labels are made, by its name in metrics."""
    place: str = "local"
    """The kind of place that labels are written to, by its name in metrics."""
    asks_all: bool = False
    """Whether objects are asked about that have a mask of a person, too; it is not shown."""
    decisions: Corrections = field(default_factory=lambda: Corrections({}))
    """What people decided in reviews, where labels depend on people's masks."""

    def seen(self, truth: Sample) -> Sample:
        """An image with what people say of it and may be seen: masks that measure are hidden, decisions never."""
        return self.decisions.apply(without_masks(truth) if truth.split in self.hidden else truth)

    @property
    def told_as(self) -> dict[str, str]:
        """What metrics know it by."""
        return {"sweep": self.sweep, "teacher": "trained" if self.trained_uri else self.label.teacher.family}


def label_samples(
    rows: Sequence[tuple[Sample, bytes | None]], job: LabelJob, teacher: Answers
) -> tuple[list[Sample], list[Finding], dict[str, Any]]:
    """Labels for a few images, what was found wrong with them, and how good the labels are where truth is known."""
    samples: list[Sample] = []
    findings: list[Finding] = []
    tally, told = Tally(), _Told(job)
    for entries in _entries(rows, job):
        told.seconds("read")
        findings += [found for entry in entries for found in entry.findings]
        candidates = iter(teacher.candidates([entry.question for entry in entries if entry.question]))
        told.seconds("teacher")
        for entry in entries:
            if entry.question is None:
                tally.add(entry.truth, entry.shown, [])
                samples.append(entry.shown)
                continue
            said, instances = next(candidates), list(entry.shown.instances)
            for index, of_one in zip(entry.question.indices, said, strict=True):
                asked = instances[index]
                answer = elected(asked, of_one, job.choices.get(asked.label))
                instances[index] = pseudo_label(asked, answer, entry.question.image_HWC, job.label)
            made = replace(entry.shown, instances=tuple(instances), source=job.source)
            tally.add(entry.truth, made, entry.question.indices, said)
            samples.append(made)
        told.seconds("decide")
        told.images(entries)
    return samples, findings, tally.notes()


class _Told:
    """What Prometheus is told while labels are made."""

    def __init__(self, job: LabelJob) -> None:
        self._labels, self._laps = job.told_as, Laps()

    def seconds(self, part: str) -> None:
        """A part is over that took the time since the one before."""
        count("segdist_labelling_seconds", self._laps.lap(), part=part, **self._labels)

    def images(self, entries: Sequence["_Entry"]) -> None:
        """The images of a call are labelled."""
        asked = sum(len(entry.question.indices) for entry in entries if entry.question)
        count("segdist_labelled_images", len(entries), **self._labels)
        count("segdist_labelled_objects", asked, **self._labels)


class LabelUnit(TypedDict):
    """What is labelled and saved at once: some images of a shard, in a row, and the shard of labels they become."""

    shard: str
    start: int
    stop: int
    target: str


class LabelShard:
    """One actor of the pool: holds a teacher, and labels a unit of a shard at a time."""

    def __init__(self, job: LabelJob, teacher: TeacherMaker) -> None:
        self._job = job
        begin("teacher", place=job.place, **job.told_as)
        self._teacher = teacher(job.label, job.classes, job.trained_uri)

    @answers
    def __call__(self, unit: LabelUnit) -> str:
        """Write the label shard of a unit; its summary as JSON."""
        started = time.monotonic()
        rows = read_rows(unit["shard"])[unit["start"] : unit["stop"]]
        samples, findings, notes = label_samples(rows, self._job, self._teacher)
        notes["halved"] = self._teacher.take_halved()
        notes["seconds"] = time.monotonic() - started
        told = _Told(self._job)
        written = write_shard(unit["target"], [(s, None) for s in samples], findings=findings, notes=notes)
        told.seconds("write")
        tell_traffic(self._job.sweep)
        return written.model_dump_json()


class PollUnit(TypedDict):
    """Some images of a shard, by their places in it, and the file that they become."""

    shard: str
    rows: list[int]
    target: str


class KnownShard:
    """One actor of the pool: says what the labels would be for objects that have a human mask which may be seen."""

    def __init__(self, job: LabelJob, teacher: TeacherMaker) -> None:
        self._job = replace(job, asks_all=True)
        self._teacher = teacher(job.label, job.classes, job.trained_uri)

    @answers
    def __call__(self, unit: PollUnit) -> str:
        """Write a shard of a unit's images with such objects; its summary as JSON."""
        rows = read_rows(unit["shard"])
        known = [rows[n] for n in unit["rows"] if self._has_masks(rows[n][0])]
        samples, _, _ = label_samples(known, self._job, self._teacher)
        return write_shard(unit["target"], [(s, None) for s in samples]).model_dump_json()

    def _has_masks(self, sample: Sample) -> bool:
        return any(i.mask and i.mask.area and not i.is_crowd for i in self._job.seen(sample).instances)


class PollShard:
    """One actor of the pool: asks every teacher about some images, and counts who is near to whom."""

    def __init__(self, job: LabelJob, teacher: TeacherMaker) -> None:
        self._job = job
        self._teacher = teacher(job.label, job.classes, job.trained_uri)

    @answers
    def __call__(self, unit: PollUnit) -> str:
        """Write what a poll counts over the images of a unit, as JSON; people's masks are asked for once more."""
        rows = read_rows(unit["shard"])
        poll = Poll()
        for entries in _entries([rows[n] for n in unit["rows"]], replace(self._job, asks_all=True)):
            shown = [entry for entry in entries if entry.question]
            said = self._teacher.candidates([entry.question for entry in shown if entry.question])
            for entry, of_image in zip(shown, said, strict=True):
                assert entry.question is not None
                seen = self._job.seen(entry.truth)
                for index, of_one in zip(entry.question.indices, of_image, strict=True):
                    known = seen.instances[index].mask
                    if known is None or known.area:  # of what a person found nothing in, nobody can be near
                        poll.add(entry.shown.instances[index], of_one, known)
        storage.write_json(unit["target"], poll.content)
        return unit["target"]


@dataclass(frozen=True)
class _Entry:
    """One image: its truth, what of it may be seen, what is asked about it, if anything, and what is wrong with it."""

    truth: Sample
    shown: Sample
    question: Question | None
    findings: tuple[Finding, ...]


def _entries(rows: Sequence[tuple[Sample, bytes | None]], job: LabelJob) -> Iterator[list[_Entry]]:
    """The images of each call, in order; those of the next are decoded meanwhile."""
    with ThreadPoolExecutor(DECODERS) as pool:
        decoded: list[Iterator[_Entry]] = []
        for call in calls([sample for sample, _ in rows]):
            decoded.append(pool.map(_entry, *zip(*rows[call], strict=True), repeat(job)))
            if len(decoded) > 1:
                yield list(decoded.pop(0))
        for entries in decoded:
            yield list(entries)


def calls(samples: Sequence[Sample]) -> Iterator[slice]:
    """The places of those whose images are decoded and shown at once, in order: as many as memory is to hold."""
    start, pixels = 0, 0
    for n, sample in enumerate(samples):
        height, width = sample.size_hw
        pixels += height * width
        if n > start and (n == start + IMAGES_PER_CALL or pixels > PIXELS_PER_CALL):
            yield slice(start, n)
            start, pixels = n, height * width
    if start < len(samples):
        yield slice(start, len(samples))


def _entry(truth: Sample, image_bytes: bytes | None, job: LabelJob) -> _Entry:
    shown = without_masks(truth) if job.asks_all else job.seen(truth)
    findings: list[Finding] = []
    indices = _asked(shown, findings)
    if not indices:
        return _Entry(truth, shown, None, tuple(findings))
    try:
        image = decode_image(image_bytes or b"", name=truth.image_id)
    except DataError as error:
        findings.append(_skipped("image-unreadable", truth, str(error)))
        return _Entry(truth, shown, None, tuple(findings))
    if image.shape[:2] != truth.size_hw:
        message = f"the image must be of its annotations' size (h, w) {truth.size_hw}, but is {image.shape[:2]}"
        findings.append(_skipped("image-size-differs", truth, message))
        return _Entry(truth, shown, None, tuple(findings))
    return _Entry(truth, shown, Question(shown, indices, image), tuple(findings))


def _asked(shown: Sample, findings: list[Finding]) -> list[int]:
    """The instances that need a mask; boxes in which there is no pixel are named."""
    found = []
    for index, instance in enumerate(shown.instances):
        if instance.mask is not None or instance.is_crowd:
            continue
        if has_size(instance.box_xyxy, shown.size_hw):
            found.append(index)
            continue
        message = (
            f"a box must hold a pixel of its image (h, w) {shown.size_hw}, but is {instance.box_xyxy}; it gets no mask"
        )
        findings.append(replace(_skipped("box-empty", shown, message), annotation=str(index)))
    return found


def _skipped(code: str, sample: Sample, message: str) -> Finding:
    return finding(code, message, file=sample.image_uri, image=sample.image_id, severity=Severity.SKIPPED)
