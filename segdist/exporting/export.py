"""A trained model made ready for export: adapters merged, everything it needs beside it.

An exported folder is a model folder (`model.json`, `weights.safetensors`) that loads where the base weights are not:
those of a network of transformers come along in a folder that its `from_pretrained` takes as well.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segdist import adapters
from segdist.core.errors import ExportError
from segdist.core.plugins import declaration
from segdist.core.spec import AdapterSpec
from segdist.engine import checkpoint
from segdist.engine.checkpoint import Description
from segdist.nets.segmenter import Segmenter
from segdist.nets.weights import RANDOM, WORDS, local_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE = "base"
_COMPANIONS = {*WORDS, "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"}
"""What a network of transformers may need beside its weights; whatever else lies there is not passed on."""


def load_merged(folder: Path, *, trusted: bool = False) -> tuple[Segmenter, Description]:
    """The model of a checkpoint folder without the layers of its adapter: same outputs, plain weights.

    Conv-LoRA cannot be merged, because its updates depend on the input; it stays.

    Args:
        folder: the model folder.
        trusted: see `checkpoint.load`.
    """
    description = checkpoint.describe(folder)
    network = checkpoint.load(folder, trusted=trusted)
    if description.adapter.kind in ("lora", "dora", "qlora"):
        adapters.merge(network)
    stays = description.adapter.kind == "conv_lora"
    return network, replace(description, adapter=description.adapter if stays else AdapterSpec(), frozen_digest="")


def write(network: Segmenter, description: Description, folder: Path, *, base: str = BASE) -> None:
    """Write a model folder that needs nothing else.

    Args:
        network: as `load_merged` gives it.
        description: likewise.
        folder: made where it is not there.
        base: where, inside the folder, a network of transformers goes; "." puts it beside `model.json`.

    Raises:
        ExportError: the family's base weights, which say the network's shape, cannot be written beside it.
    """
    declared = declaration(description.model.family)
    options = description.model.family_options()
    built = declared.options.model_validate(options)
    weights = built.model_dump().get("weights", RANDOM) if declared.shape_in_weights(built) else RANDOM
    if weights != RANDOM and not declared.hub_module:
        raise ExportError(
            f"`{description.model.family}` with pretrained weights cannot be exported: its network cannot be built "
            f"without {weights}. Hand on the model folder of the trial together with these weights."
        )
    state = network.state_dict()
    if declared.hub_module and (weights != RANDOM or base == "."):
        _write_hub(network.get_submodule(declared.hub_module), description, str(weights), folder / base)
    if declared.hub_module and weights != RANDOM:
        prefix = f"{declared.hub_module}."
        own = {name: value for name, value in state.items() if not name.startswith(prefix)}
        from_base = {name: value for name, value in state.items() if name not in own}
        description = replace(description, base=base, frozen_digest=checkpoint.digest_of(from_base))
        state = own
    elif "weights" in declared.options.model_fields:
        # All weights are in the file: nothing is to be looked for where it was trained.
        changed = {description.model.family: {**options, "weights": RANDOM}}
        description = replace(description, model=description.model.model_copy(update=changed))
    checkpoint.write(folder, state, description)


def _write_hub(module: "PreTrainedModel", description: Description, weights: str, folder: Path) -> None:
    """The network of transformers, with the names of the classes, and the small files beside its base weights."""
    names = dict(enumerate(description.classes))
    if len(getattr(module.config, "id2label", {})) == len(names):
        module.config.id2label = names
        module.config.label2id = {name: number for number, name in names.items()}
    module.save_pretrained(folder)
    source = _source(weights)
    if source is None:
        return
    for file in sorted(source.iterdir()):
        if file.name in _COMPANIONS and _is_of(source, file) and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def _is_of(source: Path, file: Path) -> bool:
    """Whether a file lies in the folder, or where the hub's cache keeps what its folders link to."""
    blobs = source.resolve().parent.parent / "blobs"
    return file.resolve().parent in (source.resolve(), blobs)


def _source(weights: str) -> Path | None:
    """Where the base weights lie on this machine; None where they were random or come from another place."""
    folder = local_folder(weights)
    if folder is not None and folder.is_dir():
        return folder
    if weights == RANDOM or "://" in weights:
        return None
    from transformers.utils import cached_file

    try:
        return Path(str(cached_file(weights, "config.json", local_files_only=True))).parent
    except OSError as error:
        raise ExportError(
            f"The files of {weights} on the hub, with which the model was loaded, are gone: {error}"
        ) from error
