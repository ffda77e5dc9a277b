"""Archives as sources: unpacked once on each node that reads them; nothing in them reaches out of their folder.

`photos.zip` names the whole archive, `photos.zip!/train` a folder or file inside; local or in an object store.
"""

import hashlib
import json
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from segdist import storage
from segdist.data.cache import locked
from segdist.data.listing import SPLITS
from segdist.errors import DataError
from segdist.spec import digest

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
INSIDE = "!/"
"""Between an archive and what is meant inside it."""
MOST_MEMBERS = 5_000_000
MOST_RATIO = 200
"""Unpacked bytes for each packed one: images and labels stay far below, bombs begin far above."""
ALWAYS_ALLOWED = 1 << 28
"""Bytes that an archive may unpack to whatever its ratio."""
_CHUNK = 1 << 20
_BOOKKEEPING = ("__MACOSX", "._")
_MEANINGFUL = {*SPLITS, "images", "labels", "masks", "annotations", "data"}
"""Folders whose name says something: not stepped into."""


@dataclass(frozen=True)
class _Member:
    """One regular file of an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def is_archive(place: str) -> bool:
    """Whether a path or URI names an archive, or something inside one."""
    return split_place(place)[0].lower().endswith(SUFFIXES)


def split_place(place: str) -> tuple[str, str]:
    """The archive and the path inside; ("a.zip", "train") for `a.zip!/train`."""
    archive, _, inside = place.partition(INSIDE)
    return archive.rstrip("/"), inside


def entry(place: str) -> storage.Entry:
    """Size and stamp of an archive, without reading it.

    Raises:
        DataError: there is none.
    """
    uri = storage.absolute(split_place(place)[0])
    found = [e for e in storage.find(uri) if e.uri == uri]
    if not found:
        raise DataError(f"There is no archive {uri}. Check the path.")
    return found[0]


def unpacked(place: str) -> str:
    """The local folder (or file) that a place in an archive unpacks to; done by the first process that asks.

    A single folder that wraps everything is stepped into, because tools add it or not at will.

    Raises:
        DataError: there is no such archive, it is damaged, or a member must not be unpacked.
    """
    archive, inside = split_place(place)
    found = entry(archive)
    key = digest([found.uri, found.size, found.stamp])
    folder = storage.cache_dir() / "archives"
    with locked(folder / key):
        note = folder / f"{key}.json"
        content = json.loads(note.read_text()) if note.exists() else ""
        if not content or not (folder / content).is_dir():
            content = _unpack(found, folder)
            storage.write_json(str(note), content)
    root = _stepped_into(folder / content)
    if not (root / inside).exists():
        raise DataError(f"{archive} holds no `{inside}`. It holds: {', '.join(sorted(p.name for p in root.iterdir()))}")
    return str(root / inside).rstrip("/")


def _unpack(found: storage.Entry, folder: Path) -> str:
    """Copy, hash and unpack an archive into the folder that its content names; gives that name."""
    part = folder / f".{uuid.uuid4().hex}.part"
    part.mkdir(parents=True)
    try:
        local = part / "archive"
        sha256 = _fetch(found.uri, local)
        target = folder / sha256[:32]
        if not target.exists():  # the same archive may lie in two places
            _extract(local, found, part / "files")
            (part / "files").replace(target)
        return target.name
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError) as error:
        message = f"The archive {found.uri} cannot be unpacked: {error}. Pack it again"
        raise DataError(f"{message}, or set SEGDIST_CACHE to a folder with free space.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fetch(uri: str, local: Path) -> str:
    """Bring an archive here and give its SHA-256; one on this machine is linked to instead of copied."""
    if storage.is_local(uri):
        local.symlink_to(uri)
    else:
        storage.download(uri, local)
    with local.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _extract(local: Path, found: storage.Entry, target: Path) -> None:
    target.mkdir()
    limit = max(found.size * MOST_RATIO, ALWAYS_ALLOWED)
    written, seen = 0, set()
    with _members(local, found.uri) as members:
        for number, member in enumerate(members):
            path = _inside(member.name, found.uri)
            if path.parts[0] == _BOOKKEEPING[0] or path.name.startswith(_BOOKKEEPING[1]):
                continue  # resource forks that macOS packs beside every file: no data, but they look like images
            if path in seen:
                _refuse(found.uri, member.name, "stands twice; which one is meant is unknown")
            if number >= MOST_MEMBERS:
                _refuse(found.uri, member.name, f"comes after {MOST_MEMBERS:,} others, the most that are unpacked")
            seen.add(path)
            written += _copy(member, target / path, limit - written, found.uri)


def _copy(member: _Member, file: Path, limit: int, uri: str) -> int:
    """Unpack one member; counts what comes out, because the size that an archive states may be a lie."""
    stream = member.open()
    assert stream is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with stream, file.open("xb") as out:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > limit:
                _refuse(uri, member.name, f"makes it more than {MOST_RATIO} times as large as packed: a bomb")
            out.write(chunk)
    return written


@contextmanager
def _members(local: Path, uri: str) -> Iterator[Iterator[_Member]]:
    """The regular files of an archive; anything else but folders is refused."""
    if uri.lower().endswith(".zip"):
        with zipfile.ZipFile(local) as packed:
            yield _zip_members(packed, uri)
    else:
        with tarfile.open(local) as bundle:
            yield _tar_members(bundle, uri)


def _zip_members(packed: zipfile.ZipFile, uri: str) -> Iterator[_Member]:
    for info in packed.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            continue
        if kind not in (0, stat.S_IFREG):
            _refuse(uri, info.filename, "is a link or a device")
        if info.flag_bits & 1:
            _refuse(uri, info.filename, "is encrypted")
        yield _Member(info.filename, info.file_size, lambda info=info: packed.open(info))  # type: ignore[misc]


def _tar_members(bundle: tarfile.TarFile, uri: str) -> Iterator[_Member]:
    for info in bundle:
        if info.isdir():
            continue
        if not info.isreg():
            _refuse(uri, info.name, "is a link or a device")
        yield _Member(info.name, info.size, lambda info=info: bundle.extractfile(info))  # type: ignore[misc]


def _inside(name: str, uri: str) -> PurePosixPath:
    """A member's path, once it is certain that it stays in the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    has_drive = name[1:2] == ":"
    if path.is_absolute() or has_drive or not path.parts or ".." in path.parts or "\x00" in name:
        _refuse(uri, name, "would be written outside of the folder that it is unpacked into")
    return path


def _refuse(uri: str, member: str, why: str) -> NoReturn:
    raise DataError(f"The archive {uri} must hold plain files only, but its member `{member}` {why}. Pack it again.")


def _stepped_into(folder: Path) -> Path:
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    wraps = len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() not in _MEANINGFUL
    return inside[0] if wraps else folder
