"""Files on a local path or in an object store, by URI; what is written is there whole or not at all.

`s3://` honours `AWS_ENDPOINT_URL` and the usual credentials.
"""

import functools
import itertools
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import fsspec
import platformdirs
from fsspec.implementations.local import LocalFileSystem

from segdist.core import extras
from segdist.core.causes import cause_of, free_space
from segdist.core.errors import StorageError
from segdist.core.redaction import holds_credentials, without_credentials
from segdist.core.text import decode_text

MOST_BYTES = 600_000_000
"""Of a file or object that is read as a whole: an image of 178 million pixels in three channels, as it is in memory."""
SPARE_BYTES = 1_000_000_000
SPARE_FRACTION = 0.05
"""Of a disk that no download may take, the lesser of the two: other programs need it too."""
MOST_ENTRIES = 5_000_000
"""Files and folders below one that is listed: some gigabytes of memory, and less than a minute on a local disk."""
_KERNEL_FILE_SYSTEMS = frozenset(
    ("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "bpf")
)
_NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "orangefs",
     "pvfs2", "ncpfs", "coda", "vboxsf", "drvfs", "davfs", "acfs")
)  # fmt: skip
_LOCAL_FUSE = frozenset(("fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.encfs", "fuse.bindfs", "fuse.ntfs-3g"))
_MOUNTS = Path("/proc/self/mounts")
_ESCAPED = re.compile(r"\\([0-7]{3})")
"""A blank, tab, newline or backslash in the list of mounts."""
_NO_FILE = "a pipe, a socket or a device"
_P = ParamSpec("_P")
_R = TypeVar("_R")
PATIENCE = 120.0
"""Seconds that an object store may be away in the middle of something."""
_PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between two tries; the last again and again."""
_answered = set[str]()
_traffic: Counter[tuple[Literal["read", "written"], str]] = Counter()
_traffic_lock = threading.Lock()
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


def cache_dir() -> Path:
    """This node's folder for data that can be made again: memory-mapped shards, unpacked archives.

    `SEGDIST_CACHE` moves it. It is made for this user alone: what lies in it is read without another look.

    Raises:
        StorageError: it cannot be made, or another user could have put something into it.
    """
    return _own_folder(Path(tempfile.gettempdir()) / f"segdist-cache-{os.geteuid()}")


def weights_dir() -> Path:
    """This node's folder for weights that were fetched, which outlive a restart: in the user's own cache folder.

    `SEGDIST_CACHE` moves it too. As `cache_dir` it is this user's alone.

    Raises:
        StorageError: it cannot be made, or another user could have put something into it.
    """
    return _own_folder(platformdirs.user_cache_path("segdist", appauthor=False)) / "weights"


def _own_folder(usual: Path) -> Path:
    """The folder that `SEGDIST_CACHE` names or, without it, the usual one; made for this user alone.

    Raises:
        StorageError: it cannot be made, or another user could have put something into it.
    """
    chosen = os.environ.get("SEGDIST_CACHE")
    folder = (Path(chosen) if chosen else usual).expanduser().absolute()
    move = "Set SEGDIST_CACHE to a folder of your own"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)  # whoever was there before is looked at below
        about = folder.lstat()
        if problem := _why_not_private(folder, about):
            raise StorageError(f"The cache folder {folder} must be yours alone, but {problem}. {move}.")
        if not chosen and about.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise StorageError(f"Cannot make the cache folder {folder}: {error}. {move}, on a disk with space.") from error
    return folder


def _why_not_private(folder: Path, about: os.stat_result) -> str:
    """Why another user could have written into a folder; "" where none could."""
    if stat.S_ISLNK(about.st_mode):
        return f"it is a link to {folder.resolve()}: remove the link, or name the folder itself"
    if not stat.S_ISDIR(about.st_mode):
        return "it is no folder: remove it"
    if about.st_uid != os.geteuid():
        return f"it belongs to the user with the id {about.st_uid}"
    if about.st_mode & 0o022:
        return f"others may write into it: look what is in it, then `chmod go-w {folder}`"
    return ""


@dataclass(frozen=True)
class Entry:
    """One file in a listing.

    Attributes:
        uri: its full URI or path.
        size: bytes.
        stamp: changes when the content does: the time of change of a local file, the ETag of an object.
    """

    uri: str
    size: int
    stamp: str


def join(uri: str, *parts: str) -> str:
    """A URI below another one."""
    return "/".join([uri.rstrip("/") if uri.strip("/") else uri, *(part.strip("/") for part in parts)])


def is_local(uri: str) -> bool:
    """Whether a URI is a path of this machine (or a mounted file system)."""
    return not _SCHEME.match(uri) or uri.startswith("file://")


def default_folder() -> str:
    """The storage folder where none is named: `SEGDIST_STORAGE`, else `~/segdist`."""
    return os.environ.get("SEGDIST_STORAGE") or str(Path.home() / "segdist")


def absolute(uri: str) -> str:
    """The same place for a process with another working directory."""
    if not is_local(uri):
        return uri
    path = Path(uri.removeprefix("file://"))
    if path.parts[:1] == ("~",):
        path = path.expanduser()
    return str(path.absolute())


def within(uri: str, root: str) -> bool:
    """Whether a place is a folder or below it, links followed."""
    if is_local(uri) != is_local(root):
        return False
    if is_local(uri):
        return Path(absolute(uri)).resolve().is_relative_to(Path(absolute(root)).resolve())
    return ".." not in uri.split("/") and f"{uri.rstrip('/')}/".startswith(f"{root.rstrip('/')}/")


def _patient(call: Callable[Concatenate[str, _P], _R]) -> Callable[Concatenate[str, _P], _R]:
    """An object store that answered this process before, and is away, is waited for: it may be starting again."""

    @functools.wraps(call)
    def patiently(uri: str, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        until = time.monotonic() + PATIENCE
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            try:
                found = call(uri, *args, **kwargs)
            except StorageError as error:
                cause = cause_of(error)
                is_away = cause is not None and cause.kind in ("storage away", "name")
                if is_local(uri) or not is_away or _place(uri) not in _answered or time.monotonic() + pause > until:
                    raise
                if pause == _PAUSES[0]:
                    from segdist.core.terminal import say  # an exported model has no terminal

                    say(f"storage   {_place(uri)} does not answer; waiting for it, {PATIENCE:.0f} s at most", err=True)
                time.sleep(pause)
            else:
                _answered.add(_place(uri))
                return found
        raise AssertionError  # the pauses have no end

    return patiently


def _place(uri: str) -> str:
    """The bucket with its scheme, and where it is."""
    bucket, endpoint = "/".join(uri.split("/", 3)[:3]), os.environ.get("AWS_ENDPOINT_URL")
    return f"{bucket} at {endpoint}" if endpoint else bucket


@_patient
def exists(uri: str) -> bool:
    """Whether there is a file or folder."""
    with _explained(uri, "read"):
        filesystem, path = _open(uri)
        return bool(filesystem.exists(path))


@_patient
def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        StorageError: it is missing, cannot be read, or is larger than fits into memory beside what is made of it.
    """
    with _explained(uri, "read"):
        filesystem, path = _open_file(uri)
        if (size := Path(path).stat().st_size if is_local(uri) else filesystem.size(path) or 0) > MOST_BYTES:
            raise StorageError(f"{uri} must have at most {MOST_BYTES:,} bytes, but has {size:,}. Make it smaller.")
        content = bytes(filesystem.cat_file(path))
    note_traffic("read", uri, len(content))
    return content


def read_text(uri: str) -> str:
    """The text of a file that a user writes for segdist: UTF-8 with or without a byte order mark, UTF-16 with one.

    Files of other tools go through `segdist.reading.text_files`, which repairs what is not.

    Raises:
        StorageError: it is missing, cannot be read, or is no such text.
    """
    return decode_text(read_bytes(uri), uri, error=StorageError)


@_patient
def read_head(uri: str, size: int) -> bytes:
    """The first bytes of a file, at most `size`: enough for the header of an image.

    Raises:
        StorageError: it is missing or cannot be read.
    """
    with _explained(uri, "read"):
        filesystem, path = _open_file(uri)
        return bytes(filesystem.cat_file(path, start=0, end=size))


@_patient
def read_tail(uri: str, size: int) -> bytes:
    """The last bytes of a file, at most `size`: what some formats put behind the pixels.

    Raises:
        StorageError: it is missing or cannot be read.
    """
    with _explained(uri, "read"):
        filesystem, path = _open_file(uri)
        return bytes(filesystem.cat_file(path, start=max(filesystem.size(path) - size, 0)))


@_patient
def write_atomic(uri: str, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Raises:
        StorageError: it cannot be written.
    """
    with _explained(uri, "write"):
        filesystem, path = _open(uri)
        if is_local(uri):
            _replace_file(Path(path), content)
        else:
            filesystem.pipe_file(path, content)  # an object appears when its upload completes
    note_traffic("written", uri, len(content))


@_patient
def download(uri: str, file: Path) -> None:
    """Copy a file to this machine, piece by piece.

    Raises:
        StorageError: it is missing, cannot be read, or does not fit on the disk with some space to spare.
    """
    with _explained(uri, "read"):
        filesystem, path = _open_file(uri)
        check_space(file.parent, int(filesystem.size(path) or 0), uri)
        filesystem.get_file(path, str(file))
    note_traffic("read", uri, file.stat().st_size)


def check_space(folder: Path, size: int, what: str) -> None:
    """Make sure that so many more bytes fit on the disk of a folder, and leave some to other programs.

    Args:
        folder: where they go.
        size: of what is to be written.
        what: it is, for the message.

    Raises:
        StorageError: they do not.
    """
    disk = shutil.disk_usage(folder)
    spare = min(SPARE_BYTES, int(SPARE_FRACTION * disk.total))
    if size > disk.free - spare:
        raise StorageError(
            f"{what} must fit on the disk of {folder} and leave {spare:,} bytes, but has {size:,} bytes of "
            f"{disk.free:,} that are free. Make space, or set TMPDIR and SEGDIST_CACHE to folders on another disk."
        )


def upload(file: Path, uri: str) -> None:
    """Copy a file of this machine to its place, piece by piece.

    Raises:
        StorageError: it cannot be written.
    """
    _put(uri, file)


@_patient
def _put(uri: str, file: Path) -> None:
    with _explained(uri, "write"):
        filesystem, path = _open(uri)
        if is_local(uri):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        filesystem.put_file(str(file), path)
    note_traffic("written", uri, file.stat().st_size)


@_patient
def remove(uri: str) -> None:
    """Delete a file, or a folder with everything in it; nothing happens where there is none."""
    with _explained(uri, "write"):
        filesystem, path = _open(uri)
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)


def find(uri: str, *, suffix: str = "") -> list[Entry]:
    """Every file below a folder, or the file itself, sorted by name; empty where there is nothing."""
    return [entry for entry in find_all(uri)[0] if entry.uri.endswith(suffix)]


@_patient
def find_all(uri: str) -> tuple[list[Entry], Mapping[str, str]]:
    """What `find` gives, and what else is there that is no file that can be read, by its URI, each with the reason.

    Links to files are followed. Those to folders are not: they may lead in circles, or to what is not meant.
    """
    with _explained(uri, "read"):
        filesystem, path = _open(uri)
        if is_local(uri):
            return _find_all_in_folder(path)
        scheme = uri.partition("://")[0] + "://"
        found = sorted(filesystem.find(path, detail=True).items())
        return [
            Entry(scheme + name, int(one["size"] or 0), str(one.get("ETag") or one.get("mtime") or ""))
            for name, one in found
        ], {}


def _find_all_in_folder(root: str) -> tuple[list[Entry], Mapping[str, str]]:
    files, others, places, seen = list[Entry](), dict[str, str](), [root], 0
    if Path(root).resolve() == Path("/"):
        raise StorageError("A data set must lie in a folder of its own, but got /, the whole machine. Name its folder.")
    kernel = _kernel_file_systems()
    while places:
        place = places.pop()
        seen += 1
        if seen > MOST_ENTRIES:
            raise StorageError(
                f"A folder that is searched must hold at most {MOST_ENTRIES:,} files, but {root} holds more. Name the "
                "folder of the data set itself, or pack its images into archives (.zip, .tar)."
            )
        try:
            about = os.stat(place)  # noqa: PTH116 - quicker
            if stat.S_ISREG(about.st_mode):
                files.append(Entry(place, about.st_size, str(about.st_mtime)))
            elif not stat.S_ISDIR(about.st_mode):
                others[place] = f"it is {_NO_FILE}"
            elif place != root and (reason := _why_not_walked(place, kernel)):
                others[place] = reason
            else:
                places += (f"{place.rstrip('/')}/{name}" for name in os.listdir(place))  # noqa: PTH208 - quicker
        except FileNotFoundError:
            if Path(place).is_symlink():
                others[place] = "it is a link to what is not there"
        except OSError as error:
            others[place] = f"it cannot be read: {error.strerror}"
    return sorted(files, key=attrgetter("uri")), dict(sorted(others.items()))


def _why_not_walked(folder: str, kernel: Set[str]) -> str:
    if Path(folder).is_symlink():
        return "it is a link to a folder, which is not followed"
    return "it is a file system of the kernel, which holds no data" if folder in kernel else ""


def _kernel_file_systems() -> frozenset[str]:
    """Where this machine shows its processes and devices as files: some have no end, others do something when read."""
    return frozenset(place for place, kind in _mounts().items() if kind in _KERNEL_FILE_SYSTEMS)


def network_file_system(path: Path) -> str:
    """What kind of network disk a path is on, such as `nfs4`; "" for a disk of this machine, or where nobody knows."""
    mounts, place = _mounts(), path.absolute().resolve()
    kind = next((mounts[str(folder)] for folder in (place, *place.parents) if str(folder) in mounts), "")
    is_fuse = kind.startswith("fuse.") and kind not in _LOCAL_FUSE
    return kind if is_fuse or kind in _NETWORK_FILE_SYSTEMS else ""


def _mounts() -> dict[str, str]:
    """What is mounted where, and of which kind; of several at one place the last, which hides the others."""
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # not Linux
        return {}
    found = (line.split(" ") for line in lines)
    return {_ESCAPED.sub(lambda code: chr(int(code[1], 8)), place): kind for _, place, kind, *_ in found}


def check_writable(uri: str) -> None:
    """Make sure that results can be stored, before hours are spent on them.

    Raises:
        StorageError: a file cannot be written there.
    """
    probe = join(uri, f".segdist-{uuid.uuid4().hex}")
    write_atomic(probe, b"")
    remove(probe)


def note_traffic(way: Literal["read", "written"], uri: str, size: int) -> None:
    """Count bytes that were moved; by whoever moves them past this module, too."""
    with _traffic_lock:
        _traffic[way, kind_of(uri)] += size


def kind_of(uri: str) -> str:
    """`local`, or the scheme of an object store."""
    return "local" if is_local(uri) else uri.partition("://")[0]


def take_traffic() -> dict[tuple[Literal["read", "written"], str], int]:
    """Bytes that this process read and wrote since this was asked last: by way, and `local` or a URI's scheme."""
    with _traffic_lock:
        found = {key: size for key, size in _traffic.items() if size}
        _traffic.clear()
        return found


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """The same place for pyarrow and Ray: a `pyarrow.fs.FileSystem` and the path in it."""
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

    filesystem, path = _open(uri)
    return (LocalFileSystem() if is_local(uri) else PyFileSystem(FSSpecHandler(filesystem))), path


def read_json(uri: str) -> Any:
    """The content of a JSON file.

    Raises:
        StorageError: it is missing, cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"{uri} must be JSON, but: {error}. It is damaged; delete it to have it made anew."
        ) from error


def write_json(uri: str, content: object) -> None:
    """Write a JSON file atomically."""
    write_atomic(uri, json.dumps(content, indent=1, allow_nan=False).encode())


def _open(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system and the path in it; what a name holds (`::`, `?`, `*`) is never read as part of a URL."""
    if "\0" in uri:
        raise StorageError(f"A path must hold no NUL, but {uri!r} does. Rename it.")
    if is_local(uri):
        return LocalFileSystem(), absolute(uri)
    if holds_credentials(uri):
        raise StorageError(f"A URI must not hold credentials, but got {uri}. {without_credentials(uri)}")
    options: dict[str, object] = {}
    if uri.startswith("s3://"):
        # Other nodes write too: a cached listing would hide their files.
        options = {"use_listings_cache": False, "endpoint_url": os.environ.get("AWS_ENDPOINT_URL") or None}
    try:
        kind = fsspec.get_filesystem_class(uri.partition("://")[0])
        return kind(**options), str(kind._strip_protocol(uri))
    except ImportError as error:
        how = extras.install("s3fs") if uri.startswith("s3://") else "pip install it"
        raise StorageError(f"{uri} needs a library: {error}. Install it: {how}") from error
    except ValueError as error:
        raise StorageError(f"{uri} must be a local path or begin with s3://, but: {error}") from error


def _open_file(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The same for a file that is to be read: a pipe would wait forever, a device never end."""
    filesystem, path = _open(uri)
    if is_local(uri) and not stat.S_ISREG(mode := Path(path).stat().st_mode) and not stat.S_ISDIR(mode):
        raise StorageError(f"{uri} must be a file, but is {_NO_FILE}. Copy what is meant into a file.")
    return filesystem, path


def _replace_file(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _explained(uri: str, verb: str) -> Iterator[None]:
    """Turn the errors of file systems into one that names the place and the fix."""
    expected: tuple[type[Exception], ...] = (OSError, *object_store_errors())
    try:
        yield
    except expected as error:
        raise StorageError(f"Cannot {verb} {uri}: {error or type(error).__name__}. {_fix(uri, verb, error)}") from error


def _fix(uri: str, verb: str, error: Exception) -> str:
    if cause := cause_of(error):
        free = free_space(absolute(uri)) if cause.kind == "disk" and is_local(uri) and verb == "write" else ""
        return f"{free}. {cause.fix}" if free else cause.fix
    if isinstance(error, FileNotFoundError) and (is_local(uri) or verb == "read"):
        return "Check the path."
    if not is_local(uri):
        return "Check the bucket's name, the credentials and AWS_ENDPOINT_URL."
    if verb == "write":
        return "Name a folder that you may write to (`storage=...`) on a disk with free space."
    return "Check its permissions."


def object_store_errors() -> tuple[type[Exception], ...]:
    """What S3 clients raise for a wrong endpoint or missing credentials; nothing where none is installed."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return ()
    boto3 = sys.modules.get("boto3.exceptions")  # MLflow's client; slow to import, and s3fs does without
    return (BotoCoreError, ClientError, *([boto3.Boto3Error] if boto3 else []))
