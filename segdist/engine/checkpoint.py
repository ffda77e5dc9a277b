"""Models on disk: what was trained, beside the description that rebuilds the rest.

A model folder holds `model.json` (family, options, adapter, classes, seed) and `weights.safetensors`. What was frozen
and is large stays where it came from, and `model.json` names the place. A folder from elsewhere must not: it is loaded
with what lies inside it, what comes with the package, and published weights by the name under which the package knows
every byte of them (on each machine they are fetched once); it reads nothing else unless its user vouches for it.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from weakref import WeakKeyDictionary

import torch
from pydantic import Field, TypeAdapter
from safetensors.torch import save_file
from torch import nn

from segdist import adapters
from segdist.core import registry, storage
from segdist.core.bounded_json import read_json
from segdist.core.errors import SpecError, StorageError, WeightsError
from segdist.core.json_values import JsonDict
from segdist.core.plugins import declaration
from segdist.core.published import PublishedWeights, named
from segdist.core.spec import AdapterSpec, EvaluateSpec, ModelSpec, RunSpec, Seed
from segdist.engine.divided import mine, whole
from segdist.nets import network_size, state_dicts
from segdist.nets.segmenter import Segmenter
from segdist.nets.weights import RANDOM

DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"
SCHEMA = 1
SELF_CONTAINED_BYTES = 64 * 2**20
"""Frozen weights up to this size are saved along; larger ones are named by their digest and come from their source."""
TRUSTED = "SEGDIST_TRUSTED_MODELS"
"""The environment variable with folders or URIs, separated by commas, in which models may name places outside."""
_BASE = re.compile(r"\.|\w[\w-]*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9][\w.-]{0,99}( [\w.!+-]{1,99})?", re.ASCII)
"""Name and version of a distribution, such as `tiny-segmenter 0.1`."""
_MOST_CLASSES = 10_000
_DIGESTS: WeakKeyDictionary[nn.Module, tuple[tuple[tuple[str, int, int], ...], str]] = WeakKeyDictionary()
"""Of the frozen weights of a network, with where they lay and how often they had been written to."""
_SEED, _TEXT = TypeAdapter(Seed), TypeAdapter(Annotated[str, Field(max_length=64, strict=True)])
_CLASSES = TypeAdapter(
    Annotated[tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...], Field(max_length=_MOST_CLASSES)]
)


@dataclass(frozen=True)
class Description:
    """What `model.json` says: enough to build the model again."""

    model: ModelSpec
    adapter: AdapterSpec
    classes: tuple[str, ...]
    evaluate: EvaluateSpec
    """How it was scored, and so how it predicts."""
    frozen_digest: str
    """Digest of the frozen weights that are not in the checkpoint; "" where it holds everything."""
    seed: int = 0
    """What the weights that no file gives were drawn with; large frozen ones are drawn again."""
    base: str = ""
    """The folder beside `model.json` that the base weights are loaded from; "" where their source has them."""

    def to_json(self) -> JsonDict:
        """The content of `model.json`."""
        options = {"family": self.model.family, self.model.family: self.model.family_options()}
        return {
            "schema_version": SCHEMA,
            "model": options,
            "adapter": self.adapter.model_dump(mode="json"),
            "classes": list(self.classes),
            "evaluate": self.evaluate.model_dump(mode="json"),
            "frozen_digest": self.frozen_digest,
            "seed": self.seed,
            **({"base": self.base} if self.base else {}),
            **({"distribution": self._distribution()} if self._distribution() else {}),
        }

    def _distribution(self) -> str:
        """Name and version of the distribution that the family comes from; "" for ours."""
        return " ".join(registry.distribution("models", self.model.family)).strip()

    def places(self) -> dict[str, str]:
        """What lies neither in the folder nor in the package but is needed to build the model, by its option."""
        declared = declaration(self.model.family)
        options = declared.options.model_validate(self.model.family_options())
        inside = {"weights"} if self.base else set()
        return {name: str(getattr(options, name)) for name in declared.places(options) if name not in inside}

    def published(self) -> dict[str, PublishedWeights]:
        """Those of the places that are published weights: the package knows every byte of them."""
        declared = declaration(self.model.family)
        known = {option: named(declared.published, name, option=option) for option, name in self.places().items()}
        return {option: weights for option, weights in known.items() if weights}


def build(
    model: ModelSpec, classes: tuple[str, ...], *, adapter: AdapterSpec | None = None, seed: int = 0
) -> Segmenter:
    """A model of a family with its base weights, and the adapter (if any) in place."""
    declared = declaration(model.family)
    options = declared.options.model_validate(model.family_options())
    torch.manual_seed(seed)
    network: Segmenter = registry.load_network(model.family).build(options, classes)
    if adapter is not None:
        adapters.apply(network, declared, adapter)
    return network


Content = tuple[dict[str, torch.Tensor], Description]
"""What the two files of a model folder hold: tensors on the CPU, which may be the network's own; the description."""


def content(
    network: Segmenter, run: RunSpec, classes: tuple[str, ...], *, trained: Collection[str] | None = None
) -> Content:
    """A model as its folder holds it; of a network that is divided over workers all of them must ask.

    Args:
        network: built from `run`.
        run: what was trained.
        classes: class names in order.
        trained: names of the parameters trained in any phase; by default those that require a gradient now.
    """
    state = network.state_dict()
    trained = adapters.trained_names(network) if trained is None else trained
    moves = {*trained, *(name for name, _ in network.named_buffers())}
    frozen = {k: v for k, v in state.items() if k not in moves}
    # Weights of four bits are made anew from the base: torch cannot load them into a layer.
    keeps_all = run.train.adapter.kind != "qlora" and sum(v.nbytes for v in frozen.values()) <= SELF_CONTAINED_BYTES
    kept = state if keeps_all else {k: v for k, v in state.items() if k not in frozen}
    model, frozen_digest = _as_built(run.model, network), "" if keeps_all else _digest_once(network, frozen)
    on_cpu = {name: whole(value.detach()).cpu() for name, value in kept.items()}
    return on_cpu, Description(model, run.train.adapter, classes, run.evaluate, frozen_digest, run.seed)


def save(
    network: Segmenter, folder: Path, run: RunSpec, classes: tuple[str, ...], *, trained: Collection[str] | None = None
) -> None:
    """Write `model.json` and `weights.safetensors` into a folder, which is made where it is not there."""
    write(folder, *content(network, run, classes, trained=trained))


def upload(place: str, state: Mapping[str, torch.Tensor], description: Description) -> None:
    """Write a model into a folder or `s3://` prefix; where its `model.json` is, all of it is."""
    with TemporaryDirectory(prefix="segdist-") as scratch:
        write(Path(scratch), state, description)
        for name in (WEIGHTS, DESCRIPTION):
            storage.upload(Path(scratch) / name, storage.join(place, name))


@contextmanager
def fetched(place: str) -> Iterator[Path]:
    """A model folder on this machine, wherever it lies; a copy is gone afterwards.

    Raises:
        WeightsError: there is no model.
    """
    if Path(place).is_dir():
        yield Path(place)
        return
    with TemporaryDirectory(prefix="segdist-") as scratch:
        folder = Path(scratch)
        try:
            for name in (WEIGHTS, DESCRIPTION):
                storage.download(storage.join(place, name), folder / name)
            if base := _content(folder)["base"]:
                _download_folder(place if base == "." else storage.join(place, base), folder / base)
        except StorageError as error:
            raise WeightsError(f"{place} must be a folder or URI of a segdist model: {error}") from error
        yield folder


def _download_folder(place: str, folder: Path) -> None:
    """The files of a folder, without those in folders inside it."""
    folder.mkdir(exist_ok=True)
    for entry in storage.find(place):
        below = entry.uri.partition(place.partition("://")[2].strip("/"))[2].strip("/")
        if "/" not in below and not (folder / below).exists():
            storage.download(entry.uri, folder / below)


def files(folder: Path) -> dict[str, Path]:
    """The files that a model folder is made of, by their names in it.

    Raises:
        WeightsError: it is no model folder, or an unfinished one.
    """
    base = _description(folder)["base"]
    beside = sorted((folder / base).iterdir()) if base else []
    found = [folder / DESCRIPTION, _weights_in(folder), *(file for file in beside if file.is_file())]
    return {str(file.relative_to(folder)): file for file in found}


def init_from(network: Segmenter, place: str, model: ModelSpec, classes: tuple[str, ...]) -> None:
    """Put the weights of another training into a model, in place.

    Raises:
        WeightsError: they are not there, or of another family or other classes, or do not fit.
    """
    with fetched(place) as folder:
        other = describe(folder)
        if (other.model.family, other.classes) != (model.family, classes):
            raise WeightsError(
                f"`train.init_from` must name a model of family {model.family} with classes {', '.join(classes)}, but "
                f"{place} is of {other.model.family} with {', '.join(other.classes)}"
            )
        restore(network, folder, frozen_digest=other.frozen_digest)


def _as_built(model: ModelSpec, network: Segmenter) -> ModelSpec:
    """The model with the options that its network settled, such as the size that weights brought."""
    return model.model_copy(update={model.family: network.options.model_dump(mode="json", exclude_unset=True)})


def write(folder: Path, state: Mapping[str, torch.Tensor], description: Description) -> None:
    """A model folder from what its two files hold."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(description.to_json(), indent=1))


def redescribe(folder: Path, evaluate: EvaluateSpec) -> None:
    """Change how a model folder's model predicts."""
    changed = replace(describe(folder), evaluate=evaluate)
    (folder / DESCRIPTION).write_text(json.dumps(changed.to_json(), indent=1))


def describe(folder: Path) -> Description:
    """What a checkpoint folder holds.

    Raises:
        WeightsError: it is not a checkpoint, its description is damaged, or the family is not installed.
    """
    content = _description(folder)
    try:
        model = ModelSpec.model_validate(content["model"])
        _check_installed(folder, model.family, content.get("distribution"))
        described = Description(
            _based(model, folder, content["base"]),
            AdapterSpec.model_validate(content["adapter"]),
            _CLASSES.validate_python(content["classes"]),
            EvaluateSpec.model_validate(content["evaluate"]),
            _TEXT.validate_python(content["frozen_digest"]),
            _SEED.validate_python(content.get("seed", 0)),  # not in the first models' descriptions
            content["base"],
        )
        declaration(described.model.family).options.model_validate(described.model.family_options())
    except (ValueError, KeyError, TypeError, SpecError) as error:
        raise WeightsError(f"{folder / DESCRIPTION} is damaged ({_said(error)}). Use another checkpoint.") from error
    if len(set(described.classes)) < len(described.classes):
        raise WeightsError(f"{folder / DESCRIPTION} is damaged (two classes have one name). Use another checkpoint.")
    return described


def _check_installed(folder: Path, family: str, distribution: object) -> None:
    """Make sure that the family can be imported, where a plug-in brings it.

    Raises:
        WeightsError: it is not there, or cannot be used.
    """
    if isinstance(distribution, str) and _DISTRIBUTION.fullmatch(distribution):
        try:
            declaration(family)
        except SpecError as error:
            raise WeightsError(
                f"{folder / DESCRIPTION} is of the model family `{family}`, which came from the distribution "
                f"{distribution} where it was trained. If you trust that, install it here: {error}"
            ) from error


def _description(folder: Path) -> JsonDict:
    """The content of `model.json`, whose `base` is the name of a folder beside it, or "".

    Raises:
        WeightsError: there is none, it is no JSON, of a later version, or names another place.
    """
    content = _content(folder)
    if content["base"] and not (folder / content["base"]).is_dir():
        raise _no_base(folder, content["base"])
    return content


def _no_base(folder: Path, base: object) -> WeightsError:
    return WeightsError(
        f"{folder / DESCRIPTION}: `base` must be the name of a folder beside it, but is {str(base)[:80]!r}"
    )


def _content(folder: Path) -> JsonDict:
    file = folder / DESCRIPTION
    if not file.is_file():
        raise WeightsError(f"{folder} is not a segdist model: it has no {DESCRIPTION}")
    content = read_json(str(file), error=WeightsError)
    if not isinstance(content, dict):
        raise WeightsError(f"{file} is damaged (it holds {type(content).__name__}). Use another checkpoint.")
    if content.get("schema_version", SCHEMA) != SCHEMA:
        raise WeightsError(
            f"{file} must have `schema_version` {SCHEMA}, but has {str(content['schema_version'])[:40]}: "
            "another version of segdist wrote it"
        )
    base = content.setdefault("base", "")
    if base != "" and not (isinstance(base, str) and _BASE.fullmatch(base)):
        raise _no_base(folder, base)
    return content


def _based(model: ModelSpec, folder: Path, base: str) -> ModelSpec:
    """The model with its base weights in its own folder, where it brings them along."""
    if not base:
        return model
    options = {**model.family_options(), "weights": str((folder / base).absolute())}
    return model.model_copy(update={model.family: options})


def load(folder: Path, *, trusted: bool = False, device: torch.device | str = "cpu") -> Segmenter:
    """The model of a checkpoint folder, ready to predict.

    Args:
        folder: the model folder.
        trusted: whether it may name files, URIs and hubs outside itself: one that this user's segdist wrote may.
        device: where it goes.

    Raises:
        WeightsError: files are missing or damaged, the frozen base weights are not those it was trained on, or a
            folder that is not trusted names anything outside itself.
    """
    description = _self_contained(describe(folder))
    if not trusted:
        _check_closed(folder, description)
    seed, adapter = description.seed, description.adapter
    beside = sum(weights.size for weights in description.published().values())
    with _bounded(folder, beside=beside, trusted=trusted):
        network = build(description.model, description.classes, adapter=adapter, seed=seed)
    restore(network, folder, frozen_digest=description.frozen_digest)
    if not trusted:
        state_dicts.check(network.state_dict(), str(folder))
    return network.to(device).eval()


def check_closed(folder: Path) -> None:
    """Make sure that a model folder from elsewhere can be loaded as it is.

    Raises:
        WeightsError: it names something outside itself.
    """
    _check_closed(folder, _self_contained(describe(folder)))


def _self_contained(description: Description) -> Description:
    """The same without base weights, where the folder holds all tensors and the options say their shapes."""
    declared = declaration(description.model.family)
    named = description.places()
    built = declared.options.model_validate(description.model.family_options())
    if description.frozen_digest or declared.shape_in_weights(built) or "weights" not in named:
        return description
    options = {**description.model.family_options(), "weights": RANDOM}
    model = description.model.model_copy(update={description.model.family: options})
    return replace(description, model=model)


def _check_closed(folder: Path, description: Description) -> None:
    known = description.published()
    outside = [f"`{option}: {place[:100]}`" for option, place in description.places().items() if option not in known]
    root = folder.resolve()
    outside += [f"the link `{name}`" for name, file in files(folder).items() if not file.resolve().is_relative_to(root)]
    if outside:
        raise WeightsError(
            f"A model folder from elsewhere must hold all that it needs, but {folder} names {', '.join(outside)}: "
            "nothing of it was read. Ask for the folder that `segdist export` writes where it was trained, or, if you "
            f"trust what it names, run the command again with {TRUSTED}={folder}"
        )


@contextmanager
def _bounded(folder: Path, *, beside: int, trusted: bool) -> Iterator[None]:
    """What is built from a folder that is not trusted has no more values than its files, and the bytes beside, hold."""
    if trusted:
        yield
        return
    held = sum(file.stat().st_size for file in files(folder).values() if file.suffix == ".safetensors")
    with network_size.at_most(held + beside, described=str(folder / DESCRIPTION)):
        try:
            yield
        except (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
            raise WeightsError(
                f"{folder / DESCRIPTION} must describe a network that can be built, but: {_said(error)}"
            ) from error


def restore(network: Segmenter, folder: Path, *, frozen_digest: str = "") -> None:
    """Put the weights of a checkpoint folder into a model of the same architecture."""
    file = _weights_in(folder)
    state = state_dicts.safe(file)
    own = network.state_dict()
    frozen = {k: v for k, v in own.items() if k not in state}
    unknown = [k for k, v in state.items() if k not in own or not state_dicts.fits(v, own[k])]
    if unknown or (frozen and _digest_once(network, frozen) != frozen_digest):
        names = ", ".join((*unknown, *frozen)[:3])
        raise WeightsError(
            f"{file} does not fit the model it describes ({names}, ...): "
            "the base weights or the family's code are not those it was trained with."
        )
    network.load_state_dict(state, strict=False)


def _weights_in(folder: Path) -> Path:
    file = folder / WEIGHTS
    if not file.is_file():
        raise WeightsError(f"The checkpoint {folder} has no {WEIGHTS}; it was not finished. Use another one.")
    return file


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _digest_once(network: nn.Module, frozen: Mapping[str, torch.Tensor]) -> str:
    """`digest_of` a network's frozen weights, computed anew only when one of them was replaced or written to."""
    now = tuple((name, mine(value).data_ptr(), value._version) for name, value in sorted(frozen.items()))
    known = _DIGESTS.get(network)
    if known is None or known[0] != now:
        known = _DIGESTS[network] = now, digest_of(frozen)
    return known[1]


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """Sixteen hex digits of tensors' names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(whole(state[name].detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
