"""What sweeps take along to a cluster: their own files and small ones that they name, and nothing else."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segdist.core import storage
from segdist.core.errors import DataError, SpecError
from segdist.core.spec import SweepSpec
from segdist.core.text import counted
from segdist.sweepfile.composition import ALWAYS, files_of
from segdist.sweepfile.loading import load

MOST_BYTES = 100_000_000
"""More than that belongs into a storage that all nodes see: Ray keeps what jobs bring in the memory of the head."""
_MOST_SHOWN = 3
_OUTSIDE = "sweep_files"
"""Where files are put that do not lie below the folder that all paths begin from."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz")


@dataclass(frozen=True)
class Parcel:
    """What goes.

    Attributes:
        files: paths in the parcel, and where each file is here.
        words: the sweep files and overrides, as a command line that is typed in the parcel's folder.
        names: of the sweeps.
        variables: that the sweep files read (`environment`), with their values, which are no secrets.
    """

    files: Mapping[str, Path]
    words: tuple[str, ...]
    names: tuple[str, ...]
    variables: Mapping[str, str]

    def __str__(self) -> str:
        """How many files of which size, and the largest."""
        sizes = {name: file.stat().st_size for name, file in self.files.items()}
        largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_MOST_SHOWN]
        shown = ", ".join(f"{name} ({_size(sizes[name])})" for name in largest)
        return f"{counted(len(sizes), 'file')}, {_size(sum(sizes.values()))}; the largest: {shown}"

    def write(self, folder: Path) -> None:
        """Copy the files into a folder."""
        for name, file in self.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


def parcel_of(asked: Sequence[tuple[str, Sequence[str]]]) -> Parcel:
    """Collect what sweep files need from here.

    Relative paths of data and weights mean, on the cluster as here, files below the current folder, which go along.

    Args:
        asked: sweep files, each with its overrides.

    Raises:
        SpecError: a sweep file is wrong, or says something that can mean nothing on another machine.
        DataError: what it names is too large to go along.
    """
    files: dict[str, Path] = {}
    words: list[str] = []
    overrides: list[str] = []
    names: list[str] = []
    variables: dict[str, str] = {}
    for number, (file, changes) in enumerate(asked):
        spec, path = load(file, changes), Path(file)
        folder = "" if _is_below(path) else f"{_OUTSIDE}/{number}"
        for one in files_of(path, changes):
            files[_name_of(one, path.parent, folder)] = one
        word = _name_of(path, path.parent, folder)
        words.append(word)
        overrides += changes if len(asked) == 1 else [f"{word}:{change}" for change in changes]
        names.append(spec.name)
        variables |= {name: os.environ[name] for name in spec.environment if name in os.environ and name not in ALWAYS}
        _check_places(spec, file)
        files |= {str(one.relative_to(Path.cwd())): one for place in _named(spec) for one in _below(place)}
    _check_size(files)
    return Parcel(files, (*words, *overrides), tuple(names), variables)


def _check_places(spec: SweepSpec, file: str) -> None:
    """A place that is relative would be in a copy of this folder, which is gone after the job."""
    if storage.is_local(spec.storage) and not Path(spec.storage).expanduser().is_absolute():
        raise SpecError(
            f"{file}: storage must be s3://... or an absolute path that all nodes see, but is {spec.storage}, which is "
            "gone when the job ends."
        )


def _named(spec: SweepSpec) -> Iterator[Path]:
    """Files and folders below the current one that the sweep names by relative paths, annotations with their images."""
    for source in spec.data.sources:
        for value in source.options().values():
            if place := _local(value):
                is_alone = place.is_dir() or place.suffix.lower() in _ARCHIVES
                yield place if is_alone else place.parent
    for value in _texts(spec.model_dump(mode="json", include={"model", "label", "train"})):
        if ("/" in value or "." in value) and (place := _local(value)):
            yield place


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _local(value: object) -> Path | None:
    """What a value names below the current folder; None where it is no relative path of anything that is there."""
    if not isinstance(value, str) or not value or len(value) > 1000 or not storage.is_local(value):
        return None
    path = Path(value)
    if path.is_absolute() or value.startswith("~") or not path.exists() or not _is_below(path):
        return None
    return path.resolve()


def _is_below(path: Path) -> bool:
    return path.resolve().is_relative_to(Path.cwd().resolve())


def _below(place: Path) -> Iterator[Path]:
    """The files of a folder, or the file; nothing hidden, and no link that leads out of the current folder."""
    if place.is_file():
        yield place
        return
    for entry in storage.find(str(place)):
        file = Path(entry.uri)
        inner = file.relative_to(place).parts
        if not any(part.startswith(".") or part == "__pycache__" for part in inner) and _is_below(file):
            yield file


def _name_of(file: Path, beside: Path, folder: str) -> str:
    """Where a file of a sweep is put: its path below the current folder, or below one for what is outside."""
    if not folder:
        return str(file.resolve().relative_to(Path.cwd().resolve()))
    return f"{folder}/{file.resolve().relative_to(beside.resolve())}"


def _check_size(files: Mapping[str, Path]) -> None:
    sizes = {name: file.stat().st_size for name, file in files.items()}
    if (whole := sum(sizes.values())) <= MOST_BYTES:
        return
    folders: dict[str, int] = {}
    for name, size in sizes.items():
        folder = str(Path(name).parent)
        folders[folder] = folders.get(folder, 0) + size
    largest = max(folders, key=lambda folder: folders[folder])
    raise DataError(
        f"At most {_size(MOST_BYTES)} can go along with a job, but the sweeps name {_size(whole)} by relative paths, "
        f"{_size(folders[largest])} of them in {largest}. Put the images where all nodes see them (s3://bucket/..., or "
        "a shared folder), and name that place: s3://..., or an absolute path."
    )


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
