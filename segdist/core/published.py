"""Published weights: what families declare of them, where they lie on this machine, and how they come there.

They lie in the cache folder under a path that holds their digests, and get their names there only when they are what
was declared. So what is there may be used without another look.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from segdist.core import downloads, npm, storage
from segdist.core.downloads import Told
from segdist.core.errors import WeightsError
from segdist.core.locks import locked

DOWNLOAD = "SEGDIST_DOWNLOAD_WEIGHTS"
"""The environment variable that, set to 1, lets any command fetch published weights that it needs and that are not
here: for the nodes of a cluster."""
_NPM = "npm:"


@dataclass(frozen=True)
class WeightFile:
    """One published file.

    Attributes:
        name: under which it is kept.
        address: https, or `npm:PACKAGE@VERSION#FILE` for a file of a package of npm.
        size: its bytes.
        sha256: its digest.
    """

    name: str
    address: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that somebody published, of which a family knows what they are.

    Attributes:
        name: what commands and sweep files call them; on a hub, their name there.
        licence: of the weights.
        files: what they are made of; empty where they lie on a hub, whose client keeps them.
        options: of the family, beside the one that names them, for which they are.
        option: of the family that names them.
    """

    name: str
    licence: str
    files: tuple[WeightFile, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    option: str = "weights"

    @property
    def on_hub(self) -> bool:
        """Whether they lie on the Hugging Face hub."""
        return not self.files

    @property
    def size(self) -> int:
        """Bytes of all files; 0 for weights on a hub."""
        return sum(file.size for file in self.files)

    @property
    def origins(self) -> list[str]:
        """The addresses of all files, those in one package as one."""
        return list(dict.fromkeys(_origin(file) for file in self.files)) or [f"huggingface.co/{self.name}"]

    @property
    def place(self) -> Path:
        """Where they belong on this machine: the file, or the folder of several."""
        return self._folder / self.files[0].name if len(self.files) == 1 else self._folder

    @property
    def is_here(self) -> bool:
        """Whether all files are there."""
        return bool(self.files) and not self._missing

    @property
    def how_to_get(self) -> str:
        """The sentence that says how they come here."""
        size = f" ({self.size / 1e6:,.0f} MB)" if self.files else ""
        return f"Get it{size}: segdist weights get {self.name}"

    def check(self) -> None:
        """Looks whether they are here, or may be fetched when they are needed.

        Raises:
            WeightsError: they are not, and may not.
        """
        if not self.is_here and os.environ.get(DOWNLOAD) != "1":
            raise WeightsError(
                f"`{self.option}: {self.name}` must be on this machine, but is not. {self.how_to_get} "
                f"(or set {DOWNLOAD}=1, and it is fetched where it is needed)",
                option=self.option,
            )

    def source(self) -> Path:
        """The file, or the folder of several; fetched first where the environment allows it.

        Raises:
            WeightsError: they are not here, and may not or cannot be fetched.
        """
        self.check()
        return self.fetch()

    def fetch(self, told: Told = lambda _: None) -> Path:
        """The file, or the folder of several, of which what is missing is fetched; one process of the node does.

        Args:
            told: how many bytes of all files are here.

        Raises:
            WeightsError: they cannot be had.
            StorageError: the disk has no room for them.
        """
        if self.is_here:
            return self.place
        with locked(self._folder / self.name):
            for package, files in groupby(self._missing, _package):
                if package:
                    self._from_package(package, list(files))
                    continue
                for file in files:
                    before = self.size - sum(missing.size for missing in self._missing)
                    downloads.fetch(
                        file.address,
                        self._folder / file.name,
                        size=file.size,
                        sha256=file.sha256,
                        told=lambda here, before=before: told(before + here),  # type: ignore[misc]
                    )
        told(self.size)
        return self.place

    @property
    def _folder(self) -> Path:
        digests = hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()
        return storage.weights_dir() / f"{self.name}-{digests[:12]}"

    @property
    def _missing(self) -> list[WeightFile]:
        places = ((file, self._folder / file.name) for file in self.files)
        return [file for file, place in places if not place.is_file() or place.stat().st_size != file.size]

    def _from_package(self, package: str, files: Sequence[WeightFile]) -> None:
        size = sum(file.size for file in files)
        storage.check_space(self._folder, 2 * size, package)  # packed and unpacked
        with npm.packed(package, self._folder, size=size) as archive:
            for file in files:
                part = self._folder / f"{file.name}.part"
                npm.unpack(archive, file.address.partition("#")[2], part, size=file.size)
                downloads.put_in_place(
                    part, self._folder / file.name, size=file.size, sha256=file.sha256, origin=file.address
                )


def named(published: Iterable[PublishedWeights], name: object, *, option: str = "weights") -> PublishedWeights | None:
    """The weights that an option of a family names; None for those on a hub, and for a path or any other name."""
    return next((one for one in published if (one.name, one.option) == (name, option) and one.files), None)


def _package(file: WeightFile) -> str:
    """The package of npm that a file is in; "" for one with an address of its own."""
    return file.address.removeprefix(_NPM).partition("#")[0] if file.address.startswith(_NPM) else ""


def _origin(file: WeightFile) -> str:
    package = _package(file)
    return f"{_NPM}{package}" if package else file.address
