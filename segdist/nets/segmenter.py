"""What the network of a model family is: the base class that the engine trains, and asks for predictions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from segdist.core.plugins import Batch, Example, ImageHWC, ModelOptions, Objective
from segdist.core.records import Instance, Prompt
from segdist.nets.collate import IMAGENET_MEAN, IMAGENET_STD, ChannelValues, stack_images
from segdist.reading.examples import letterbox


@dataclass(frozen=True)
class Divisor:
    """What the sum of a loss term is divided by: how much of it a batch holds, and the least it is divided by."""

    amount: float
    least: float = 0.0

    @property
    def value(self) -> float:
        """The divisor itself."""
        return max(self.amount, self.least)


Tree = Any
"""Tensors in lists, tuples, named tuples and dictionaries, however deep."""


class Together(Protocol):
    """What trains several networks at once."""

    def computed(self, network: "Segmenter", method: str, *arguments: object) -> Tree:
        """See `Segmenter.computed`."""

    def backward(self, loss: Tensor) -> None:
        """See `Segmenter.backward`."""


class Segmenter(nn.Module, ABC):
    """The torch side of a family, which `build(options, classes)` in its `network.py` makes.

    A family gives `collate`, `forward` and `predict`; the other methods have an answer here.

    Attributes:
        options: of the family; a subclass names its own type.
        classes: in the order of their index.
        objective: `Objective()` until the engine sets it. A family reads from it the parameters of its losses, class
            weights and noise options as far as it supports them.
    """

    options: ModelOptions
    classes: tuple[str, ...]
    objective: Objective

    def __init__(self, options: ModelOptions, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.options, self.classes, self.objective = options, classes, Objective()
        self.together: Together | None = None

    def computed(self, method: str, *arguments: object) -> Tree:
        """What a method gives that computes from weights and tensors alone; trainings of one pack compute it at once.

        Args:
            method: takes and gives tensors, in lists, tuples, named tuples and dictionaries.
            arguments: of it.
        """
        if self.together is None:
            return getattr(self, method)(*arguments)
        return self.together.computed(self, method, *arguments)

    def backward(self, loss: Tensor) -> None:
        """Add up the gradients of a loss."""
        if self.together is None:
            torch.autograd.backward(loss)
        else:
            self.together.backward(loss)

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """Stack, normalise and pad examples into tensors on the CPU."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted loss terms, each a scalar connected to the graph, also for images without objects.

        All of `Family.losses`; a term that `objective.wants` not may be left out.
        """

    def divisors(self, batch: Batch) -> Mapping[str, Divisor]:  # noqa: ARG002 - of other families
        """By what `forward` divides its terms for a collated batch, e.g. objects; others are means over images.

        With it the gradient of a step does not depend on how many batches its images come in.
        """
        return {}

    @abstractmethod
    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """Instances in the pixels of each image at its own size; an empty `Prompt()` tells nothing.

        With boxes, exactly one instance a box comes back, in order, with the box's label.
        """

    def prepare_collating(self) -> None:
        """Called before batches are made, and anew when other parts of the network are trained.

        `collate` runs in other processes, forked from one that may have a GPU: what it needs to know of the weights is
        to be found out here.
        """

    @property
    def region_classes(self) -> tuple[str, ...]:
        """Classes that come as one region an image, whose objects are not separated; none by default.

        What is found of them in tiles or views of an image is joined by class.
        """
        return ()

    def take_counts(self) -> dict[str, float]:
        """What went wrong in training since the last call, such as matchings with costs that are not finite.

        Added up over all workers they are reported for each epoch as `train/<name>`.
        """
        return {}

    def take_rates(self) -> dict[str, tuple[float, float]]:
        """Of the predictions since the last call, how many of how many.

        Added up over all workers they are reported as a share: `val/<name>`.
        """
        return {}

    def texts(self) -> list[str]:
        """What a family that writes was asked and wrote about each image of the last `predict`; else nothing."""
        return []


class Traceable(Segmenter):
    """A `Segmenter` whose `predict`, without prompts, is these three steps; the middle one can become an ONNX graph."""

    @property
    def colours(self) -> tuple[ChannelValues, ChannelValues]:
        """Mean and standard deviation of each channel, in 0..255, that images are normalised by; those of ImageNet."""
        return IMAGENET_MEAN, IMAGENET_STD

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:  # noqa: ARG002 - understands none
        """The three steps; prompts tell it nothing."""
        device = next(self.parameters()).device
        return self.found(self.answered(self.pixels(images).to(device)), images) if images else []

    def pixels(self, images: Sequence[ImageHWC]) -> Tensor:
        """(B, 3, S, S) scaled, normalised and padded as the network sees them, on the CPU."""
        size, (mean, std) = self.options.image_size, self.colours
        return stack_images([letterbox(image, size) for image in images], size, mean=mean, std=std)

    def answered(self, pixels_B3SS: Tensor) -> tuple[Tensor, ...]:
        """`outputs`, of which trainings of one pack compute at once what they can."""
        answer: tuple[Tensor, ...] = self.computed("outputs", pixels_B3SS)
        return answer

    @abstractmethod
    def outputs(self, pixels_B3SS: Tensor) -> tuple[Tensor, ...]:
        """Tensors of what `Family.onnx` names, images first."""

    @abstractmethod
    def found(self, outputs: Sequence[Tensor], images: Sequence[ImageHWC]) -> list[tuple[Instance, ...]]:
        """Instances in the pixels of each image at its own size."""
