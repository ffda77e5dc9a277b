"""PaliGemma (Beyer et al. 2024) and PaliGemma 2 (Steiner et al. 2024): asked for a class, it writes boxes and masks.

One question a class and image; the answer names every object of the class, and is empty where there is none.
"""

from typing import Self

from pydantic import Field, field_validator, model_validator

from segdist.core import storage
from segdist.core.errors import WeightsError
from segdist.core.plugins import Family, ImageSize, ModelOptions
from segdist.nets.paligemma.locations import Edges
from segdist.nets.paligemma.prompts import LABEL
from segdist.nets.paligemma.published_codec import CODEC
from segdist.nets.weights import RANDOM, Published

PUBLISHED = Published("paligemma", "paligemma", "google/paligemma2-3b-pt-224", parts=("siglip", "gemma"))
SHIPPED = "shipped"
PATCHES = 8
"""Rows and columns of patches of the random network, whatever its image size."""
_LANGUAGE_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

RECIPE: dict[str, object] = {
    "seed": 42,
    "train.adapter.kind": "lora",
    "train.adapter.rank": 8,
    "train.adapter.alpha": 16.0,
    "train.adapter.dropout": 0.05,
    "train.lr": 5e-5,
    "train.batch_size": 16,
    "resources.micro_batch": 2,
    "train.weight_decay": 0.01,
    "train.warmup": 0.03,
}
"""What fine-tuning begins with where a sweep file says nothing else."""


class Options(ModelOptions):
    """Which network, what it is asked, and how its answers are read."""

    weights: str
    """A local folder or URI with config.json, safetensors and the tokenizer, a name on the hub, or random: a small
    untrained network with a tokenizer made from the questions."""
    image_size: ImageSize = 224
    """Longest side in pixels that images are scaled to: what weights were trained with (224, 448 or 896) times
    `tiles`."""
    tiles: int = Field(default=1, gt=0, le=64)
    """Rows and columns of tiles that an image is cut into, in training and prediction; each is asked about alone, and
    pieces of an object that touch at a border are joined. For thin and small objects, which one mask of 64 x 64 over
    the whole box cannot hold."""
    codec: str = SHIPPED
    """What turns masks into tokens and back. shipped: ours, for networks that learn from it. For published weights,
    vae-oid, Google's (`segdist weights get vae-oid`), or the path or URI of that file: they were trained with it."""
    edges: Edges = "round"
    """How the sides of an answer's boxes become whole pixels, into which masks are pasted. round: gives back what was
    trained with. truncate: up to a pixel off, as in big_vision's evaluator: to compare with the figures published for
    PaliGemma, which were measured so."""
    prompt: str = "segment {label}"
    """The question about a class; `{label}` is its name or a synonym."""
    synonyms: dict[str, tuple[str, ...]] = {}
    """Further words for a class, asked for at random in training; the answer names the class."""
    negatives: int = Field(default=1, ge=0, le=1000)
    """Classes that an image does not show, asked for nevertheless in training: the answer is empty. An image that shows
    none of the classes is asked for at least one."""
    max_objects: int = Field(default=20, gt=0, le=1000)
    """Objects of an answer at most; what an image has more is left out of its targets, and counted."""
    grammar: bool = True
    """Let only what an answer can hold follow in decoding: valid boxes, sixteen mask tokens, the class, the end."""

    @property
    def side(self) -> int:
        """Of a tile in pixels: what the network sees."""
        return self.image_size // self.tiles

    @field_validator("prompt")
    @classmethod
    def _asks_for_a_class(cls, prompt: str) -> str:
        if LABEL not in prompt:
            raise ValueError(f"`prompt` must hold {LABEL}, but got {prompt!r}")
        return prompt

    @model_validator(mode="after")
    def _tiles_are_equal(self) -> Self:
        if self.image_size % self.tiles:
            raise ValueError(
                f"`image_size` must be a multiple of `tiles`, but got image_size={self.image_size}, tiles={self.tiles}"
            )
        return self


def check(options: Options) -> None:
    """Looks at the files that `weights` and `codec` name.

    Raises:
        WeightsError: one of them is not there, or holds something else.
    """
    PUBLISHED.check(options.weights)
    if options.codec == CODEC.name:
        CODEC.check()
    elif options.codec != SHIPPED and not storage.exists(options.codec):
        raise WeightsError(
            f"`model.paligemma.codec` must be a file or `{SHIPPED}`, but there is no {options.codec}. Get Google's: "
            f"`segdist weights get {CODEC.name}`, and write `codec: {CODEC.name}`; or train one: segdist paligemma "
            "train-codec.",
            option="codec",
        )


def _places(options: Options) -> tuple[str, ...]:
    known = {"weights": RANDOM, "codec": SHIPPED}
    return tuple(option for option, word in known.items() if getattr(options, option) != word)


FAMILY = Family(
    options=Options,
    debug={"weights": RANDOM, "image_size": 64, "max_objects": 4},
    losses={"text": 1.0},
    encoder=("model.model.vision_tower.",),
    lora_targets=tuple(f"language_model.*.{layer}" for layer in _LANGUAGE_LAYERS),
    lora_trains=(),
    encoder_blocks=("model.model.vision_tower.encoder.layers.*",),
    recipe=RECIPE,
    check=check,
    published=(PUBLISHED.declared(licence="Gemma Terms of Use"), CODEC),
    tasks=("instance", "semantic"),
    sizes={"random": "0.6 M parameters, untrained", "weights": "3, 10 or 28 billion parameters, as published"},
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora", "qlora"),
    packs=True,
    places=_places,
    shape_in_weights=lambda _: True,
    extra="hf",
    licence="code: Apache-2.0 (transformers); Google's weights: Gemma Terms of Use",
)
