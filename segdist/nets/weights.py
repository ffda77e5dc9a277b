"""Pretrained weights in the layout of transformers: where they lie, and whether they can be what a family wants.

A folder of weights comes from anywhere. transformers is shown the files that hold tensors, shapes and words, and no
others (`Published.shown`), and no key of theirs that names code, another place or a way to compute.

This module imports no torch: `segdist check` looks at the files before anything is started.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segdist.core import extras, storage
from segdist.core.bounded_json import load_json, read_json
from segdist.core.errors import WeightsError
from segdist.core.published import PublishedWeights
from segdist.core.spec import digest

RANDOM = "random"
"""`weights` of a network that is drawn at random and needs no file."""
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_NEEDED = ("config.json", ".safetensors")
_CONFIG, _INDEX, _WORDS = "config.json", "model.safetensors.index.json", "tokenizer_config.json"
_SHARD = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
WORDS = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""The files of tokenizers that are shown as they are; those with keys that matter are written anew."""
_LARGEST = 2**20
"""Of the whole numbers in config.json: widths, lengths and ids of published networks stay below."""
_HUB_SECONDS = 15.0
_NUMBER_TYPES = ("float32", "bfloat16", "float16")
_IGNORED = frozenset(
    {
        "_attn_implementation", "_attn_implementation_internal", "_experts_implementation",
        "_experts_implementation_internal", "_name_or_path", "attn_implementation", "auto_map", "base_model_ep_plan",
        "base_model_pp_plan", "base_model_tp_plan", "custom_pipelines", "distributed_config", "experts_implementation",
        "fusion_config", "kernel_config", "name_or_path", "output_attentions", "output_hidden_states", "return_dict",
        "tokenizer_class", "transformers_weights", "use_kernels",
    }
)  # fmt: skip
"""Keys of config.json that say how to compute, which code to run or where else to look; none of them is a shape."""
_REFUSED = {
    "quantization_config": "weights must not be quantised",
    "backbone": "the backbone must be described in `backbone_config`, not named",
    "use_timm_backbone": "the backbone must be one of transformers",
    "use_pretrained_backbone": "the weights must hold the backbone",
}
"""Keys that change what is loaded, and what is wrong with them."""
_TOKENIZERS = ("CLIPTokenizer", "GemmaTokenizer", "PreTrainedTokenizer", "TokenizersBackend", "")


@dataclass(frozen=True)
class Published:
    """The weights that a family takes: a folder with config.json and safetensors, here, at a URI or on the hub.

    Attributes:
        family: the family's name, for messages.
        model_type: what `model_type` in config.json must say.
        example: the name on the hub of weights that fit.
        also: further values of `model_type` whose weights hold those of this model.
        parts: how values of `model_type` begin that the networks inside may have.
    """

    family: str
    model_type: str
    example: str
    also: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def how_to_get(self) -> str:
        """The sentence that says where weights come from."""
        return f"Get some: segdist weights get {self.example}"

    def declared(self, *, licence: str) -> PublishedWeights:
        """The example as `segdist weights` shows it."""
        return PublishedWeights(self.example, licence)

    def check(self, weights: str) -> None:
        """Looks at the files that `weights` names; a hub name is looked at only when the network is built.

        Raises:
            WeightsError: there is no such folder, or it holds something else.
        """
        if weights == RANDOM or (storage.is_local(weights) and local_folder(weights) is None):
            return
        present = self._files(weights)
        for suffix in _NEEDED:
            if not any(name.endswith(suffix) for name in present):
                raise WeightsError(
                    f"A folder of weights must hold *{suffix}, but {weights} has none. {self.how_to_get}"
                )
        content = load_json(self._config(weights), f"{weights}/{_CONFIG}", error=WeightsError)
        found = content.get("model_type") if isinstance(content, dict) else None
        if found not in (self.model_type, *self.also):
            raise WeightsError(
                f"{weights}/config.json must describe a `{self.model_type}`, but says {found!r}. {self.how_to_get}"
            )

    def source(self, weights: str) -> Path:
        """The folder on this machine that holds the weights; from a URI or the hub they are fetched.

        Raises:
            WeightsError: they are not there, or something else is.
        """
        self.check(weights)
        if not storage.is_local(weights):
            return _fetched(weights)
        folder = local_folder(weights)
        if folder is None:
            folder = from_hub(weights)
            self.check(str(folder))
        return folder

    @contextmanager
    def shown(self, weights: str) -> Iterator[Path]:
        """A folder with what transformers may see of the weights; gone afterwards.

        Raises:
            WeightsError: they are not there, or a file says what it must not; the file and the key are named.
        """
        source = self.source(weights)
        with TemporaryDirectory(prefix="segdist-") as scratch:
            shown = Path(scratch)
            for file in sorted(source.iterdir()):
                if _SHARD.fullmatch(file.name) or file.name in WORDS:
                    (shown / file.name).symlink_to(file.resolve())
            _copy(source / _CONFIG, shown, self._checked_config)
            _copy(source / _INDEX, shown, _checked_index)
            _copy(source / _WORDS, shown, _checked_words)
            yield shown

    def _checked_config(self, content: Mapping[str, object], file: Path) -> dict[str, object]:
        checked: dict[str, object] = _plain(content, file, "", (self.model_type, *self.also, *self.parts))
        return checked

    def _files(self, weights: str) -> list[str]:
        folder = local_folder(weights)
        if folder is not None and not folder.is_dir():
            raise WeightsError(
                f"`model.{self.family}.weights` must be a folder, a URI, a hub name like {self.example}, or {RANDOM}, "
                f"but there is no folder {weights}. {self.how_to_get}"
            )
        if folder is not None:
            return [file.name for file in folder.iterdir()]
        return [entry.uri.rpartition("/")[2] for entry in storage.find(weights)]

    def _config(self, weights: str) -> bytes:
        folder = local_folder(weights)
        return storage.read_bytes(storage.join(str(folder) if folder else weights, _CONFIG))


def local_folder(weights: str) -> Path | None:
    """The folder that `weights` names, there or not; None for a hub name, another machine's URI and `random`."""
    if weights == RANDOM or not storage.is_local(weights):
        return None
    folder = Path(weights.removeprefix("file://")).expanduser()
    if _HUB_NAME.fullmatch(weights) and not folder.exists() and not folder.parent.is_dir():
        return None
    return folder


def is_hub_copy_here(name: str) -> bool:
    """Whether the hub client's cache holds the weights of a repository."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError:
        return False
    try:
        folder = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return False
    parts = [file.name for file in folder.iterdir() if _SHARD.fullmatch(file.name)]
    wanted = max((int(part.partition("-of-")[2][:5] or 1) for part in parts), default=1)
    return (folder / _CONFIG).is_file() and len(parts) >= wanted


def bytes_on_hub(name: str) -> int:
    """What a repository on the hub would bring; 0 where the hub does not say."""
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        return 0
    try:
        files = huggingface_hub.HfApi().model_info(name, files_metadata=True, timeout=_HUB_SECONDS).siblings or []
    except hub_errors():
        return 0
    return sum(file.size or 0 for file in files if _is_needed(file.rfilename))


def hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises where the hub is not reached, has no such name or refuses."""
    from huggingface_hub.errors import HTTPError  # of the library that asks: one after the other, by its version

    return (OSError, HTTPError, ValueError, RuntimeError)


def _fetched(uri: str) -> Path:
    """A local copy of a folder in an object store, kept as long as the original does not change."""
    entries = [entry for entry in storage.find(uri) if _is_needed(entry.uri.rpartition("/")[2])]
    folder = storage.weights_dir() / digest([[e.uri, e.size, e.stamp] for e in entries])
    for entry in entries:
        file = folder / entry.uri.rpartition("/")[2]
        if not file.is_file() or file.stat().st_size != entry.size:
            storage.write_atomic(str(file), storage.read_bytes(entry.uri))
    return folder


def from_hub(name: str) -> Path:
    """A local copy of a repository on the hub, kept in the hub client's own cache; it resumes and verifies.

    Raises:
        WeightsError: it cannot be had.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise WeightsError(extras.needs(f"The hub's {name}", "huggingface_hub")) from error
    patterns = [_CONFIG, _INDEX, _WORDS, *WORDS, "model.safetensors", "model-*-of-*.safetensors"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except hub_errors() as error:
        raise WeightsError(
            f"The weights {name}, neither a folder here nor a reachable name on the hub, cannot be had: "
            f"{str(error).splitlines()[0]}. Get them where there is a network: hf download {name} --local-dir FOLDER"
        ) from error


def _is_needed(name: str) -> bool:
    return name in (_CONFIG, _INDEX, _WORDS, *WORDS) or bool(_SHARD.fullmatch(name))


def _copy(file: Path, folder: Path, checked: Callable[[Mapping[str, object], Path], Mapping[str, object]]) -> None:
    """Write a JSON file anew with what is left of it; nothing happens where there is none."""
    if not file.is_file():
        return
    content = read_json(str(file), error=WeightsError)
    if not isinstance(content, dict):
        raise WeightsError(f"{file} must hold an object, but holds {type(content).__name__}")
    (folder / file.name).write_text(json.dumps(checked(content, file)))


def _plain(value: object, file: Path, key: str, types: tuple[str, ...]) -> Any:
    """A value of config.json without the keys that are ignored.

    Raises:
        WeightsError: a key says what no shape of a network says, or a number is out of bounds.
    """
    if isinstance(value, dict):
        kept = {name: inner for name, inner in value.items() if name not in _IGNORED}
        for name, inner in kept.items():
            _check_key(f"{key}.{name}".lstrip("."), name, inner, file, types)
        return {name: _plain(inner, file, f"{key}.{name}".lstrip("."), types) for name, inner in kept.items()}
    if isinstance(value, list):
        return [_plain(inner, file, f"{key}.{number}", types) for number, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise WeightsError(f"{file}: `{key}` must be finite, but is {value}")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise WeightsError(f"{file}: `{key}` must be at most {_LARGEST:,}, but is {str(value)[:40]}")
    return value


def _check_key(key: str, name: str, value: object, file: Path, types: tuple[str, ...]) -> None:
    if name in _REFUSED and value:
        raise WeightsError(f"{file}: {_REFUSED[name]}, but `{key}` is {str(value)[:80]}")
    if name in ("dtype", "torch_dtype") and value is not None and value not in _NUMBER_TYPES:
        raise WeightsError(f"{file}: `{key}` must be one of {', '.join(_NUMBER_TYPES)}, but is {str(value)[:80]}")
    if name == "model_type" and value is not None and not (isinstance(value, str) and value.startswith(types)):
        raise WeightsError(f"{file}: `{key}` must begin with one of {', '.join(types)}, but is {str(value)[:80]}")


def _checked_index(content: Mapping[str, object], file: Path) -> Mapping[str, object]:
    """The index of tensors in several files, which must lie beside it."""
    names = content.get("weight_map")
    for name in names.values() if isinstance(names, dict) else [names]:
        if not isinstance(name, str) or not _SHARD.fullmatch(name) or not (file.parent / name).is_file():
            raise WeightsError(
                f"{file}: `weight_map` must name files like model-00001-of-00002.safetensors beside it, but names "
                f"{str(name)[:80]}"
            )
    return content


def _checked_words(content: Mapping[str, object], file: Path) -> dict[str, object]:
    """The tokenizer's configuration: one of the tokenizers that read a table, and no code."""
    kind = content.get("tokenizer_class") or ""
    if not isinstance(kind, str) or kind.removesuffix("Fast") not in _TOKENIZERS:
        known = ", ".join(name for name in _TOKENIZERS if name)
        raise WeightsError(f"{file}: `tokenizer_class` must be one of {known}, but is {str(kind)[:80]}")
    return {key: value for key, value in content.items() if key not in ("auto_map", "name_or_path", "chat_template")}
