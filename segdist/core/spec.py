"""Every key of a sweep file: type, unit, default and meaning.

The string under a field is its documentation; `segdist schema` and the editors read it from there. Options of one
model family, dataset format or prompt strategy live with it and are checked by `sweepfile`.
"""

import fnmatch
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    field_validator,
    model_serializer,
    model_validator,
)

from segdist.core import renamed_keys

Split = Literal["train", "val", "test"]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Gpus = Annotated[float, Field(ge=0, le=10_000)] | Literal["auto"]
"""Of epochs, trials, steps and the like: more is a slip of the keys."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What every generator of numbers takes."""


def _named(value: str) -> str:
    if not value.strip():
        raise ValueError("a name must not be blank")
    if value.splitlines() != [value] or "\0" in value:
        raise ValueError(f"a name must be one line, but got {value!r}")
    return value


Name = Annotated[str, Field(max_length=1000), AfterValidator(_named)]
"""Of a class or a place: one line, not blank."""


def _one_or_more(value: object) -> object:
    """What may be written without the brackets of a list."""
    return [value] if isinstance(value, str) else value


class Strict(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Placed(Strict):
    """A part of a sweep that is also read alone, out of what was recorded; keys may have the names they had then."""

    place: ClassVar[str]
    """Its dotted key in a sweep; "" for all of it."""

    @model_validator(mode="before")
    @classmethod
    def _with_current_names(cls, value: object) -> Any:
        return renamed_keys.current(value, under=cls.place) if isinstance(value, Mapping) else value


class Open(Strict):
    """A value whose further keys belong to the plug-in it names."""

    model_config = ConfigDict(extra="allow")

    def options(self, *but: str) -> dict[str, Any]:
        """The keys that belong to the plug-in."""
        return {k: v for k, v in (self.model_extra or {}).items() if k not in but}


class SourceSpec(Open):
    """One folder or generator of images; further keys are the format's options."""

    format: str
    """A dataset format: a file name in segdist/formats, or one that an installed plug-in brings."""
    class_map: dict[str, Name | None] = {}
    """New name of each class to rename; two classes of one new name are joined, null drops a class."""
    text: str = ""
    """What is looked for in these images, in words, for models that read; empty takes the class names."""
    group: str = ""
    """Keeps all images of this source on one side of a split, and names them for augmentation."""
    licence: str = ""
    """Licence of the images and annotations, where the source does not state it."""


class SplitSpec(Strict):
    """How samples are divided into train, val and test; groups stay whole."""

    given: Literal["keep", "redo"] = "keep"
    """keep: samples that come with a split keep it, and leaks are reported. redo: all are divided anew."""
    val: float = Field(default=0.15, ge=0, lt=1)
    """Share of the samples used for early stopping and choosing the winner."""
    test: float = Field(default=0.15, ge=0, lt=1)
    """Share of the samples that only the winner is scored on."""
    seed: Seed = 0
    """Seed of the division."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"`val + test < 1` must hold, but got val={self.val}, test={self.test}")
        return self


class DataSpec(Strict):
    """Which images, and which of their annotations may be learned from."""

    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    """The folders and generators, merged in this order."""
    classes: tuple[Name, ...] = ()
    """Class names in order; empty takes every class found, in alphabetical order."""
    near_duplicates: int = Field(default=6, ge=0, le=16)
    """Bits (of 64) in which perceptual hashes of near-duplicates may differ; near-duplicates share a group."""
    split: SplitSpec = SplitSpec()
    """Division into train, val and test."""
    on_error: Literal["stop", "skip"] = "stop"
    """stop: an error in the data ends the run with a list. skip: what is wrong is left out, named and counted."""
    boxes_only: tuple[Split, ...] = ()
    """Splits whose masks are hidden from labelling and training, and used only to measure label quality."""


class ModelSpec(Open):
    """A model family and the options of each family, under the family's own name."""

    model_config = ConfigDict(protected_namespaces=())

    family: str
    """A model family, as `segdist models` lists them."""

    def family_options(self, family: str | None = None) -> dict[str, object]:
        """The options written for a family (the named one by default)."""
        return dict((self.model_extra or {}).get(family or self.family) or {})


class PromptSpec(Open):
    """How boxes become prompts; further keys are the strategy's options."""

    strategy: str = "box"
    """A prompt strategy: a file name in segdist/prompts, or one that an installed plug-in brings."""


View = Literal["as_is", "mirrored", "upside_down", "turned", "transposed"]


class ConsensusSpec(Strict):
    """Several masks of each object become one, scored by how well they agree."""

    also: tuple[PromptSpec, ...] = ()
    """Further prompts, asked in addition to `label.prompt`."""
    views: tuple[View, ...] = Field(default=("as_is",), min_length=1)
    """Every prompt is asked once for each: the image as it is, mirrored left to right, upside down, turned by 180
    degrees, and transposed. A mask that depends on the side from which one looks is not to be trusted."""
    share: float = Field(default=0.5, gt=0, le=1)
    """A pixel belongs to the object where at least this share of the agreeing masks has it."""
    agree_iou: float = Field(default=0.5, gt=0, le=1)
    """Two masks with a smaller IoU do not agree; an object on whose mask no two agree goes to review."""
    band: Literal["ignore", "keep"] = "ignore"
    """ignore: pixels on which the masks disagree are ignored, or get a soft label where `train.noise.soft_band` is set.
    keep: they are learned as the majority has them."""
    certain: float = Field(default=0.75, gt=0.5, le=1)
    """With `band: ignore`, masks disagree on a pixel where less than this share says the same."""


class FillHoles(Strict):
    """Holes become part of the object."""

    relative_area: float = Field(default=1.0, gt=0)
    """Largest hole that is filled, relative to the object's area."""


class RemoveParts(Strict):
    """Small parts are removed; small relative to the object, so that thin and small objects keep theirs."""

    relative_area: float = Field(default=0.02, gt=0, lt=1)
    """Parts of less than this share of the object's area are removed."""


class ClipToBox(Strict):
    """What lies outside the box is removed."""

    margin: float = Field(default=0.0, ge=0)
    """How far beyond the box the mask may reach, as a share of the box's width and height."""


class Morphology(Strict):
    """A disc is moved along the mask. May break or erase what is thinner than the disc."""

    radius: PositiveFloat = 1.0
    """Of the disc, in pixels."""


class Smooth(Strict):
    """The contour is rounded. May erase what is thinner than `sigma`."""

    sigma: PositiveFloat = 1.0
    """Deviation of the Gaussian in pixels."""


class Snap(Strict):
    """The edge moves to where the colour changes (Lankton and Tannenbaum 2008).

    Each pixel near it goes to the side whose mean colour around it is nearer. For images larger than the teacher sees,
    whose masks are blurred; masks that are right to the pixel it makes worse.
    """

    pixels: Count = 1
    """How far the edge may move."""
    window: PositiveFloat = 7.5
    """Deviation of the Gaussian, in pixels, that "around it" means."""


class CleanStep(Strict):
    """One step of cleaning: one key, e.g. `{fill_holes: {relative_area: 0.5}}`, or its name alone for the defaults."""

    fill_holes: FillHoles | None = None
    """Holes become part of the object."""
    remove_parts: RemoveParts | None = None
    """Parts that are small relative to the object are removed."""
    clip_to_box: ClipToBox | None = None
    """What lies outside the box is removed."""
    open: Morphology | None = None
    """Erosion, then dilation: removes what is thinner than the disc."""
    close: Morphology | None = None
    """Dilation, then erosion: closes gaps narrower than the disc."""
    smooth: Smooth | None = None
    """The contour is rounded."""
    snap: Snap | None = None
    """The edge moves to where the colour changes."""

    @model_validator(mode="before")
    @classmethod
    def _a_name_means_defaults(cls, value: object) -> object:
        if isinstance(value, str):
            return {value: {}}
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _is_one_step(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"a step of cleaning must be one key, but got {sorted(self.model_fields_set)}")
        return self

    @property
    def name(self) -> str:
        """Of the step."""
        return next(iter(self.model_fields_set))

    @model_serializer(mode="plain")
    def _one_key(self) -> dict[str, object]:
        return {self.name: getattr(self, self.name).model_dump(mode="json")}


class MaskLimits(Strict):
    """What a mask must at least be like; by default everything passes."""

    score: float = Field(default=0.0, ge=0, le=1)
    """Least score: the agreement of several prompts, else what the teacher expects its mask's IoU to be."""
    stability: float = Field(default=0.0, ge=0, le=1)
    """Least IoU of the mask at a lower and a higher threshold, where the teacher knows it."""
    box_iou: float = Field(default=0.0, ge=0, le=1)
    """Least IoU of the box around the mask with the annotated box."""
    box_share: float = Field(default=0.0, ge=0, le=1)
    """Least share of the annotated box that the mask fills."""


class TeacherSpec(ModelSpec):
    """The model that labels: a family with its options, or a model that segdist trained."""

    family: str = ""
    """A promptable model family, or `classical`."""
    trained: str = ""
    """Instead of a family, a trained model: `NAME@champion`, `NAME@VERSION`, `SWEEP#TRIAL` or a run id of a sweep in
    the same storage, or a model folder here or at a URI. Families that are shown nothing go with the prompt
    `whole_image`."""

    @model_validator(mode="after")
    def _is_one_model(self) -> Self:
        if bool(self.family) == bool(self.trained):
            raise ValueError(
                "a teacher must have either `family` or `trained`, but got "
                + ("both; `label.teacher.family=''` on the command line takes it away" if self.family else "neither")
            )
        return self

    @property
    def name(self) -> str:
        """In a few words: its family and what was set of it, e.g. `classical thin`, or the trained model."""
        if self.trained:
            return self.trained
        options = self.family_options()
        values = (key if value is True else PurePosixPath(str(value)).name for key, value in options.items())
        return " ".join([self.family, *values])


FILLED_BOX = TeacherSpec.model_validate({"family": "classical", "classical": {"method": "box"}})
"""Always a candidate where one of several teachers is elected: whoever is no better is not worth asking."""


def teacher_in_words(name: str) -> str:
    """A teacher, by its name, for a reader who never saw the sweep file."""
    return "the filled box" if name == FILLED_BOX.name else name


class StudentSpec(Strict):
    """The students of `label.rounds`: small, and trained for minutes."""

    model: ModelSpec | None = None
    """A family that is shown nothing, e.g. unet_cbam or segformer. null: unet_cbam at 224 pixels, where the extra
    `encoders` is installed on efficientnet_lite0 with its ImageNet weights."""
    epochs: Count = 10
    """Passes of each student over its half of the training images."""
    max_steps: Count = 300
    """Most steps of each student, whatever the number of images: it then sees them less often, or some of them."""
    batch_size: int = Field(default=8, gt=0, le=4096)
    """Images a step."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate of AdamW."""
    encoder_lr_factor: float = Field(default=0.3, gt=0, le=1)
    """Learning rate of the encoder relative to `lr`."""
    where_agreed: Literal["label", "student", "both", "common"] = "label"
    """Where no human masks decide, what a mask becomes on which student and label agree. label: it stays, and only its
    score is new. student: the student's. both: every pixel of either; for thin objects, of which labels miss parts.
    common: the pixels that both have; for masks that are too large. Otherwise it stays in any case."""
    agree_iou: float = Field(default=0.5, gt=0, le=1)
    """IoU of the student's mask and the label from which on they agree."""


MAX_ROUNDS = 5
"""Of self-training: after two or three students learn little but their own habits."""


class LabelSpec(Placed):
    """Which teacher turns boxes into masks, and what of its work is kept."""

    place = "label"

    teacher: TeacherSpec
    """The model that labels."""
    teachers: tuple[TeacherSpec, ...] = ()
    """Further teachers: families, shown the same boxes."""
    policy: Literal["vote", "auto"] = "vote"
    """What becomes of the masks of several teachers. vote: `consensus` makes one of them. auto: each class gets those
    of one teacher, the filled box being one as well: the one nearest to people's masks in `train` or `val` where at
    least five objects have some. It is `label.teacher`, unless another is better by more than the standard error of
    the difference, or the filled box by any. Without people's masks it is `label.teacher` too, unless no other teacher
    agrees with it beyond chance: then the one nearest to the others' masks. Where ten objects of all classes have some,
    a class with fewer than five goes by those of the others too, scores are learned from them, and each object gets the
    mask of the teacher foretold to be the best, in classes where that pays."""
    rounds: int = Field(default=0, ge=0, le=MAX_ROUNDS)
    """Rounds of self-training after the first labels. In each, two students learn the labels of one half of the
    training images each, by group, and look into the boxes of the other half. How far student and label agree becomes
    the score. Where five objects of a class have a human mask in `train` or `val`, or ten of all classes, these decide
    whether the label, the student's mask, both together or what both have is nearest to the truth, as with `policy:
    auto`, and from ten on scores are learned from them. Without them see `label.student.where_agreed`."""
    student: StudentSpec | None = None
    """Who learns in `rounds`; null takes what stands there by default."""
    prompt: PromptSpec = PromptSpec()
    """How each box is shown to the teacher."""
    consensus: ConsensusSpec | None = None
    """How several masks of an object become one; null takes the one the teacher trusts most."""
    clean: tuple[CleanStep, ...] = ()
    """Steps of cleaning, in this order; none by default, because some can hurt thin structures."""
    reject: MaskLimits = MaskLimits()
    """Masks that miss one of these limits are rejected: they stay boxes, and training ignores what lies in them."""
    review: MaskLimits = MaskLimits()
    """Masks that miss one of these limits wait for a person: training ignores what lies in their boxes until
    `segdist label review import` brings them back."""
    splits: tuple[Split, ...] = ("train", "val", "test")
    """Splits in which instances without a mask are labelled."""
    actors: Count | Literal["auto"] = "auto"
    """Teachers working side by side; auto takes as many as the free CPUs and GPUs hold."""
    cpus_per_actor: float = Field(default=0.45, gt=0, le=10_000)
    """CPUs each teacher reserves; below a half, so that reading never waits behind labelling."""
    gpus_per_actor: Gpus = "auto"
    """GPUs each teacher reserves; a fraction shares a card. auto is one where the cluster has cards that torch can use,
    and none elsewhere."""
    max_actors: Count | None = None
    """Teachers that the pool may grow to while images wait, beyond what the cluster holds now: a cluster that adds
    machines when asked adds them, and idle teachers leave. null: it stays at `actors`."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the teacher computes in on a GPU; promptable families draw their masks in float32 all the same. On a CPU it
    is always float32."""
    compile: bool = False
    """Compile the teacher's encoder on a GPU (torch.compile): the first images of each teacher take minutes, the others
    are quicker. On a CPU nothing is compiled."""
    images_per_shard: Count = 64
    """Images labelled between two saves: the most a killed job has to do again."""

    @model_validator(mode="after")
    def _pool_grows(self) -> Self:
        if self.max_actors and self.actors != "auto" and self.max_actors < self.actors:
            raise ValueError(
                f"`actors <= max_actors` must hold, but got actors={self.actors}, max_actors={self.max_actors}"
            )
        return self

    @model_validator(mode="after")
    def _several_agree(self) -> Self:
        if any(teacher.trained for teacher in self.teachers):
            raise ValueError("a trained model must be `label.teacher`; `label.teachers` are families")
        if self.policy == "auto" and self.consensus:
            raise ValueError("`policy: auto` takes the masks of one teacher a class, so it goes without `consensus`")
        if self.policy == "vote" and self.teachers and not self.consensus:
            raise ValueError("`policy: vote` makes one mask of several by `consensus`; write `consensus: {}`")
        return self

    @property
    def in_words(self) -> str:
        """Who labels, and how."""
        first, *others = dict.fromkeys(teacher_in_words(one.name) for one in self.asked)
        how = " and ".join(dict.fromkeys(prompt.strategy for prompt in self.prompts))
        elected = self.policy == "auto" and bool(others)
        who = first if elected else " and ".join([first, *others])
        chosen = f"; {' or '.join(others)} for a class where human masks show it to be better" if elected else ""
        more = f" in {self.rounds} rounds" if self.rounds > 1 else ""
        trained = f", then self-training{more}" if self.rounds else ""
        return f"{who} by {how}{chosen}{trained}"

    @property
    def asked(self) -> tuple[TeacherSpec, ...]:
        """All teachers, each once, first `teacher`; the filled box is one where each class elects its own."""
        every = (self.teacher, *self.teachers)
        named = tuple(one for n, one in enumerate(every) if one not in every[:n])
        lacks_box = self.policy == "auto" and FILLED_BOX.name not in (one.name for one in named)
        return (*named, FILLED_BOX) if lacks_box else named

    @property
    def prompts(self) -> tuple[PromptSpec, ...]:
        """All prompts that are asked."""
        return (self.prompt, *(self.consensus.also if self.consensus else ()))


AdapterKind = Literal["full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora", "qlora", "conv_lora"]


class AdapterSpec(Placed):
    """What of the model is trained."""

    place = "train.adapter"

    kind: AdapterKind = "full"
    """full: everything. frozen_encoder: all but the encoder. partial: all but the encoder's blocks before the last
    `blocks`. layernorm: the norms' scales and shifts. bitfit: the biases (Ben Zaken et al. 2022). lora: low-rank
    updates (Hu et al. 2021). dora: the same, with their magnitude apart (Liu et al. 2024). qlora: low-rank updates
    beside base weights of four bits (Dettmers et al. 2023), on a GPU only. conv_lora: low-rank updates with
    convolutions of several scales between (Zhong et al. 2024), for encoders that keep their tokens in a grid."""
    heads: bool = True
    """With any kind but `full`, `partial` and `frozen_encoder`: also train the layers that the family names as
    heads. Without them only the adapter learns, which suits weights that were trained for the same classes."""
    modules_to_save: tuple[str, ...] = ()
    """Parts of the model that are trained in full with any kind but `full`, `partial` and `frozen_encoder`: parts of
    module names, e.g. `vision_tower` or `multi_modal_projector` of PaliGemma."""
    rank: int = Field(default=8, gt=0, le=1024)
    """Rank r of low-rank updates."""
    alpha: PositiveFloat = 16.0
    """Scale of low-rank updates: they are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout in front of low-rank updates."""
    targets: tuple[str, ...] = ()
    """Module name endings that get low-rank updates; empty takes the family's own choice."""
    blocks: Count = 2
    """partial: how many of the encoder's last blocks are trained."""
    experts: int = Field(default=4, gt=0, le=16)
    """conv_lora: convolutions, the n-th of which works at n times the resolution."""


class LossOptions(Strict):
    """The parameters of losses; their weights are in `train.loss`."""

    focal_gamma: float = Field(default=2.0, ge=0)
    """How little the pixels count in `focal` that are right already; 0 is cross-entropy."""
    tversky_alpha: float = Field(default=0.3, ge=0, le=1)
    """What a false positive costs in `tversky`; 0.5 and 0.5 is Dice."""
    tversky_beta: float = Field(default=0.7, ge=0, le=1)
    """What a false negative costs in `tversky`; above `tversky_alpha` it favours finding all of a rare class."""
    edge_weight: float = Field(default=5.0, ge=0)
    """How much more a pixel on a mask's edge counts in `edge`."""
    edge_sigma: PositiveFloat = 3.0
    """How far the extra weight of `edge` reaches, as the deviation of a Gaussian in pixels of the network's scale."""
    class_balance: Literal["none", "inverse_frequency", "effective_number"] = "none"
    """Class weights computed from the training split. inverse_frequency: by pixels. effective_number: by the number
    of instances (Cui et al. 2019)."""
    class_balance_beta: float = Field(default=0.999, ge=0, lt=1)
    """effective_number: 0 weighs all classes equally, close to 1 by their inverse frequency."""

    @model_validator(mode="after")
    def _tversky_counts_errors(self) -> Self:
        if self.tversky_alpha + self.tversky_beta == 0:
            raise ValueError("`tversky_alpha + tversky_beta > 0` must hold, but got 0 and 0")
        return self


class NoiseSpec(Strict):
    """What is done about labels that are not quite right, as a teacher's are."""

    ignore_band: int = Field(default=0, ge=0, le=1_000_000)
    """Pixels at the network's scale on both sides of a mask's edge that are ignored; the centre line of a thin
    object is not. Only in pseudo-labelled images."""
    soft_band: bool = False
    """What the edge teaches on which a consensus of prompts disagreed (`label.consensus.band: ignore`): false, nothing;
    true, a soft label: each time an image is seen its mask is drawn without that edge, as most prompts have it, or
    with all of it, each by a chance of a third."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a pixel's truth that is spread over all classes (Szegedy et al. 2016)."""
    soft_targets: bool = False
    """Spread what a teacher was not sure of: one minus the instance's score, where that is more than the smoothing."""
    score_power: float = Field(default=0.0, ge=0)
    """Weight of an instance's pixels as a power of the teacher's score: 0 counts all equally, 1 in proportion to it."""


class PhaseSpec(Strict):
    """One of several phases of training, with an optimiser and a schedule of its own."""

    epochs: Count
    """Passes over the training split."""
    lr: PositiveFloat
    """Peak learning rate of AdamW."""
    freeze: Literal["nothing", "encoder"] = "nothing"
    """encoder: it is not trained in this phase."""
    encoder_lr_factor: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of the encoder relative to `lr`."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the phase's steps in which the learning rate rises linearly."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up, or that it does not."""


def _listed(value: object) -> Any:
    """A list as a search holds it: JSON text."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


Recipe = Annotated[str | tuple[str, ...], BeforeValidator(_listed)]
"""Augmentations by name: one recipe or step, or several in order."""


Weight = Annotated[float, Field(gt=0, le=1e6)]


class SamplingSpec(Strict):
    """How often an epoch shows an image: in proportion to the product of these weights, which are 1 where not given."""

    classes: Literal["equal", "inverse_sqrt", "inverse"] | dict[Name, Weight] = "equal"
    """Of the images that show a class; of several classes the largest counts. inverse_sqrt: one over the root of the
    share of images that show it (Gupta et al. 2019). inverse: one over the share. Or a weight for each class."""
    groups: dict[str, Weight] = {}
    """Of the images of a source with this `group`."""
    labels: dict[Literal["human", "teacher"], Weight] = {}
    """Of the images whose labels come from people, or from a teacher."""


Precision = Literal["auto", "float32", "bfloat16", "float16"]


class TrainSpec(Placed):
    """How a model is fitted."""

    place = "train"

    epochs: Count = 10
    """Passes over the training split; with `phases`, theirs count instead."""
    batch_size: int = Field(default=8, gt=0, le=4096)
    """Images per step of the optimiser, over all workers; how they are computed is `resources.micro_batch`."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""
    encoder_lr_factor: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of the encoder relative to `lr`."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of each block of the encoder relative to that of the block after it, e.g. 0.75; what comes before
    the first has the least (BEiT, Bao et al. 2022). Beside `encoder_lr_factor` both count. 1: all have one."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay; not applied to biases and norms."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up, or that it does not."""
    phases: tuple[PhaseSpec, ...] = ()
    """Phases one after the other, e.g. the encoder frozen first; they replace `epochs`, `lr`, `encoder_lr_factor`,
    `warmup` and `schedule`."""
    grad_clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    ema: float | None = Field(default=None, gt=0, le=0.5)
    """Score and keep a moving average of the weights: half of it always comes from the last this share of the steps so
    far, so that short runs and long ones take the same value (Karras et al. 2024). null: those of the last step."""
    precision: Precision = "auto"
    """What the network trains and is scored in after each epoch. auto: on a GPU bfloat16, or float16 where the card has
    no bfloat16; float32 elsewhere. float16 scales the loss, and skips steps that do not fit. With float32 a GPU
    multiplies in float32 too, else in TF32."""
    compile: bool = False
    """Compile the training step (torch.compile): the first steps take minutes, the others are quicker. Needs triton on
    a GPU, a C++ compiler on a CPU."""
    adapter: AdapterSpec = AdapterSpec()
    """What of the model is trained."""
    loss: dict[str, float] = {}
    """Weights of the family's loss terms; a term left out keeps the family's default."""
    loss_options: LossOptions = LossOptions()
    """Parameters of the losses."""
    noise: NoiseSpec = NoiseSpec()
    """What is done about labels that are not quite right."""
    augment: Recipe = ("flip", "brightness")
    """Augmentations, in this order: a recipe's name (`light`, `thin_structures`, `paste`, ...), or a list of steps and
    recipes. `segdist check` names all of them where one is not known."""
    augment_classes: dict[str, Recipe] = {}
    """Other augmentations for images that show a class; of several, the first class named here counts."""
    augment_groups: dict[str, Recipe] = {}
    """Other augmentations for the images of a source with this `group`; they go before those by class."""
    sampling: SamplingSpec | None = None
    """How often an epoch shows each image; null shows all of them once. An epoch stays as long as it is."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints: the most a crashed trial has to do again."""
    keep_every: Count | None = None
    """Steps of the optimiser between models that are all kept, in the storage folder, for a look at each with
    `segdist evaluate RUN DATA --all-checkpoints`; null keeps the best alone."""
    init_from: str = ""
    """A model folder or URI whose weights training begins with, e.g. one that `keep_every` kept: of the same family,
    options, adapter and classes; everything else may be other. Empty begins with the family's own weights."""

    @field_validator("ema", mode="before")
    @classmethod
    def _is_a_share(cls, ema: object) -> object:
        if isinstance(ema, int | float) and ema > 0.5:
            raise ValueError(f"a share of the steps, at most 0.5, must be given and no decay of a step, but got {ema}")
        return ema

    @field_validator("loss")
    @classmethod
    def _weights_are_not_negative(cls, loss: dict[str, float]) -> dict[str, float]:
        for term, weight in loss.items():
            if weight < 0:
                raise ValueError(f"a loss weight must not be negative, but got {term}={weight}")
        return loss

    @property
    def all_phases(self) -> tuple[PhaseSpec, ...]:
        """The phases, or the one that the other keys describe."""
        keys = ("epochs", "lr", "encoder_lr_factor", "warmup", "schedule")
        return self.phases or (PhaseSpec(**{key: getattr(self, key) for key in keys}),)

    @property
    def total_epochs(self) -> int:
        """Passes over the training split in all phases."""
        return sum(phase.epochs for phase in self.all_phases)


class TileSpec(Strict):
    """How a large image is cut into tiles that overlap; what is found in them is joined without seams."""

    size: Count | Literal["network"] = "network"
    """Side of a tile in pixels; network: the model's `image_size`, so that nothing is scaled."""
    overlap: float = Field(default=0.125, ge=0, le=0.9)
    """Share of a tile's side that it has in common with the next one, at least; objects up to this size are always
    seen whole by one of the two."""


TtaView = Literal["flip", "flip_vertical", "rotate_180", "darker", "brighter"]


class PostSpec(Placed):
    """What is done to what a network finds: refine, remove small parts, fill holes, tell objects apart, thresholds."""

    place = "evaluate.post"

    refine: Literal["none", "guided_filter", "crf"] = "none"
    """guided_filter: edges move to those of the image (He et al. 2013). crf: a dense conditional random field over the
    pixels around each object (Krähenbühl and Koltun 2011); needs the extra `crf`."""
    radius: int = Field(default=8, gt=0, le=256)
    """How far refining looks, in pixels: half the filter's window, or the deviation of the field's pairs."""
    contrast: float = Field(default=0.05, gt=0, le=1)
    """Difference of brightness, of 0..1, from which on refining takes it for an edge."""
    min_area_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Connected parts smaller than this fraction of the image are removed."""
    min_area_pixels: float = Field(default=0.0, ge=0)
    """Connected parts of fewer pixels are removed; with `min_area_fraction`, what is smaller than either."""
    fill_holes_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Holes smaller than this fraction of the image are filled."""
    fill_holes_pixels: float = Field(default=0.0, ge=0)
    """Holes of fewer pixels are filled; with `fill_holes_fraction`, what is smaller than either."""
    instances: Literal["as_found", "components", "watershed"] = "as_found"
    """Objects out of what a semantic network draws as one region of a class, so that roofs can be counted. components:
    each connected part is one. watershed: parts that only a neck joins are several. as_found: one region a class."""
    stuff: tuple[str, ...] = ()
    """Classes that have no objects, such as wall or sky: they stay one region whatever `instances` says."""
    min_scores: dict[str, float] = {}
    """Scores per class in place of `min_score`."""
    tune: bool = False
    """Choose `min_scores` after training: per class what gives the highest IoU on the validation split. They are kept
    with the model; scores on that split are too good then, those on the test split are not."""

    @field_validator("min_scores")
    @classmethod
    def _scores_are_shares(cls, scores: dict[str, float]) -> dict[str, float]:
        for name, score in scores.items():
            if not 0 <= score <= 1:
                raise ValueError(f"a score must lie in 0..1, but got {name}={score}")
        return scores

    @property
    def changes_masks(self) -> bool:
        """Whether anything is done to masks."""
        return self.refine != "none" or self.least_part(1) > 0 or self.least_hole(1) > 0

    def least_part(self, image_pixels: int) -> float:
        """Pixels of the smallest part that stays, in an image of this many pixels."""
        return max(self.min_area_pixels, self.min_area_fraction * image_pixels)

    def least_hole(self, image_pixels: int) -> float:
        """Pixels of the smallest hole that stays, in an image of this many pixels."""
        return max(self.fill_holes_pixels, self.fill_holes_fraction * image_pixels)


class EvaluateSpec(Placed):
    """How every trial predicts and is scored."""

    place = "evaluate"

    prompts: Literal["none", "box"] = "none"
    """box shows the model the true boxes, so it is compared as a box-to-mask tool only; none shows it nothing."""
    min_score: float = Field(default=0.3, ge=0, le=1)
    """Instances scored lower do not count as found in IoU and Dice; average precision sees them all."""
    batch_size: int = Field(default=8, gt=0, le=4096)
    """Images per prediction step."""
    each_epoch: tuple[str, ...] = Field(default=("iou", "dice"), min_length=1)
    """Metrics computed after every epoch, `search.metric` among them; each trial's kept model gets all of them. Where
    the validation images have groups (`group` of a source), `worst_group_iou` is computed unasked."""
    tile: TileSpec | None = None
    """Cut images that are larger than a tile into tiles; null shows the model each image as a whole."""
    tta: tuple[TtaView, ...] = ()
    """Views of each image that are predicted besides the image itself, and merged by vote: each takes as long again."""
    post: PostSpec = PostSpec()
    """What is done to what the network finds."""
    boundary_width_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Width of the band of boundary IoU and AP as a fraction of the image diagonal; null takes 0.02 (Cheng et al. 2021)
    where `boundary_width_pixels` is null too."""
    boundary_width_pixels: PositiveFloat | None = None
    """The same width in pixels, whatever the size of the image."""
    pictures: int = Field(default=6, ge=0, le=1_000_000)
    """Panels of an image, its truth, the prediction and the error, kept for each trial."""
    images_side_by_side: int = Field(default=200, ge=0, le=1_000_000)
    """Validation images on the page that lays all trials beside each other; of more, those whose scores differ most.
    An image takes about 50 KB, and some 500 bytes a trial; 0 writes no page."""

    @model_validator(mode="after")
    def _has_one_boundary_width(self) -> Self:
        if self.boundary_width_fraction and self.boundary_width_pixels:
            raise ValueError(
                "one of `boundary_width_fraction` and `boundary_width_pixels` must be null, but got "
                f"{self.boundary_width_fraction} and {self.boundary_width_pixels}"
            )
        return self

    def accepts(self, label: str, score: float) -> bool:
        """Whether an instance of a class counts as found."""
        return score >= self.post.min_scores.get(label, self.min_score)

    def with_min_scores(self, scores: Mapping[str, float]) -> Self:
        """The same with other scores per class."""
        return self.model_copy(update={"post": self.post.model_copy(update={"min_scores": dict(scores)})})


_NOT_TAKEN_ALONG = (
    "PATH", "HOME", "USER", "PWD", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "RAY_ADDRESS",
    "RAY_AUTH_TOKEN", "SEGDIST_TOKEN",
)  # fmt: skip
"""Variables that are each machine's or each process's own."""


def _variable_pattern(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_*][A-Za-z0-9_*]*", value):
        raise ValueError(f"a variable is written NAME, or FRONT_* for all that begin so, but got {value!r}")
    if own := [name for name in _NOT_TAKEN_ALONG if fnmatch.fnmatchcase(name, value)]:
        raise ValueError(f"{value} must not name {own[0]}, which is each machine's own")
    return value


class ResourceSpec(Strict):
    """What one trial runs on."""

    workers: int = Field(default=1, gt=0, le=10_000)
    """Data-parallel workers of a trial; one trains inside the search's own process, more form a Ray Train group."""
    min_workers: int | None = Field(default=None, gt=0, le=10_000)
    """Workers that a trial of several is content with where nodes are gone: it starts with as many as there is room
    for. A step has as many images as ever, of which each worker computes more, in further passes; null: all of them."""
    cpus_per_worker: float = Field(default=1.0, gt=0, le=10_000)
    """CPUs each worker reserves."""
    gpus_per_worker: Gpus = "auto"
    """GPUs each worker reserves; a fraction shares a card between trials. auto is one where the cluster has cards that
    torch can use, and none elsewhere. With 0 they train on the CPU, also where there are cards."""
    price_per_hour: PositiveFloat | None = None
    """What an hour of a node costs, in any currency: machines are billed from start to end, idle or not. Where nodes
    cost differently, their mean; of a cluster that others use too, the share that is yours."""
    micro_batch: Count | None = None
    """Images of one worker's forward pass; gradients are added up until a step has `train.batch_size` images. Fewer
    need less memory and change nothing else, but that batch norms see micro-batches; null: all of the worker's share.
    """
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How the workers of a trial divide its work. ddp: each has the whole model and a share of the images. fsdp: each
    has a share of weights, gradients and states of the optimiser as well (torch's FSDP2), for what does not fit one
    card; while it is scored, each still holds all weights. The result is the same, as are the checkpoints. A plan
    measures the whole model and leaves out what a worker does not hold of gradients and states."""
    collective_timeout: float = Field(default=600.0, ge=5, le=86_400)
    """Seconds that the workers of a trial wait for one of them, which may hang, before the trial goes on from its
    checkpoint; longer than a checkpoint takes to be saved, for that is when they wait for the first of them."""
    max_failures: int = Field(default=2, ge=0, le=1_000_000)
    """Times a crashed trial is resumed from its last checkpoint. One whose node is gone goes on however often, as long
    as it came an epoch further since it lost the node before."""
    environment: tuple[Annotated[str, AfterValidator(_variable_pattern)], ...] = (
        "AWS_*", "HF_*", "MLFLOW_*", "NCCL_*", "*_PROXY", "*_proxy",
    )  # fmt: skip
    """Environment variables that the workers of a cluster are to have as the driver has them, by name; `AWS_*` is all
    that begin so, where there are any; a name without `*` must be there. Their values travel in memory: they are in no
    log, no file and no MLflow run."""

    @model_validator(mode="after")
    def _fewest_are_no_more_than_all(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"`min_workers` must be at most `workers`, but got {self.min_workers} for {self.workers} workers"
            )
        return self

    @property
    def gpus(self) -> float:
        """GPUs of each worker; none where no cluster has decided yet what `auto` is."""
        return 0.0 if self.gpus_per_worker == "auto" else self.gpus_per_worker

    def with_gpus(self, count: float) -> Self:
        """The same with so many GPUs for each worker."""
        return self.model_copy(update={"gpus_per_worker": count})


class RunSpec(Placed):
    """Everything that decides what one trial learns."""

    place = ""

    model: ModelSpec
    """The model family and its options."""
    train: TrainSpec = TrainSpec()
    """How it is fitted."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """How it is scored."""
    resources: ResourceSpec = ResourceSpec()
    """What it runs on."""
    seed: Seed = 0
    """Seed of weights, order and augmentation."""

    @model_validator(mode="after")
    def _every_worker_has_an_image(self) -> Self:
        if self.train.batch_size < self.resources.workers:
            raise ValueError(
                "`train.batch_size` is over all workers and must be at least `resources.workers`, but got "
                f"{self.train.batch_size} for {self.resources.workers} workers"
            )
        return self

    @model_validator(mode="after")
    def _shards_what_workers_can_share(self) -> Self:
        resources = self.resources
        if resources.strategy == "fsdp" and resources.workers == 1:
            raise ValueError(
                "`resources.strategy: fsdp` divides a model over workers, but `resources.workers` is 1: "
                "raise it, or set `resources.strategy: ddp`"
            )
        if resources.strategy == "fsdp" and 0 < resources.gpus < 1:
            raise ValueError(
                "`resources.strategy: fsdp` needs a card for each worker, but `resources.gpus_per_worker` is "
                f"{resources.gpus:g}"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name what this run learns; resources and other families' options do not count."""
        unrelated: Any = {
            "resources": True,
            "model": True,
            "train": {"keep_every"},
            "evaluate": {"pictures", "images_side_by_side", "batch_size", "each_epoch"},
        }
        content = renamed_keys.as_first_recorded(self.model_dump(mode="json", exclude=unrelated))
        content["model"] = {"family": self.model.family, "options": self.model.family_options()}
        return digest(content)

    @property
    def micro_batch(self) -> int:
        """Images of a worker's forward pass."""
        share = -(-self.train.batch_size // self.resources.workers)
        return min(self.resources.micro_batch or share, share)

    def with_micro_batch(self, images: int) -> Self:
        """The same training with so many images at once; what is evaluated at once becomes less in proportion."""
        resources = self.resources.model_copy(update={"micro_batch": images})
        at_once = max(1, self.evaluate.batch_size * images // self.micro_batch)
        evaluate = self.evaluate.model_copy(update={"batch_size": min(at_once, self.evaluate.batch_size)})
        return self.model_copy(update={"resources": resources, "evaluate": evaluate})

    def with_workers(self, count: int) -> Self:
        """The same training on fewer workers, each of which computes as many images at once as before."""
        resources = {"workers": count, "micro_batch": self.micro_batch}
        return self.model_copy(update={"resources": self.resources.model_copy(update=resources)})

    def override(self, values: Mapping[str, object]) -> Self:
        """This run with other values for dotted keys, e.g. `{"train.lr": 3e-4, "model.sam.size": "tiny"}`.

        A number in a key is a place in a list: `train.phases.0.lr`.
        """
        content = self.model_dump(mode="json")
        for key, value in renamed_keys.current_values(values).items():
            *parents, leaf = key.split(".")
            node: Any = content
            for name in parents:
                if isinstance(node, dict) and node.get(name) is None:
                    node[name] = {}  # a part that the file leaves out, or says null for
                node = node[int(name) if isinstance(node, list) else name]
            node[int(leaf) if isinstance(node, list) else leaf] = value
        return type(self).model_validate(content)


class Range(Strict):
    """The values that a searched key may take: `choices`, or numbers from `low` to `high`.

    A plain list in the file means `choices`.
    """

    low: float | int | None = None
    """Smallest number."""
    high: float | int | None = None
    """Largest number."""
    log: bool = False
    """Search on a logarithmic scale."""
    step: float | int | None = None
    """Distance between numbers; two whole numbers as bounds mean whole steps."""
    choices: tuple[Any, ...] = ()
    """The values to choose from, instead of a range of numbers."""
    when: dict[str, object] = {}
    """Search this key only where other searched keys have these values, e.g. `{model.family: sam}`."""

    @model_validator(mode="before")
    @classmethod
    def _a_list_means_choices(cls, value: object) -> object:
        return {"choices": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _is_a_range_or_a_choice(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("`choices` stands alone, without low, high, log or step")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range needs both `low` and `high`, or a list of choices")
        if not self.low < self.high:
            raise ValueError(f"`low < high` must hold, but got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"`low > 0` must hold on a logarithmic scale, but got low={self.low}")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"`step > 0` must hold, but got step={self.step}")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether the range holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    def applies(self, chosen: Mapping[str, object]) -> bool:
        """Whether this key is searched at all, given the values of the others."""
        return all(chosen.get(key) == value for key, value in self.when.items())

    def holds(self, value: object) -> bool:
        """Whether a value lies in this range."""
        if self.choices:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        steps = (value - self.low) / (self.step or 1)
        is_on_step = not (self.step or self.is_integer) or abs(steps - round(steps)) < 1e-9
        return self.low <= value <= self.high and is_on_step


class AshaSpec(Strict):
    """Early stopping by successive halving (Li et al. 2018), in epochs."""

    grace_epochs: Count = 1
    """Epochs every trial gets before it may be stopped."""
    reduction_factor: Count = Field(default=4, ge=2)
    """One of this many trials survives each rung; the next rung is after this many times the epochs."""
    pause: bool = True
    """true: what is not among the best when it comes to a rung waits there, and goes on from its checkpoint once it is
    among the best of those that came as far; in the end the best one and the untuned one are trained as long as they
    may. false: it is stopped for good, and the first to come to a rung go on whatever they score: then give two
    `grace_epochs` or more."""


class StopSpec(Strict):
    """Early stopping by another rule than successive halving."""

    top_after: Count | None = None
    """Train every trial for this many epochs, then only the best of them, `keep`, to their end."""
    keep: Count = 3
    """Trials that go on after `top_after`."""
    median_after: Count | None = None
    """From this epoch on, stop a trial whose best is worse than the median of the others at the same epoch."""
    patience: Count | None = None
    """Stop a trial that stays worse than its own best for more than this many epochs; beside `median_after`, only if it
    is worse than the median too. It goes on while its worst class gets better, or its worst group of images
    (`val/worst_group_iou`, where they have groups), or `val/boundary_iou` where `evaluate.each_epoch` names it."""

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        if self.top_after and self.median_after:
            raise ValueError(
                f"one of `top_after` and `median_after` must be null, but got {self.top_after} and {self.median_after}"
            )
        if not (self.top_after or self.median_after or self.patience):
            raise ValueError("one of `top_after`, `median_after` and `patience` must be given")
        return self


class ConfirmSpec(Strict):
    """Training the best trials again with other seeds, so that no lucky one wins."""

    trials: Count = 3
    """The best trials, whose values are trained again, each to its last epoch; never more than the search has."""
    seeds: Count = 2
    """Trainings of each, beside its own."""


class BudgetSpec(Strict):
    """What a sweep may take, over all its starts; `search.trials` bounds the trials beside it.

    When some of it is spent, trials that run end with their models kept, no further one starts that would not end
    within the rest, and the sweep evaluates, reports and ends. A later start with a larger budget goes on.
    """

    hours: PositiveFloat | None = None
    """Of the wall clock, from start to end of each start; the evaluation after the search comes on top."""
    gpu_hours: PositiveFloat | None = None
    """GPUs times the hours for which trials hold them."""
    money: PositiveFloat | None = None
    """In the currency of `resources.price_per_hour`."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("a budget needs one of `hours`, `gpu_hours` and `money`")
        return self


class SearchSpec(Strict):
    """How the space is searched."""

    trials: Count = 10
    """Trials to run; the first is the sweep file's own values, untuned."""
    try_each: str = ""
    """A searched key with `choices`, e.g. `model.family`: the first trials take each of its values once, untuned
    otherwise, so that none is passed over untried."""
    metric: str = "val/iou"
    """What decides, after each epoch and over trials: the higher the better, or the lower for errors and distances."""
    objectives: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ()
    """Further measures to be good at, e.g. `[runtime/latency_p50_ms, model/bytes]`: the sampler looks for trials that
    no other beats at `metric` and all of these, and the leaderboard marks them. `metric` alone decides epochs, early
    stopping and the winner."""
    points: tuple[dict[str, object], ...] = ()
    """Values to try before the sampler chooses, after the file's own, e.g. `- {train.lr: 3e-4}`; searched keys that a
    point leaves out have the file's own values."""
    warm_start: Annotated[tuple[Name, ...], BeforeValidator(_one_or_more)] = ()
    """Earlier sweeps to begin from: the `name` of one, which means that started last, its run id, or a list of them.
    Their best two trials are tried after `points`; where these beat the untuned one, the others are believed too."""
    sampler: Literal["tpe", "gp", "cmaes", "quasi_random", "random", "grid"] = "tpe"
    """tpe: Optuna's tree-structured Parzen estimator. gp: a Gaussian process, for few trials that take long. cmaes:
    evolution (CMA-ES), for many trials over numbers. quasi_random: points that fill the space evenly (Sobol). random:
    independent draws. grid: every combination of choices, whole numbers and steps once."""
    constraints: dict[str, float] = {}
    """What a trial may at most have, e.g. `{runtime/latency_p50_ms: 50}`: one that has more is shown
    as infeasible and never wins. Latency is measured in the trial, beside those that run at the same time."""
    startup_trials: Count = 5
    """Random trials before the sampler begins to learn."""
    budget: BudgetSpec | None = None
    """What all trials together may take, e.g. `{hours: 8, money: 50}`; null bounds nothing but `trials`."""
    asha: AshaSpec | None = AshaSpec()
    """Early stopping; null lets every trial finish."""
    stop: StopSpec | None = None
    """Another rule of early stopping, in the place of `asha`."""
    confirm: ConfirmSpec | None = None
    """After the search, train the best trials again with fresh seeds: the best mean over seeds wins, and images and
    seeds together say how surely. They are no part of `trials`; null lets the best single trial win."""
    keep_checkpoints: int = Field(default=10, ge=0, le=1_000_000)
    """Best trials whose checkpoints stay in the storage when the sweep is done. The models of all are in MLflow; a
    checkpoint is needed to bring one to another MLflow server later."""
    concurrency: Count | Literal["auto"] = "auto"
    """Trials at once, as far as they fit; auto takes as many as the resources hold, with `pack` times as many. A number
    asks a cluster that can grow for the machines of so many."""
    pack: int = Field(default=1, gt=0, le=64)
    """Trials that one process trains at once, where they train small weights beside the same frozen ones: what these
    compute of the same images is computed once for all. Each trial has the results that it has alone. `segdist check`
    says which trials cannot, and why; these have a process of their own. Trials that share one do not save when their
    node is about to leave the cluster: they go on from their checkpoints when it has left."""
    seed: Seed = 0
    """Seed of the sampler."""

    @model_validator(mode="after")
    def _objectives_differ(self) -> Self:
        named = [self.metric, *self.objectives]
        if twice := [name for name in named if named.count(name) > 1]:
            raise ValueError(f"`objectives` must be others than `metric`, each once, but {twice[0]} stands twice")
        return self


class TrackingSpec(Strict):
    """Where every trial is recorded."""

    uri: Name = "embedded"
    """An MLflow tracking URI, or `embedded`: SQLite and artifacts inside the storage folder."""
    all_params: bool = False
    """Whether a trial's run has every key as a parameter, not only those that are searched or differ from the default;
    `run.yaml` among its artifacts has all of them either way."""
    also: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Other trackers that show the trials, too, each in a folder of its name beside the sweep's ledger: `tensorboard`
    while they run, `wandb` (offline) when they have ended. Nothing is read from them."""
    system_metrics: bool = True
    """Whether a trial records what its node and its cards did in each epoch: `system/...` on MLflow's page of them."""


_EXTENT: Any = {
    "storage": True,
    "tracking": True,
    "resources": True,
    "question": True,
    "environment": True,
    "search": True,
    "space": True,
    "train": {"keep_every", "checkpoint_every"},
    "evaluate": {"pictures", "images_side_by_side", "batch_size", "each_epoch"},
}
"""Keys that decide where and how far a question is searched, and what is shown, but not what its answer is."""


class SweepSpec(RunSpec):
    """One question, the data that answer it, and the search for the model that answers it best."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    """Name of the sweep: the MLflow experiment, the registered model, and what `segdist compare` takes."""
    question: str = ""
    """What the model is to find, in a sentence for people."""
    environment: tuple[str, ...] = ()
    """Environment variables that the file may read as `${oc.env:NAME}`, e.g. where images lie: their values are stored
    and shown like everything else in it. `HOME` and `SEGDIST_STORAGE` need not be named, secrets cannot be."""
    data_root: Name = "."
    """Where the images lie; use it in paths as `${data_root}` and set it on the command line."""
    storage: Name = Field(default="${oc.env:SEGDIST_STORAGE,${oc.env:HOME}/segdist}")
    """A folder or `s3://` prefix for data shards, labels, checkpoints and reports; shared by all nodes."""
    tracking: TrackingSpec = TrackingSpec()
    """Where every trial is recorded."""
    data: DataSpec
    """Which images."""
    label: LabelSpec | None = None
    """Which teacher labels them; null trains on the masks that are there."""
    space: dict[str, Range] = {}
    """What is searched: dotted keys and their ranges."""
    search: SearchSpec = SearchSpec()
    """How it is searched."""

    @model_validator(mode="after")
    def _budget_can_be_counted(self) -> Self:
        budget = self.search.budget
        if budget and budget.money is not None and self.resources.price_per_hour is None:
            raise ValueError(
                f"`search.budget.money: {budget.money:g}` needs `resources.price_per_hour`, what an hour of a node "
                "costs; set it, or bound `search.budget.hours` instead"
            )
        if budget and budget.gpu_hours is not None and self.resources.gpus_per_worker == 0:
            raise ValueError(
                f"`search.budget.gpu_hours: {budget.gpu_hours:g}` bounds nothing where trials hold no GPU "
                "(`resources.gpus_per_worker: 0`); bound `search.budget.hours` instead"
            )
        return self

    @model_validator(mode="after")
    def _each_can_be_tried(self) -> Self:
        key = self.search.try_each
        choices = self.space[key].choices if key in self.space else ()
        if key and not choices:
            raise ValueError(f"`search.try_each` must name a key of `space` that has choices, but got {key}")
        for number, point in enumerate(self.search.points):
            self._check_point(number, point)
        listed = max(len(choices), 1) + len(self.search.points)
        if self.search.points and listed > self.search.trials:
            raise ValueError(
                f"`search.trials` must be at least {listed}, for the file's own values and those that `search.points` "
                f"and `search.try_each` list, but got {self.search.trials}"
            )
        if len(choices) > self.search.trials:
            raise ValueError(
                f"`search.trials` must be at least {len(choices)}, for `search.try_each` tries each value of {key}, "
                f"but got {self.search.trials}"
            )
        self._check_confirm()
        return self

    def _check_confirm(self) -> None:
        confirm = self.search.confirm
        if confirm is None:
            return
        if not self.space:
            raise ValueError("`search.confirm` compares trials, but `space` is empty. Set `search.confirm: null`")
        if "seed" in self.space:
            raise ValueError("`search.confirm` trains with seeds of its own, so `space` must not hold `seed`")
        if confirm.trials > self.search.trials:
            raise ValueError(
                f"`search.confirm.trials` must be at most `search.trials`, but got {confirm.trials} of "
                f"{self.search.trials}"
            )

    def _check_point(self, number: int, point: Mapping[str, object]) -> None:
        for key, value in point.items():
            where = f"`search.points[{number}]` must name searched keys with values that they may take, but "
            if key not in self.space:
                raise ValueError(f"{where}{key} is not a key of `space`")
            range_ = self.space[key]
            if not range_.holds(value):
                raise ValueError(f"{where}{key} cannot be {value!r}")
            if not range_.applies(point):
                needed = ", ".join(f"{name}: {needed}" for name, needed in range_.when.items())
                raise ValueError(f"{where}{key} is searched only where the point also says {needed}")

    @property
    def run(self) -> RunSpec:
        """The untuned run: this sweep without its data and search."""
        return RunSpec.model_validate({k: v for k, v in self.model_dump().items() if k in RunSpec.model_fields})

    @property
    def sweep_fingerprint(self) -> str:
        """Names the question: data, labels, base run, metric and the keys searched.

        How far it is searched is no part of it: trials, ranges, sampler, early stopping, concurrency and resources may
        change between two starts, and the second goes on with what the first did.
        """
        content = renamed_keys.without_later(self.model_dump(mode="json", exclude=_EXTENT))
        return digest({**content, "metric": self.search.metric, "searched": sorted(self.space)})


def digest(content: object) -> str:
    """Sixteen hex digits of any JSON value's canonical text."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
