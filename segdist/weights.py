"""Pretrained weights in the layout of transformers: where they lie, and whether they can be what a family wants.

This module imports no torch: `segdist check` looks at the files before anything is started.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from segdist import storage
from segdist.errors import WeightsError
from segdist.spec import digest

RANDOM = "random"
"""`weights` of a network that is drawn at random and needs no file."""
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_NEEDED = ("config.json", ".safetensors")
T = TypeVar("T")


@dataclass(frozen=True)
class Published:
    """The weights that a family takes: a folder with config.json and safetensors, here, at a URI or on the hub.

    Attributes:
        family: the family's name, for messages.
        model_type: what `model_type` in config.json must say.
        example: the name on the hub of weights that fit.
        also: further values of `model_type` whose weights hold those of this model.
    """

    family: str
    model_type: str
    example: str
    also: tuple[str, ...] = ()

    @property
    def how_to_get(self) -> str:
        """The sentence that says where weights come from."""
        return f"Get some: hf download {self.example} --local-dir FOLDER"

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
        found = self._parsed(weights, lambda content: str(json.loads(content).get("model_type")))
        if found not in (self.model_type, *self.also):
            raise WeightsError(
                f"{weights}/config.json must describe a `{self.model_type}`, but says {found!r}. {self.how_to_get}"
            )

    def source(self, weights: str) -> Path | str:
        """What transformers loads from: a folder of this machine (a URI is fetched), or a name on the hub."""
        self.check(weights)
        if not storage.is_local(weights):
            return _fetched(weights)
        return local_folder(weights) or weights

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

    def _parsed(self, weights: str, parse: Callable[[bytes], T]) -> T:
        folder = local_folder(weights)
        file = storage.join(str(folder) if folder else weights, "config.json")
        try:
            return parse(storage.read_bytes(file))
        except (ValueError, AttributeError) as error:
            raise WeightsError(f"{file} cannot be read: {error}. {self.how_to_get}") from error


def local_folder(weights: str) -> Path | None:
    """The folder that `weights` names, there or not; None for a hub name, another machine's URI and `random`."""
    if weights == RANDOM or not storage.is_local(weights):
        return None
    folder = Path(weights.removeprefix("file://")).expanduser()
    if _HUB_NAME.fullmatch(weights) and not folder.exists() and not folder.parent.is_dir():
        return None
    return folder


def cache_folder() -> Path:
    """This machine's folder for fetched weights and third-party settings; `SEGDIST_CACHE` moves it."""
    chosen: Any = os.environ.get("SEGDIST_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "segdist"


def _fetched(uri: str) -> Path:
    """A local copy of a folder in an object store, kept as long as the original does not change."""
    entries = storage.find(uri)
    folder = cache_folder() / "weights" / digest([[e.uri, e.size, e.stamp] for e in entries])
    path = uri.partition("://")[2].strip("/")  # some stores list more slashes than were asked for
    for entry in entries:
        file = folder / entry.uri.partition(path)[2].strip("/")
        if not file.is_file() or file.stat().st_size != entry.size:
            storage.write_atomic(str(file), storage.read_bytes(entry.uri))
    return folder
