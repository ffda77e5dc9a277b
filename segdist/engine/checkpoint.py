"""Models on disk: what was trained, beside the description that rebuilds the rest.

A model folder holds `model.json` (family, options, adapter, classes, seed) and `weights.safetensors`.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from segdist import adapters, registry, storage
from segdist.errors import StorageError, WeightsError
from segdist.plugins import Family
from segdist.spec import AdapterSpec, EvaluateSpec, ModelSpec, RunSpec

DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"
SELF_CONTAINED_BYTES = 64 * 2**20
"""Frozen weights up to this size are saved along; larger ones are named by their digest and come from their source."""


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

    def to_json(self) -> dict[str, Any]:
        """The content of `model.json`."""
        options = {"family": self.model.family, self.model.family: self.model.family_options()}
        return {
            "schema_version": 1,
            "model": options,
            "adapter": self.adapter.model_dump(mode="json"),
            "classes": list(self.classes),
            "evaluate": self.evaluate.model_dump(mode="json"),
            "frozen_digest": self.frozen_digest,
            "seed": self.seed,
            **({"base": self.base} if self.base else {}),
        }


def build(
    model: ModelSpec, classes: tuple[str, ...], *, adapter: AdapterSpec | None = None, seed: int = 0
) -> nn.Module:
    """A model of a family with its base weights, and the adapter (if any) in place."""
    declared = declaration(model.family)
    options = declared.options.model_validate(model.family_options())
    torch.manual_seed(seed)
    network: nn.Module = registry.load_network(model.family).build(options, classes)
    if adapter is not None:
        adapters.apply(network, declared, adapter)
    return network


def declaration(family: str) -> Family:
    """What a family declares."""
    declared: Family = registry.load("models", family).FAMILY
    return declared


def save(
    network: nn.Module, folder: Path, run: RunSpec, classes: tuple[str, ...], *, trained: Collection[str] | None = None
) -> None:
    """Write `model.json` and `weights.safetensors` into a folder.

    Args:
        network: built from `run`.
        folder: made where it is not there.
        run: what was trained.
        classes: class names in order.
        trained: names of the parameters trained in any phase; by default those that require a gradient now.
    """
    state = network.state_dict()
    trained = adapters.trained_names(network) if trained is None else trained
    frozen = {k: v for k, v in state.items() if k not in {*trained, *(name for name, _ in network.named_buffers())}}
    # Weights of four bits are made anew from the base: torch cannot load them into a layer.
    keeps_all = run.train.adapter.kind != "qlora" and sum(v.nbytes for v in frozen.values()) <= SELF_CONTAINED_BYTES
    kept = state if keeps_all else {k: v for k, v in state.items() if k not in frozen}
    _write(folder, kept, run, run.train.adapter, classes, frozen_digest="" if keeps_all else digest_of(frozen))


def upload(
    network: nn.Module, place: str, run: RunSpec, classes: tuple[str, ...], *, trained: Collection[str] | None = None
) -> None:
    """The same into a folder or `s3://` prefix; where its `model.json` is, all of it is."""
    with TemporaryDirectory(prefix="segdist-") as scratch:
        save(network, Path(scratch), run, classes, trained=trained)
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
        try:
            for name in (WEIGHTS, DESCRIPTION):
                storage.download(storage.join(place, name), Path(scratch) / name)
        except StorageError as error:
            raise WeightsError(f"{place} must be a folder or URI of a segdist model: {error}") from error
        yield Path(scratch)


def begin_with(network: nn.Module, place: str, model: ModelSpec, classes: tuple[str, ...]) -> None:
    """Put the weights of another training into a model, in place.

    Raises:
        WeightsError: they are not there, or of another family or other classes, or do not fit.
    """
    with fetched(place) as folder:
        other = describe(folder)
        if (other.model.family, other.classes) != (model.family, classes):
            raise WeightsError(
                f"`train.start` must name a model of family {model.family} with classes {', '.join(classes)}, but "
                f"{place} is of {other.model.family} with {', '.join(other.classes)}"
            )
        restore(network, folder, frozen_digest=other.frozen_digest)


def save_merged(network: nn.Module, folder: Path, run: RunSpec, classes: tuple[str, ...]) -> None:
    """Fold the adapter into the weights, in place, and write a model folder that holds all weights.

    With Conv-LoRA, which cannot be folded, the folder describes the adapter and holds it beside the base.
    """
    adapters.merge(network)
    stays = run.train.adapter.kind == "conv_lora"
    _write(folder, network.state_dict(), run, run.train.adapter if stays else AdapterSpec(), classes, frozen_digest="")


def _write(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    run: RunSpec,
    adapter: AdapterSpec,
    classes: tuple[str, ...],
    *,
    frozen_digest: str,
) -> None:
    write(folder, state, Description(run.model, adapter, classes, run.evaluate, frozen_digest, run.seed))


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
        WeightsError: it is not a checkpoint, or its description is damaged.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        raise WeightsError(f"{folder} is not a segdist model: it has no {DESCRIPTION}")
    try:
        content = json.loads(file.read_text())
        return Description(
            _based(ModelSpec.model_validate(content["model"]), folder, content.get("base", "")),
            AdapterSpec.model_validate(content["adapter"]),
            tuple(content["classes"]),
            EvaluateSpec.model_validate(content["evaluate"]),
            content["frozen_digest"],
            int(content.get("seed", 0)),  # not in the first models' descriptions
            content.get("base", ""),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} is damaged ({error!r}). Use another checkpoint.") from error


def _based(model: ModelSpec, folder: Path, base: str) -> ModelSpec:
    """The model with its base weights in its own folder, where it brings them along."""
    if not base:
        return model
    options = {**model.family_options(), "weights": str((folder / base).absolute())}
    return model.model_copy(update={model.family: options})


def load(folder: Path, *, device: torch.device | str = "cpu") -> nn.Module:
    """The model of a checkpoint folder, ready to predict.

    Raises:
        WeightsError: files are missing or damaged, or the frozen base weights are not those it was trained on.
    """
    description = describe(folder)
    network = build(description.model, description.classes, adapter=description.adapter, seed=description.seed)
    restore(network, folder, frozen_digest=description.frozen_digest)
    return network.to(device).eval()


def restore(network: nn.Module, folder: Path, *, frozen_digest: str = "") -> None:
    """Put the weights of a checkpoint folder into a model built alike."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise WeightsError(f"The checkpoint {folder} has no {WEIGHTS}; it was not finished. Use another one.")
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise WeightsError(f"{file} is damaged ({error}). Use another checkpoint.") from error
    own = network.state_dict()
    frozen = {k: v for k, v in own.items() if k not in state}
    strangers = [k for k, v in state.items() if k not in own or own[k].shape != v.shape]
    if strangers or (frozen and digest_of(frozen) != frozen_digest):
        names = ", ".join((*strangers, *frozen)[:3])
        raise WeightsError(
            f"{file} does not fit the model it describes ({names}, ...): "
            "the base weights or the family's code are not those it was trained with."
        )
    network.load_state_dict(state, strict=False)


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """Sixteen hex digits of tensors' names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
