"""What a model family, a dataset format and a prompt strategy must provide.

This module imports no torch: `segdist check` reads declarations only, and is quick.

- **Model family**: a folder `models/<name>/`. Its `__init__.py` declares `FAMILY: Family`; its `network.py` holds the
  torch side, a function `build(options, classes)` that makes a `nets.segmenter.Segmenter`.
- **Dataset format**: a file `formats/<name>.py` with `Options` and `class Format` (see `DatasetFormat`). A format that
  can be written has `class Writer` too (see `DatasetWriter`), and `recognises(files)` where a folder shows what it is.
- **Prompt strategy**: a file `prompts/<name>.py` with `Options`, `NEEDS` and `def prompts(...)` (see `PromptStrategy`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypeVar

from segdist.core import registry
from segdist.core.masks import Mask
from segdist.core.published import PublishedWeights
from segdist.core.records import Instance, Prompt, ReportFinding, Sample
from segdist.core.spec import AdapterKind, LossOptions, NoiseSpec, Strict

ImageHWC = NDArray[np.uint8]
"""An RGB image, (height, width, 3), 0..255."""
Batch = dict[str, Any]
"""What `Segmenter.collate` makes and `Segmenter.forward` takes; tensors in it are moved to the device."""
Task = Literal["semantic", "instance", "promptable"]
"""semantic: a class for each pixel. instance: separate objects of one class. promptable: masks of boxes or points."""
EVERY_NOISE = ("ignore_band", "soft_band", "label_smoothing", "soft_targets", "score_power")
"""The keys of `train.noise`."""
SEMANTIC_LOSSES: Mapping[str, float] = MappingProxyType(
    {"cross_entropy": 1.0, "dice": 1.0, "focal": 0.0, "tversky": 0.0, "lovasz": 0.0, "boundary": 0.0, "edge": 0.0}
)
"""The terms of `nets.semantic` and their default weights: `losses` of a family that says a class for each pixel."""
USUAL_ADAPTERS: tuple[AdapterKind, ...] = ("full", "frozen_encoder", "layernorm", "bitfit", "lora", "dora")
"""What every family can do that has an encoder, norms, biases and layers for LoRA."""


ImageSize = Annotated[int, Field(gt=0, le=8192)]
"""Side in pixels of what a network sees. Larger images are cut into tiles: memory grows with the square."""
Queries = Annotated[int, Field(gt=0, le=10_000)]
"""Most objects that a network finds in an image."""
IMAGES_PER_PIECE = 32


class ModelOptions(Strict):
    """Options every family has; a family adds its own, among them a random CPU-sized variant."""

    image_size: ImageSize = 256
    """Longest side in pixels that the network sees; images are scaled to it and padded right and below."""


ModelOptionsT_co = TypeVar("ModelOptionsT_co", bound=ModelOptions, default=ModelOptions, covariant=True)
"""Covariant, so that any family is a `Family`: whoever calls `check` made the options by `options`."""
FormatOptionsT_co = TypeVar("FormatOptionsT_co", bound=Strict, default=Strict, covariant=True)
OptionsT = TypeVar("OptionsT", bound=Strict)
OptionsT_contra = TypeVar("OptionsT_contra", bound=Strict, contravariant=True)


def _weights(options: ModelOptions) -> tuple[str, ...]:
    return ("weights",) if getattr(options, "weights", "random") != "random" else ()


@dataclass(frozen=True)
class Family(Generic[ModelOptionsT_co]):
    """What a model family declares, without torch.

    Attributes:
        options: the keys it takes under `model.<family>`.
        debug: option values of its random, CPU-sized variant: what the contract suite trains.
        losses: its loss terms and their default weights.
        encoder: prefixes of module names that make up the encoder (for freezing and `encoder_lr_factor`).
        lora_targets: endings of names of the linear layers that LoRA touches; they may hold wildcards, which also
            match dots: `language_model.*.q_proj`.
        lora_trains: prefixes of the heads: modules that stay fully trained beside an adapter (heads, new layers).
        encoder_blocks: names of the encoder's blocks from first to last, for `partial`; a part may hold wildcards:
            `encoder.layers.*`. Patterns that match nothing, as those of another size, are passed over.
        prompts: prompt kinds it understands at prediction: "none", "box", "point", "text", "exemplar" (a text beside
            boxes of such objects); may depend on the options.
        check: raises SegdistError where options cannot work, e.g. weights that are not there; called before a start.
        tasks: what it can do.
        sizes: its sizes and what they are, e.g. `{"vit_b": "91 M parameters"}`; for `segdist models`.
        adapters: the kinds of `train.adapter` that it supports.
        sometimes_unused: prefixes of parameters that a step need not use, as when it chooses between prompts; any
            other parameter without a gradient after the first step ends the training with its name.
        onnx: names of the tensors that its network gives for a batch of images, where it can be written as ONNX with
            these options; then its `Segmenter` is `Traceable` too. Empty where it cannot.
        hub_module: name of the sub-module that is a model of transformers, from which a folder for its
            `from_pretrained` is written; "" where there is none.
        noise: the keys of `train.noise` that it supports.
        places: the options that, with these options, name a file, a URI or a name on a hub: what a model of this family
            needs beside the package. By default `weights`, unless they are random.
        shape_in_weights: whether, with these options, a network with weights can be built only with them, because a
            file beside them says its shape; otherwise its options do, and one whose weights are all known is built with
            random ones first.
        published: weights that somebody published and that fit: for `segdist weights`, and to be named in a sweep file.
        on_photographs: what is to be said, with these options, to who has it label photographs; "" for nothing.
        recipe: values of dotted keys of a run (`train.lr`) that a sweep file need not name when it names this family.
        packs: whether several trainings can share what they have frozen (`search.pack`): its network asks for what it
            computes from tensors alone by `Segmenter.computed`, and looks at no values there.
        extra: the extra of the package that installs what it needs; "" for nothing beside the core.
        licence: of the code and of the published weights.
    """

    options: type[ModelOptionsT_co]
    debug: Mapping[str, object]
    losses: Mapping[str, float]
    encoder: tuple[str, ...]
    lora_targets: tuple[str, ...]
    lora_trains: tuple[str, ...]
    encoder_blocks: tuple[str, ...] = ()
    prompts: Callable[[ModelOptionsT_co], frozenset[str]] = field(default=lambda _: frozenset({"none"}))
    check: Callable[[ModelOptionsT_co], None] = field(default=lambda _: None)
    tasks: tuple[Task, ...] = ("semantic",)
    sizes: Mapping[str, str] = field(default_factory=dict)
    adapters: tuple[AdapterKind, ...] = USUAL_ADAPTERS
    sometimes_unused: tuple[str, ...] = ()
    onnx: Callable[[ModelOptionsT_co], tuple[str, ...]] = field(default=lambda _: ())
    hub_module: str = ""
    noise: tuple[str, ...] = ()
    places: Callable[[ModelOptionsT_co], tuple[str, ...]] = field(default=_weights)
    shape_in_weights: Callable[[ModelOptionsT_co], bool] = field(default=lambda _: False)
    published: tuple[PublishedWeights, ...] = ()
    on_photographs: Callable[[ModelOptionsT_co], str] = field(default=lambda _: "")
    recipe: Mapping[str, object] = field(default_factory=dict)
    packs: bool = False
    extra: str = ""
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        if ("partial" in self.adapters) != bool(self.encoder_blocks):
            raise ValueError("`partial` must be among `adapters` if and only if `encoder_blocks` are named")


def declaration(family: str) -> Family:
    """What a model family declares.

    Raises:
        SpecError: there is no such family, or a library it needs is not installed.
    """
    return cast("Family", registry.load("models", family).FAMILY)


@dataclass(frozen=True)
class Objective:
    """What a network is to minimise, beside the data; set by the engine as `network.objective` before training.

    Attributes:
        weights: of each loss term; empty where nobody has said, as in a test: then all terms are wanted.
        options: parameters of the losses.
        noise: what is done about uncertain labels.
        class_weights: of background and each class, with mean 1; empty weighs them equally.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    options: LossOptions = field(default_factory=LossOptions)
    noise: NoiseSpec = field(default_factory=NoiseSpec)
    class_weights: tuple[float, ...] = ()

    def wants(self, term: str) -> bool:
        """Whether a term has a weight; an expensive one that has none need not be computed."""
        return not self.weights or self.weights.get(term, 0.0) > 0


@dataclass(frozen=True)
class Example:
    """One training image at the network's scale, before padding.

    Attributes:
        image_id: of the sample.
        image_HWC: RGB, scaled so that its longest side is the family's `image_size`.
        labels: class index of each instance, 0 for the first class.
        masks_NHW: their masks at the scale of `image_HWC`.
        boxes_xyxy: (N, 4) their boxes at that scale.
        scores: (N,) 1 for human truth, otherwise the teacher's confidence; see `collate.certainty`.
        ignore_HW: ignored pixels: crowds, and boxes whose mask is unknown.
    """

    image_id: str
    image_HWC: ImageHWC
    labels: NDArray[np.int64]
    masks_NHW: NDArray[np.bool_]
    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    ignore_HW: Mask


class Piece(Protocol):
    """Some samples of a source that any process can read."""

    @property
    def image_ids(self) -> Collection[str]:
        """Their images."""

    def samples(self, report: ReportFinding) -> Iterator[Sample]:
        """The samples; what is wrong is reported."""


class DatasetFormat(ABC, Generic[FormatOptionsT_co]):
    """A dataset format: reads samples, and the encoded bytes of their images.

    Attributes:
        options: the keys it takes beside `format`.
    """

    def __init__(self, options: FormatOptionsT_co) -> None:
        self.options = options

    @abstractmethod
    def signature(self) -> str:
        """A digest that changes when the source does; cheap: sizes and times of files, not their contents."""

    @abstractmethod
    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image with its annotations. What is wrong is reported; nothing is dropped in silence."""

    @abstractmethod
    def image_bytes(self, sample: Sample) -> bytes:
        """The encoded image (JPEG, PNG, ...), as it lies in the source. Runs on any node."""

    @property
    def place(self) -> str:
        """What findings about the whole source call it; empty where it has no place."""
        return ""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in the source's own order; empty where it has none."""
        return ()

    def licences(self) -> tuple[str, ...]:
        """What the source states about its licences; known once it has been read."""
        return ()

    def chunks(self, report: ReportFinding) -> Iterator[Piece]:
        """The samples in pieces; by default they have been read then, and only their images are left to do."""
        samples = self.read(report)
        while some := tuple(islice(samples, IMAGES_PER_PIECE)):
            yield _Listed(some)


@dataclass(frozen=True)
class _Listed:
    """Samples that have been read."""

    members: tuple[Sample, ...]

    @property
    def image_ids(self) -> Collection[str]:
        return [sample.image_id for sample in self.members]

    def samples(self, report: ReportFinding) -> Iterator[Sample]:  # noqa: ARG002 - said when they were read
        return iter(self.members)


class DatasetWriter(ABC):
    """The other direction: writes samples into an empty local folder that appears only when it is complete.

    What the format cannot hold is a finding: a warning where it is held nearly, skipped where it is left out.
    `Options` is a pydantic model of what there is to choose.
    """

    Options: ClassVar[type[Strict]]

    @abstractmethod
    def __init__(self, folder: Path, classes: Sequence[str], options: Strict, report: ReportFinding) -> None: ...

    @abstractmethod
    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
        """Write one image under a name whose stem no other image has, and its annotations."""

    @abstractmethod
    def close(self) -> None:
        """Write what can be written only when all images are known."""

    def state_licences(self, names: Sequence[str]) -> None:  # noqa: B027 - many formats have no place for them
        """Keep the licences, where the format can state them; called once before `close`."""


class FormatModule(Protocol[OptionsT]):
    """A module of `formats/`."""

    @property
    def Options(self) -> type[OptionsT]:  # noqa: N802 - a class
        """The keys it takes beside `format`."""

    def Format(self, options: OptionsT, /) -> DatasetFormat[OptionsT]:  # noqa: N802 - a class
        """The reader."""


@runtime_checkable
class WritableFormat(Protocol):
    """A module of `formats/` whose format can be written too."""

    @property
    def Writer(self) -> type[DatasetWriter]:  # noqa: N802 - a class
        """The writer."""


def dataset_format(name: str) -> FormatModule[Strict]:
    """The module of a dataset format.

    Raises:
        SpecError: there is no such format, or a library it needs is not installed.
    """
    return cast("FormatModule[Strict]", registry.load("formats", name))


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be labelled in one image.

    Attributes:
        sample: as the teacher may see it: hidden masks are not there.
        indices: of the instances that need a mask.
        image_HWC: the pixels.
    """

    sample: Sample
    indices: Sequence[int]
    image_HWC: ImageHWC

    @property
    def asked(self) -> list[Instance]:
        """The instances that need a mask."""
        return [self.sample.instances[i] for i in self.indices]

    @property
    def labels(self) -> list[str]:
        """Their labels in alphabetical order, each once."""
        return sorted({i.label for i in self.asked})


Answers = Sequence[Sequence[Instance]]
"""What the teacher found for each prompt of one question."""


class PromptStrategy(Protocol[OptionsT]):
    """A module of `prompts/`: how the instances of an image become prompts."""

    @property
    def Options(self) -> type[OptionsT]:  # noqa: N802 - a class
        """The keys it takes."""

    @property
    def NEEDS(self) -> str:  # noqa: N802 - a constant
        """What the teacher must understand: "box", "point", "text", "exemplar", or "none"."""

    def prompts(self, question: Question, options: OptionsT, seed: int) -> list[Prompt]:
        """Prompts for the instances asked for; several prompts ask the teacher several times."""


@runtime_checkable
class ChoosingStrategy(Protocol[OptionsT_contra]):
    """A prompt strategy for which the teacher's answers are not one instance for each index, in order."""

    def chosen(self, question: Question, answers: Answers, options: OptionsT_contra) -> Sequence[Sequence[Instance]]:
        """The answers made so, once or several times."""


def prompt_strategy(name: str) -> PromptStrategy[Strict]:
    """The module of a prompt strategy.

    Raises:
        SpecError: there is no such strategy.
    """
    return cast("PromptStrategy[Strict]", registry.load("prompts", name))
