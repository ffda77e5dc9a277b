"""One unit of a round: the objects of some images, shown to the student that never saw them, and decided anew."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from segdist.core import storage
from segdist.core.plugins import Question
from segdist.core.records import Instance, Sample, Verdict
from segdist.core.spec import LabelSpec, StudentSpec
from segdist.datasets.rows import without_masks
from segdist.datasets.shards import read_rows, write_shard
from segdist.labelling.consensus import CandidateMask, most_confident
from segdist.labelling.decide import pseudo_label, verdict_of
from segdist.labelling.election import Choice, Poll
from segdist.labelling.rounds import Halves, is_relabelled, label_name, proposals, relabelled
from segdist.labelling.tally import Tally
from segdist.pipeline.dataflow import answers
from segdist.pipeline.label_rows import LabelJob, LabelUnit, TeacherMaker, calls
from segdist.pipeline.meters import Laps
from segdist.pipeline.teacher import Answers, Teacher
from segdist.reading.examples import decode_image


@dataclass(frozen=True)
class RoundJob(LabelJob):
    """What every actor of a round needs to know; `label.rounds` is the number of the round."""

    students: tuple[str, ...] = ()
    """The URI of the model folder of each half's student."""
    halves: Halves = field(default_factory=lambda: Halves("", by_image=True))
    options: StudentSpec = field(default_factory=StudentSpec)


class RoundUnit(LabelUnit):
    """A shard of labels: `shard` has its images."""

    labels: str


def student(spec: LabelSpec, classes: tuple[str, ...], uri: str) -> Answers:
    """A trained student as a teacher: it is shown the image alone, and boxes cut out what is theirs."""
    how = {"teacher": {"trained": uri}, "prompt": {"strategy": "whole_image"}}
    fast = {"gpus_per_actor": spec.gpus_per_actor, "precision": spec.precision}
    return Teacher(LabelSpec.model_validate({**how, **fast}), classes, uri)


class _Round:
    """One actor of the pool: holds both students; each is asked about the half that the other has learned."""

    def __init__(self, job: RoundJob, make: TeacherMaker) -> None:
        self._job, self._name = job, label_name(job.label.rounds)
        self._students = [make(job.label, job.classes, uri) for uri in job.students]

    def _looked_at(self, unit: RoundUnit) -> Iterator["_Look"]:
        """The images of a unit, as they are labelled and with what students say."""
        rows = {sample.image_id: (sample, content) for sample, content in read_rows(unit["shard"])}
        labels = [sample for sample, _ in read_rows(unit["labels"])]
        for call in calls(labels):
            yield from self._asked([(*rows[made.image_id], made) for made in labels[call]])

    def _asked(self, images: Sequence[tuple[Sample, bytes | None, Sample]]) -> Iterator["_Look"]:
        found: dict[int, list[Instance]] = {}
        questions: dict[int, Question] = {}
        for n, (truth, content, made) in enumerate(images):
            if indices := [i for i, one in enumerate(made.instances) if is_relabelled(one)]:
                image = decode_image(content or b"", name=truth.image_id)
                questions[n] = Question(without_masks(made), indices, image)
        for half, answering in enumerate(reversed(self._students)):
            own = [n for n in questions if self._job.halves.of(images[n][0]) == half]
            said = answering.candidates([questions[n] for n in own]) if own else []
            for n, of_image in zip(own, said, strict=True):
                found[n] = [most_confident(of_one) for of_one in of_image]
        for n, (truth, _, made) in enumerate(images):
            yield _Look(truth, made, questions.get(n), found.get(n, []))


@dataclass(frozen=True)
class _Look:
    """One image: its truth, its labels, what was asked about it, if anything, and what the student drew."""

    truth: Sample
    labels: Sample
    question: Question | None
    drawn: Sequence[Instance]

    @property
    def objects(self) -> Iterator[tuple[int, Instance]]:
        """The place of each object asked about, and what the student drew."""
        return zip(self.question.indices if self.question else (), self.drawn, strict=True)


class RoundPoll(_Round):
    """Counts how near the labels and the students are to people's masks."""

    @answers
    def __call__(self, unit: RoundUnit) -> str:
        """Write what a poll counts over the images of a unit, as JSON."""
        poll = Poll()
        for look in self._looked_at(unit):
            for index, drawn in look.objects:
                label, truth = look.labels.instances[index], self._job.seen(look.truth).instances[index].mask
                if truth is not None and truth.area:
                    poll.add(label, proposals(label, drawn, name=self._name), truth)
        storage.write_json(unit["target"], poll.content)
        return unit["target"]


class RoundShard(_Round):
    """Labels a unit again."""

    @answers
    def __call__(self, unit: RoundUnit) -> str:
        """Write the label shard of a unit; its summary as JSON."""
        laps, tally, taken, samples = Laps(), Tally(), list[str](), list[Sample]()
        for look in self._looked_at(unit):
            instances, drawn = list(look.labels.instances), dict(look.objects)
            asked = [n for n, one in enumerate(instances) if one.evidence is not None]
            for index, of_student in drawn.items():
                name, instances[index] = self._decided(instances[index], of_student, look)
                taken.append(name)
            made = replace(look.labels, instances=tuple(instances), source=self._job.source)
            samples.append(made)
            tally.add(look.truth, made, asked, [self._said(look, index, drawn) for index in asked])
        halved = sum(one.take_halved() for one in self._students)
        notes = {**tally.notes(), "taken": dict(Counter(taken)), "halved": halved, "seconds": laps.lap()}
        return write_shard(unit["target"], [(s, None) for s in samples], notes=notes).model_dump_json()

    def _decided(self, label: Instance, drawn: Instance, look: _Look) -> tuple[str, Instance]:
        job = self._job
        choice: Choice | None = job.choices.get(label.label)
        found = relabelled(label, drawn, choice=choice, name=self._name, options=job.options)
        if found.strategy != self._name:
            assert look.question is not None
            return found.strategy, pseudo_label(label, [found], look.question.image_HWC, job.label)
        verdict = verdict_of(found.instance, job.label)
        assert found.instance.evidence is not None
        if verdict is Verdict.ACCEPT:
            return self._name, found.instance
        said = replace(found.instance.evidence, verdict=verdict, proposed=label.mask, unsure=None)
        return self._name, replace(found.instance, mask=None, evidence=said)

    def _said(self, look: _Look, index: int, drawn: Mapping[int, Instance]) -> list[CandidateMask]:
        if index not in drawn:
            return []
        return proposals(look.labels.instances[index], drawn[index], name=self._name)
