"""A model that labels: built when first needed, asked with the prompts of all strategies at once."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from segdist.core import registry, storage
from segdist.core.cards import has_card
from segdist.core.causes import is_out_of_memory
from segdist.core.errors import BackendError, SpecError, WeightsError
from segdist.core.plugins import ChoosingStrategy, ImageHWC, Question, declaration, prompt_strategy
from segdist.core.records import Instance, Prompt
from segdist.core.spec import LabelSpec, ModelSpec, PromptSpec, View, digest
from segdist.labelling.boxes import asked_of, joined, part_of, seen_back, seen_from
from segdist.labelling.consensus import CandidateMask

if TYPE_CHECKING:
    from segdist.nets.segmenter import Segmenter

IMAGES_AT_ONCE = 8
"""Images that are encoded together on a GPU, where memory that runs out is an error that can be recovered from."""
CPU_PIXELS_AT_ONCE = 8 * 256**2
"""Most pixels, at the network's scale, that are encoded together on a CPU: an image of 1024 goes alone. There batches
gain little, and memory that runs out is the end of the process."""


class Strategy:
    """One prompt strategy with its options."""

    def __init__(self, spec: PromptSpec) -> None:
        self._module = prompt_strategy(spec.strategy)
        self.name, self._options = spec.strategy, self._module.Options.model_validate(spec.options())

    @property
    def needs(self) -> str:
        """The kind of prompt that the teacher must understand."""
        return self._module.NEEDS

    def prompts(self, question: Question) -> list[Prompt]:
        """What the teacher is shown."""
        return self._module.prompts(question, self._options, 0)

    def chosen(self, question: Question, answers: Sequence[Sequence[Instance]]) -> Sequence[Sequence[Instance]]:
        """The teacher's answers as instances for each index, in order, once or several times."""
        if isinstance(self._module, ChoosingStrategy):
            return self._module.chosen(question, answers, self._options)
        return answers


@dataclass(frozen=True)
class _Asked:
    """The prompts of one strategy about one view of one image."""

    number: int
    view: View
    strategy: Strategy
    question: Question
    prompts: tuple[Prompt, ...]


class Answers(Protocol):
    """Who answers questions with masks: one teacher, or several."""

    def candidates(self, questions: Sequence[Question]) -> list[list[list[CandidateMask]]]:
        """For each question and each of its indices, what was said."""

    def take_halved(self) -> int:
        """How often memory did not suffice and the work was split in two, since the last call."""


class Teacher:
    """One model; its weights are loaded with the first question.

    Attributes:
        halved: how often memory did not suffice and the work was split in two.
    """

    def __init__(self, spec: LabelSpec, classes: tuple[str, ...], trained_uri: str = "") -> None:
        self._spec, self._classes, self._trained_uri = spec, classes, trained_uri
        self._strategies = [Strategy(prompt) for prompt in spec.prompts]
        self._network: Segmenter | None = None
        self._most_images = self._most_prompts = sys.maxsize
        self.halved = 0

    def take_halved(self) -> int:
        """How often memory did not suffice and the work was split in two, since the last call."""
        halved, self.halved = self.halved, 0
        return halved

    def candidates(self, questions: Sequence[Question]) -> list[list[list[CandidateMask]]]:
        """For each question and each of its indices, what the prompts of all strategies and views led to."""
        asked = [a for number, question in enumerate(questions) for a in self._asked(number, question)]
        answers = self._answers(asked)
        found: list[list[list[CandidateMask]]] = [[[] for _ in question.indices] for question in questions]
        for a, of_prompts in zip(asked, answers, strict=True):
            original = questions[a.number].asked
            for instances in a.strategy.chosen(a.question, of_prompts):
                for candidates, instance, box in zip(found[a.number], instances, original, strict=True):
                    candidates.append(CandidateMask(a.strategy.name, seen_back(instance, a.view, box)))
        return found

    def _asked(self, number: int, question: Question) -> Iterator[_Asked]:
        views: tuple[View, ...] = self._spec.consensus.views if self._spec.consensus else ("as_is",)
        for view in views:
            seen = seen_from(question, view)
            for strategy in self._strategies:
                prompts = strategy.prompts(seen)
                if prompts:
                    yield _Asked(number, view, strategy, seen, tuple(prompts))

    def _answers(self, asked: Sequence[_Asked]) -> list[list[tuple[Instance, ...]]]:
        """The answers to each prompt of each entry. Prompts of a kind about one image are put in one question."""
        groups: dict[tuple[int, View, str], list[tuple[int, int]]] = {}
        for a, entry in enumerate(asked):
            for p, prompt in enumerate(entry.prompts):
                groups.setdefault((entry.number, entry.view, _kind(prompt, alone=f"{a}.{p}")), []).append((a, p))
        members = list(groups.values())
        images = [asked[where[0][0]].question.image_HWC for where in members]
        found = self._predict(images, [joined([asked[a].prompts[p] for a, p in where]) for where in members])
        answers: list[list[tuple[Instance, ...]]] = [[()] * len(entry.prompts) for entry in asked]
        for where, instances in zip(members, found, strict=True):
            start = 0
            for a, p in where:
                count = asked_of(asked[a].prompts[p]) if len(where) > 1 else len(instances)
                answers[a][p] = tuple(instances[start : start + count])
                start += count
        return answers

    def _predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        found: list[tuple[Instance, ...]] = []
        while len(found) < len(images):
            some = slice(len(found), len(found) + min(self._images_at_once(), self._most_images))
            found += self._within_memory(images[some], prompts[some])
        return found

    def _within_memory(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """The answers; where memory does not suffice, those to one half and then to the other.

        What did not fit is not tried again.

        Raises:
            BackendError: memory does not suffice for one prompt about one image.
        """
        import torch

        network = self._loaded()
        if len(images) == 1 and asked_of(prompts[0]) > self._most_prompts:
            return self._in_halves(images, prompts[0])
        try:
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=self._is_half()):
                found: list[tuple[Instance, ...]] = network.predict(images, prompts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            shortage = str(error).partition("\n")[0]
        else:
            return found
        self.halved += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(images) > 1:
            self._most_images = half = len(images) // 2
            before = self._within_memory(images[:half], prompts[:half])
            return before + self._within_memory(images[half:], prompts[half:])
        fewer = asked_of(prompts[0]) // 2
        if not fewer:
            raise BackendError(
                f"The teacher's memory must hold one prompt about one image, but: {shortage}. "
                "Take a smaller teacher or `image_size`, or fewer `label.actors`."
            )
        self._most_prompts = fewer
        return self._in_halves(images, prompts[0])

    def _in_halves(self, images: Sequence[ImageHWC], prompt: Prompt) -> list[tuple[Instance, ...]]:
        """The answers to one half of the prompts about an image, and to the other."""
        half, count = asked_of(prompt) // 2, asked_of(prompt)
        (first,) = self._within_memory(images, [part_of(prompt, 0, half)])
        (second,) = self._within_memory(images, [part_of(prompt, half, count)])
        return [(*first, *second)]

    def _images_at_once(self) -> int:
        if self._has_card:
            return IMAGES_AT_ONCE
        side = self._loaded().options.image_size
        return max(1, min(IMAGES_AT_ONCE, CPU_PIXELS_AT_ONCE // side**2))

    def _is_half(self) -> bool:
        return self._has_card and self._spec.precision == "bfloat16"

    @property
    def _has_card(self) -> bool:
        asked = self._spec.gpus_per_actor
        return has_card() if asked == "auto" else asked > 0  # auto: outside a cluster

    def _loaded(self) -> "Segmenter":
        if self._network is None:
            from segdist.engine import checkpoint
            from segdist.engine.allocation import keep_freed_memory

            device = "cuda" if self._has_card else "cpu"
            if device == "cpu":
                keep_freed_memory()  # a third of the time of an image of 1024 pixels
            if self._trained_uri:
                with checkpoint.fetched(self._trained_uri) as folder:
                    network = checkpoint.load(folder, trusted=True, device=device)
                    family = checkpoint.describe(folder).model.family
            else:
                family = self._spec.teacher.family
                network = checkpoint.build(self._spec.teacher, self._classes).to(device).eval()
            self._network = network.requires_grad_(requires_grad=False)
            if self._spec.compile and device == "cuda":
                compile_encoder(self._network, family)
        return self._network


def compile_encoder(network: "Segmenter", family: str) -> None:
    """Compile the modules that a family calls its encoder, in place: names and weights stay."""
    for prefix in declaration(family).encoder:
        network.get_submodule(prefix.removesuffix(".")).compile()


def check_teacher(spec: LabelSpec, understands: frozenset[str], name: str) -> None:
    """The teacher must understand the prompts of every strategy.

    Raises:
        SpecError: it does not.
    """
    for strategy in (Strategy(prompt) for prompt in spec.prompts):
        if strategy.needs not in understands:
            raise SpecError(
                f"The prompt strategy `{strategy.name}` needs a teacher that takes {strategy.needs} prompts, but "
                f"`{name}` with these options takes {', '.join(sorted(understands))}."
            )


def teacher_digest(teacher: ModelSpec) -> str:
    """Changes with the weights of a family: files named in its options, and those shipped with it."""
    shipped = files(registry.load("models", teacher.family).__name__)
    contents = [
        [item.name, hashlib.sha256(item.read_bytes()).hexdigest()]
        for item in sorted(shipped.iterdir(), key=lambda i: i.name)
        if item.name.endswith(".safetensors")
    ]
    named = [
        [(e.size, e.stamp) for e in storage.find(value)]
        for _, value in sorted(teacher.family_options().items())
        if isinstance(value, str) and ("/" in value or "." in value)
    ]
    return digest([contents, named])


def shared_model(folder: Path, root: str) -> str:
    """Put a model folder where every node can read it, named by its content; the URI.

    Raises:
        WeightsError: it is no model folder.
    """
    from segdist.engine import checkpoint

    try:
        content = {name: file.read_bytes() for name, file in checkpoint.files(folder).items()}
    except WeightsError as error:
        raise WeightsError(f"`label.teacher.trained` must be a model folder, but: {error}") from error
    uri = storage.join(root, "teachers", hashlib.sha256(b"".join(content.values())).hexdigest()[:16])
    there = {entry.uri for entry in storage.find(uri)}
    for name, data in content.items():
        if storage.join(uri, name) not in there:
            storage.write_atomic(storage.join(uri, name), data)
    return uri


def _kind(prompt: Prompt, *, alone: str) -> str:
    """Prompts of one kind can be asked at once; phrases and prompts that show nothing go alone."""
    if prompt.text or not asked_of(prompt):
        return alone
    return "boxes" if prompt.boxes_xyxy else "points"
