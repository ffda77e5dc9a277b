"""Archives as sources: unpacked once on each node that reads them; nothing in them reaches out of their folder.

`photos.zip` names the whole archive, `photos.zip!/train` a folder or file inside; local or in an object store.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import shutil
import stat
import struct
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, Self

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.locks import locked
from segdist.core.spec import digest
from segdist.reading.listing import SPLITS

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
INSIDE = "!/"
"""Between an archive and what is meant inside it."""
MOST_MEMBERS = 1_000_000
MOST_RATIO = 200
"""Unpacked bytes for each packed one: images and labels stay far below, bombs begin far above."""
ALWAYS_ALLOWED = 1 << 28
"""Bytes that an archive may unpack to whatever its ratio."""
MEMBERS_ALLOWED = 20_000
"""Files and folders that an archive may hold however small it is."""
BYTES_PER_MEMBER = 16
"""Packed bytes that any more must have each: a file without content takes more."""
_MOST_DIRECTORY = 1 << 29
"""Bytes of a zip's table of contents."""
_MOST_HEADER = 1 << 16
"""Bytes of a header of a tar that goes before a member's own: a long name, or attributes."""
_MOST_DICTIONARY = 1 << 28
"""Bytes that unpacking xz may take; its highest level takes a quarter of that."""
_LONGEST_PART, _LONGEST_NAME = 255, 1000
"""Bytes of a file's name and of its whole path, as file systems have it."""
_CHUNK = 1 << 20
_MOST_NAMED = 20
"""Names that an error lists."""
_BOOKKEEPING = ("__MACOSX", "._")
_MEANINGFUL = {*SPLITS, "images", "labels", "masks", "annotations", "data"}
"""Folders whose name says something: not stepped into."""
_TABLE_ENTRY, _LOCAL_HEADER = b"PK\x01\x02", 30
"""How an entry in a zip's table begins, and the least bytes before a member's content."""
_HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
_DAMAGED = (
    OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, OverflowError, zlib.error, lzma.LZMAError, struct.error,
    ValueError,  # names that are no UTF-8, numbers that are none
    RuntimeError,  # headers before headers without end; whatever the zip module does not know
)  # fmt: skip


@dataclass(frozen=True)
class _Member:
    """One entry of an archive.

    Attributes:
        name: as it is written.
        open: its content; None for a folder.
    """

    name: str
    open: Callable[[], IO[bytes] | None] | None


def is_archive(place: str) -> bool:
    """Whether a path or URI names an archive, or something inside one."""
    archive, _ = split_place(place)
    return archive.lower().endswith(SUFFIXES) and not _is_folder(archive)


def split_place(place: str) -> tuple[str, str]:
    """The archive and the path inside; ("a.zip", "train") for `a.zip!/train`, (place, "") where there is none.

    A folder on this machine may be called `photos!`, `a.zip!` or `a.zip`, and is no archive.
    """
    parts = place.split(INSIDE)
    for count in range(1, len(parts) + 1):
        archive = INSIDE.join(parts[:count]).rstrip("/")
        if archive.lower().endswith(SUFFIXES) and not _is_folder(archive if count == len(parts) else archive + "!"):
            return archive, INSIDE.join(parts[count:])
    return place.rstrip("/"), ""


def _is_folder(place: str) -> bool:
    return storage.is_local(place) and Path(storage.absolute(place)).is_dir()


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
    if ".." in PurePosixPath(inside).parts or not (root / inside).exists():
        held = sorted(path.name for path in root.iterdir())
        more = f" and {len(held) - _MOST_NAMED} more" if len(held) > _MOST_NAMED else ""
        raise DataError(f"{archive} holds no `{inside}`. It holds: {', '.join(held[:_MOST_NAMED])}{more}")
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
    except _DAMAGED as error:
        message = f"The archive {found.uri} cannot be unpacked: {error or type(error).__name__}. Pack it again"
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
    """Unpack every member into a folder; bytes and files are counted as they come: what is stated may be a lie."""
    target.mkdir()
    most_bytes = max(found.size * MOST_RATIO, ALWAYS_ALLOWED)
    most_members = min(max(found.size // BYTES_PER_MEMBER, MEMBERS_ALLOWED), MOST_MEMBERS)
    written, seen, folders = 0, set[str](), set[str]()
    with _members(local, found.uri, most_bytes) as members:
        for number, member in enumerate(members):
            if number + len(folders) >= most_members:
                _refuse(found.uri, member.name, f"comes after {most_members:,} others, the most that are unpacked")
            if member.open is None:
                continue  # a folder is made when something lies in it
            path = _inside(member.name, found.uri)
            if path.parts[0] == _BOOKKEEPING[0] or path.name.startswith(_BOOKKEEPING[1]):
                continue  # resource forks that macOS packs beside every file: no data, but they look like images
            if str(path) in seen:
                _refuse(found.uri, member.name, "is a duplicate name; which of the members is meant is unknown")
            seen.add(str(path))
            folders.update(map(str, path.parents))
            written += _copy(member, target / path, most_bytes - written, found.uri)


def _copy(member: _Member, file: Path, limit: int, uri: str) -> int:
    """Unpack one member; gives its bytes."""
    assert member.open is not None
    stream = member.open()
    assert stream is not None
    written = 0
    with stream, _created(file, member.name, uri) as out:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > limit:
                _refuse(uri, member.name, f"makes it more than {MOST_RATIO} times as large as packed: a bomb")
            out.write(chunk)
    return written


def _created(file: Path, name: str, uri: str) -> IO[bytes]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        _refuse(
            uri, name, "has the place of another member: a file and a folder, or two names that this disk holds equal"
        )


@contextmanager
def _members(local: Path, uri: str, most_bytes: int) -> Iterator[Iterator[_Member]]:
    """The files and folders of an archive; anything else is refused."""
    if uri.lower().endswith(".zip"):
        with _Directory(local, uri) as file, zipfile.ZipFile(file) as packed:
            yield _zip_members(packed, uri, local.stat().st_size)
    else:
        with _decompressed(local) as stream:
            counted: Any = _Counted(stream, most_bytes, uri)
            with tarfile.open(fileobj=counted, mode="r|", tarinfo=_header_class(uri)) as bundle:
                yield _tar_members(bundle, counted, uri)


class _Directory(io.BufferedReader):
    """A zip whose table of contents is measured before objects are made of it."""

    def __init__(self, file: Path, uri: str) -> None:
        super().__init__(io.FileIO(file))
        self._uri = uri

    def read(self, size: int | None = -1) -> bytes:
        """Some bytes; the table of contents is the only thing that is read in one large piece."""
        if size is not None and size > _MOST_DIRECTORY:
            raise DataError(
                f"The archive {self._uri} must have a table of at most {_MOST_DIRECTORY:,} bytes. Split it."
            )
        content = super().read(size)
        if content.count(_TABLE_ENTRY) > MOST_MEMBERS:
            raise DataError(f"The archive {self._uri} must have at most {MOST_MEMBERS:,} members. Split it.")
        return content


def _zip_members(packed: zipfile.ZipFile, uri: str, size: int) -> Iterator[_Member]:
    _check_places(packed.infolist(), uri, size)
    for info in packed.infolist():
        name = info.orig_filename  # `filename` is cut at NUL
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            _refuse(uri, name, "is a link or a device")
        if info.flag_bits & 1:
            _refuse(uri, name, "is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            _refuse(uri, name, f"is compressed by method {info.compress_type}; `store` and `deflate` are understood")
        is_folder = name.endswith("/")
        yield _Member(name, None if is_folder else lambda info=info: packed.open(info))  # type: ignore[misc]


def _check_places(infos: list[zipfile.ZipInfo], uri: str, size: int) -> None:
    """Each member has bytes of its own: small bombs let thousands of members share the same ones."""
    ends_before = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < ends_before:
            _refuse(uri, info.orig_filename, "overlaps another one: a bomb")
        ends_before = info.header_offset + _LOCAL_HEADER + info.compress_size
        if ends_before > size:
            _refuse(uri, info.orig_filename, "reaches beyond the end of the file")


def _tar_members(bundle: tarfile.TarFile, counted: "_Counted", uri: str) -> Iterator[_Member]:
    while (info := bundle.next()) is not None:
        bundle.members = []  # type: ignore[attr-defined]  # it would remember all of them
        counted.at = info.name
        if info.isdir():
            yield _Member(info.name, None)
        elif info.isreg():
            yield _Member(info.name, lambda info=info: bundle.extractfile(info))  # type: ignore[misc]
        else:
            _refuse(uri, info.name, "is a link or a device")


def _header_class(uri: str) -> type[tarfile.TarInfo]:
    """Headers of one tar, whose extra headers are small, and few where they hold for all members."""
    total = 0

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            nonlocal total
            found = super().frombuf(buf, encoding, errors)
            if found.type in _HEADERS:
                total += found.size if found.type == tarfile.XGLTYPE else 0
                if max(found.size, total) > _MOST_HEADER:
                    _refuse(uri, found.name, f"has a header of more than {_MOST_HEADER:,} bytes")
            if found.type == tarfile.GNUTYPE_SPARSE:
                _refuse(uri, found.name, "is a sparse file")
            return found

        def _sparse(self, *_: object) -> NoReturn:
            _refuse(uri, self.name, "is a sparse file")

        # Attributes make a member sparse too; `tarfile` has no public place to see it before it reads the map.
        _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _sparse

    return Header


@contextmanager
def _decompressed(local: Path) -> Iterator[object]:
    """The tar itself, in whatever it is compressed by; known by the first bytes, as `tarfile` does."""
    with local.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        if head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        elif head.startswith(b"BZh"):
            with bz2.BZ2File(file) as stream:
                yield stream
        elif head.startswith(b"\xfd7zXZ\x00"):
            yield _Xz(file)
        else:
            yield file


class _Xz:
    """An xz file as it unpacks: the library's own reader lets the file choose how much memory it takes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_DICTIONARY)

    def read(self, size: int) -> bytes:
        """At most this many bytes; none at the end."""
        while True:
            rest = b""
            if self._decompressor.eof:  # several streams may lie one behind the other, with zeros between
                rest = self._decompressor.unused_data.lstrip(b"\0") or self._file.read(_CHUNK).lstrip(b"\0")
                if not rest:
                    return b""
                self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_DICTIONARY)
            elif self._decompressor.needs_input and not (rest := self._file.read(_CHUNK)):
                raise EOFError("it ends in the middle")
            if found := self._decompressor.decompress(rest, size):
                return found


class _Counted:
    """What comes out of a compressed tar, skipped members and headers as well, until it is too much.

    Attributes:
        at: the member that was read last.
    """

    def __init__(self, stream: Any, most_bytes: int, uri: str) -> None:
        self._stream, self._left, self._uri = stream, most_bytes, uri
        self.at = ""

    def read(self, size: int) -> bytes:
        """Some bytes."""
        found: bytes = self._stream.read(size)
        self._left -= len(found)
        if self._left < 0:
            _refuse(self._uri, self.at, f"makes it more than {MOST_RATIO} times as large as packed: a bomb")
        return found


def _inside(name: str, uri: str) -> PurePosixPath:
    """A member's path, once it is certain that it is one, and stays in the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    has_drive = name[1:2] == ":"
    if path.is_absolute() or has_drive or ".." in path.parts:
        _refuse(uri, name, "would be written outside of the folder that it is unpacked into")
    if "\0" in name or not path.parts or any(not part.strip(". ") for part in path.parts):
        _refuse(uri, name, "has no name, or one of dots, blanks or NUL")
    try:
        sizes = [len(part.encode()) for part in path.parts]
    except UnicodeEncodeError:
        _refuse(uri, name, "has a name that is not UTF-8")
    if max(sizes) > _LONGEST_PART or sum(sizes) + len(sizes) > _LONGEST_NAME:
        _refuse(uri, name, f"has a name of more than {_LONGEST_PART} bytes, or {_LONGEST_NAME} with its folders")
    return path


def _refuse(uri: str, member: str, why: str) -> NoReturn:
    shown = member if len(member) <= _LONGEST_PART else f"{member[:100]}...{member[-50:]}"
    shown = shown.encode("utf-8", "backslashreplace").decode()
    raise DataError(f"The archive {uri} must hold plain files only, but its member `{shown}` {why}. Pack it again.")


def _stepped_into(folder: Path) -> Path:
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    wraps = len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() not in _MEANINGFUL
    return inside[0] if wraps else folder
