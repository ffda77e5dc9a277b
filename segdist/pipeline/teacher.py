"""A model that labels: built when first needed, asked with the prompts of a strategy."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from segdist import registry, storage
from segdist.plugins import ImageHWC
from segdist.records import Instance, Prompt, Sample
from segdist.spec import LabelSpec, ModelSpec, digest

Question = tuple[Sample, Sequence[int], ImageHWC]
"""A sample as the teacher may see it, the instances that need a mask, and the image."""


class Teacher:
    """One model of the teacher's family; its weights are loaded with the first question."""

    def __init__(self, spec: LabelSpec, classes: tuple[str, ...]) -> None:
        self._spec, self._classes = spec, classes
        strategy: Any = registry.load("prompts", spec.prompt.strategy)
        self._strategy, self._options = strategy, strategy.Options.model_validate(spec.prompt.options())
        self._network: Any = None

    def masks(self, questions: Sequence[Question]) -> list[tuple[Instance, ...]]:
        """For each question, one instance for each of its indices, in order; of several prompts the surest answer."""
        asked = [
            (number, image, prompt)
            for number, (sample, indices, image) in enumerate(questions)
            for prompt in self._strategy.prompts(sample, indices, self._options, 0)
        ]
        if not asked:
            return [() for _ in questions]
        answers: dict[int, list[tuple[Instance, ...]]] = {}
        found = self._predict([image for _, image, _ in asked], [prompt for _, _, prompt in asked])
        for (number, _, _), instances in zip(asked, found, strict=True):
            answers.setdefault(number, []).append(instances)
        return [_surest(answers.get(number, [()])) for number in range(len(questions))]

    def _predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        import torch

        if self._network is None:
            from segdist.engine.checkpoint import build

            device = "cuda" if self._spec.gpus_per_actor > 0 else "cpu"
            self._network = build(self._spec.teacher, self._classes).to(device).eval()
        with torch.inference_mode():
            found: list[tuple[Instance, ...]] = self._network.predict(images, prompts)
        return found


def teacher_digest(model: ModelSpec) -> str:
    """Changes with the teacher's weights: files named in its options, and those shipped with its family."""
    shipped = files(f"segdist.models.{model.family}")
    contents = [
        [item.name, hashlib.sha256(item.read_bytes()).hexdigest()]
        for item in sorted(shipped.iterdir(), key=lambda i: i.name)
        if item.name.endswith(".safetensors")
    ]
    named = [
        [(e.size, e.stamp) for e in storage.find(value)]
        for _, value in sorted(model.family_options().items())
        if isinstance(value, str) and ("/" in value or "." in value)
    ]
    return digest([contents, named])


def _surest(answers: Sequence[tuple[Instance, ...]]) -> tuple[Instance, ...]:
    return tuple(max(of_one, key=lambda i: i.score) for of_one in zip(*answers, strict=True))
