"""Where a YOLO data set keeps what: data.yaml, its splits, the label file of each image."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from segdist.core.bounded_yaml import load_written, yaml_bytes
from segdist.core.errors import DataError
from segdist.core.records import ReportFinding, Severity
from segdist.core.text import NotTextError, lines, short
from segdist.reading.codes import finding
from segdist.reading.foreign_paths import known_images
from segdist.reading.listing import SPLITS, Listing, split_of
from segdist.reading.text_files import read_text, text_of

_KEYS = ("train", "val", "test")
_NOTHING = ("", "~", "null", "Null", "NULL")
"""How YAML writes that there is nothing."""


@dataclass(frozen=True)
class Layout:
    """What data.yaml says, matched with the files that are there.

    Attributes:
        file: URI of data.yaml; the folder where there is none.
        names: class name by id, as written.
        images: split by relative path of each image.
    """

    file: str
    names: Mapping[Any, Any]
    images: Mapping[str, str]


def find_layout(files: Listing, names: tuple[str, ...], report: ReportFinding) -> Layout:
    """Read data.yaml and find the images of each split.

    Args:
        files: of the source.
        names: class names given as an option; they win over the file's.
        report: takes findings on paths that do not exist.

    Raises:
        DataError: there is no data.yaml and no names, or it describes key points.
    """
    places = [n for n in files.with_suffix(".yaml", ".yml") if "names" in files.head(n)]
    if len(places) > 1:
        raise DataError(f"{files.root} holds several data.yaml: {', '.join(places)}. Name the folder of one in `path`.")
    content = _content(files, places[0], report) if places else {}
    found = dict(enumerate(names)) or _names(content, files.root) or _classes_txt(files, report)
    if not found:
        raise DataError(
            f"{files.root} names no classes: no data.yaml with `names` and no classes.txt. Set `names` to the list."
        )
    file = files.uri(places[0]) if places else files.root
    images = _from_yaml(files, places[0], content, report) if any(content.get(k) for k in _KEYS) else {}
    return Layout(file, found, images or {name: split_of(name) or "" for name in files.images})


def _content(files: Listing, name: str, report: ReportFinding) -> dict[str, Any]:
    """What data.yaml says, every value as it is written: a class may be called `no` or `1000`."""
    uri = files.uri(name)
    try:
        content = load_written(text_of(yaml_bytes(uri), uri, report), uri)
    except NotTextError as error:
        raise DataError(f"{uri}: {error}. Export it again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{uri} must hold keys like `names` and `train`, but is {type(content).__name__}.")
    if "kpt_shape" in content:
        raise DataError(f"{uri} describes key points (`kpt_shape`), which segmentation cannot use.")
    return {key: value for key, value in content.items() if value not in _NOTHING}


def _names(content: Mapping[str, object], place: str) -> dict[Any, Any]:
    names = content.get("names") or {}
    found = names if isinstance(names, dict) else dict(enumerate(names)) if isinstance(names, list) else {"": names}
    if "" in found or not all(isinstance(name, str) for name in found.values()):
        raise DataError(
            f"`names` of data.yaml below {place} must be a list of names, or names by number: {short(names)}"
        )
    return found


def _classes_txt(files: Listing, report: ReportFinding) -> dict[object, object]:
    places = [n for n in files if PurePosixPath(n).name in ("classes.txt", "obj.names")]
    names = _lines(files, places[0], report) if places else []
    return dict(enumerate(names))


def _lines(files: Listing, name: str, report: ReportFinding) -> list[str]:
    """The lines of a list that are not empty."""
    try:
        text = read_text(files.uri(name), report)
    except NotTextError as error:
        raise DataError(f"{files.uri(name)}: {error}. Write it anew, one entry a line.") from None
    return [line.strip() for line in lines(text) if line.strip()]


def _from_yaml(files: Listing, place: str, content: Mapping[str, Any], report: ReportFinding) -> dict[str, str]:
    found: dict[str, str] = {}
    folder, root = str(PurePosixPath(place).parent), _slashes(content.get("path") or "")
    written = {key: content.get(key) or [] for key in _KEYS}
    entries = [(k, _slashes(e)) for k, own in written.items() for e in ([own] if isinstance(own, str) else own)]
    taken = {_joined(folder, root, entry) for _, entry in entries}
    for key, entry in entries:
        candidates = dict.fromkeys(_candidates(folder, root, entry, taken))
        for image in _entry(files, place, root, key, entry, [*candidates], report):
            found.setdefault(image, SPLITS[key])
    unread = sorted({str(PurePosixPath(n).parent) for n in files.images if n not in found})
    for folder in unread if found else []:
        message = f"data.yaml names no split that holds the images of `{folder}`; they were not read"
        report(finding("folder-unread", message, file=files.uri(folder)))
    return found


def _slashes(path: object) -> str:
    """A path with slashes of this system."""
    return str(path).replace("\\", "/")


def _entry(
    files: Listing, place: str, root: str, key: str, entry: str, candidates: Sequence[str], report: ReportFinding
) -> Iterator[str]:
    """The images of one entry of data.yaml: a folder or a list of files, found as written or by its ending."""
    for candidate in candidates:
        images = [n for n in files.images if n.startswith(candidate + "/") or candidate == "."]
        if candidate != candidates[0]:
            images = [n for n in images if split_of(n) in (None, SPLITS[key])]
        if candidate in files and candidate.endswith(".txt"):
            images = _listed(files, candidate, key, report)
        if images:
            if candidate != candidates[0]:
                written = f"{root}/{entry}" if root else entry
                message = f"`{key}` is written as `{written}`, which is not there; read from `{candidate}`"
                report(finding("split-path-repaired", message, file=files.uri(place)))
            yield from images
            return
    severity = Severity.ERROR if key == "train" else Severity.WARNING
    tried = " or ".join(f"`{one}`" for one in candidates)
    message = f"`{key}: {entry}` names no folder with images: {files.root} has none at {tried}; correct it or remove it"
    report(finding("split-path-missing", message, file=files.uri(place), severity=severity))


def _candidates(folder: str, root: str, entry: str, taken: Set[str]) -> Iterator[str]:
    """Relative folders that an entry may mean: as written, beside data.yaml, and ever shorter endings of it.

    What the endings say of the split stays: of `../valid/images` one is `valid/images`, but not the `images` of all
    splits; nor is it a folder that another entry names. Training images would be taken for those of validation.
    """
    yield _joined(folder, root, entry)
    parts = [part for part in PurePosixPath(entry).parts if part not in ("..", ".", "/")]
    split = _split_of(parts)
    for ending in [PurePosixPath(entry).parts, *(parts[start:] for start in range(len(parts)))]:
        candidate = _joined(folder, "", "/".join(ending))
        if candidate not in taken and _split_of(ending) == split:
            yield candidate


def _split_of(parts: Sequence[str]) -> str | None:
    """The split that a folder, or the name of a list, stands for."""
    return split_of("/".join((*parts, "")).replace(".txt/", "/"))


def _joined(folder: str, root: str, entry: str) -> str:
    """A path relative to the source, with `..` resolved; one that leaves the source keeps its `..`."""
    parts: list[str] = []
    for part in PurePosixPath(folder, root, entry).parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts) or "."


def _listed(files: Listing, name: str, key: str, report: ReportFinding) -> list[str]:
    """The images that a text file lists, one a line; paths of other machines mean what they end in."""
    known, folder = known_images(files), str(PurePosixPath(name).parent)
    found = []
    for line in _lines(files, name, report):
        own = _joined(folder, "", _slashes(line))
        match = known.match(own if own in files else line, split=SPLITS[key], near="" if folder == "." else folder)
        if match.name:
            found.append(match.name)
            continue
        rivals = f"; it may be {' or '.join(match.rivals[:3])}" if match.rivals else ""
        message = f"there is no image `{line}`{rivals}; correct the line or remove it"
        report(finding("image-missing", message, file=files.uri(name), image=line))
    return found
