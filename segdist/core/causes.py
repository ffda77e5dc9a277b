"""Why something ended that is no mistake in the code: what a machine, a network or a service did not give, and the fix.

One table of the words that systems and libraries have for it, because words are what comes: a worker's error arrives as
the text of a traceback, and each library has a class of its own for a full disk.
"""

import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal[
    "memory", "card memory", "killed for memory", "shared memory", "object store", "disk", "file size", "open files",
    "processes", "read only", "broken disk", "node", "process", "clock", "credentials", "bucket", "storage away",
    "tracking away", "tracking credentials", "database", "name",
]  # fmt: skip
OF_STORAGE: frozenset[Kind] = frozenset(
    ("disk", "read only", "broken disk", "storage away", "credentials", "bucket", "clock", "name")
)
"""What keeps from reading and writing, so that nothing else comes further either."""


@dataclass(frozen=True)
class Cause:
    """Why something ended.

    Attributes:
        kind: for programs.
        what: happened where, a sentence.
        fix: sentences.
        is_here: whether it happened on this machine, so that it would to whatever else runs here.
    """

    kind: Kind
    what: str
    fix: str
    is_here: bool

    def __str__(self) -> str:
        return f"{self.what} {self.fix}"


@dataclass(frozen=True)
class _Known:
    """A cause, the words that give it away (regular expressions), and how it is told."""

    kind: Kind
    words: tuple[str, ...]
    what: str
    fix: str

    def met_in(self, text: str) -> str | None:
        """The words of it that a text holds."""
        met = re.search("|".join(self.words), text)
        return met and met[0]


_LESS_AT_ONCE = "Let less run at once (`search.concurrency`, `label.actors`, `--actors`, `--replicas`)"
_SMALLER = "lower `train.batch_size` or `model.<family>.image_size`"
_SPACE = (
    "Free some space on the disks of `storage`, of the temporary folder (TMPDIR, RAY_TMPDIR) and of SEGDIST_CACHE, or "
    "move them to a larger one."
)
_TABLE = (
    _Known(
        "killed for memory",
        (r"running low on memory",),  # Ray's memory monitor
        "A process was killed because {place} ran out of memory.",
        f"{_LESS_AT_ONCE}, or {_SMALLER}.",
    ),
    _Known(
        "card memory",
        (
            r"(?:CUDA|HIP|MPS|XPU)\b.{0,40} out of memory",
            r"torch\.(?:cuda\.)?OutOfMemoryError",
            r"CU\w+_STATUS_ALLOC_FAILED",
        ),
        "The card's memory did not suffice on {place}.",
        f"{_SMALLER.capitalize()}.",
    ),
    _Known(
        "object store",
        (r"ObjectStoreFullError", r"object store is full"),
        "Ray's object store is full on {place}.",
        f"{_LESS_AT_ONCE}, or start Ray with a larger `--object-store-memory`.",
    ),
    _Known(
        "open files",
        (r"Too many open files",),
        "Too many files are open at once on {place}.",
        "Allow more: `ulimit -n 65536`, before Ray is started.",
    ),
    _Known(
        "shared memory",
        (
            r"No space left on device[^\n]*/dev/shm",
            r"[</]torch_\w+>?[^\n]*No space left",
            r"shared memory",
            r"killed by signal: Bus",
        ),
        "The shared memory (/dev/shm) of {place} is full.",
        "Give it more (`mount -o remount,size=8G /dev/shm`; `--shm-size` of a container).",
    ),
    _Known(
        "disk",
        (r"Disk quota exceeded",),
        "A quota on the disks of {place} is used up: the disk is full for you.",
        _SPACE,
    ),
    _Known(
        "disk",
        (
            r"No space left on device",
            r"disk is full",
            r"OutOfDiskError",
            r"out of disk space",
            r"\bunexpected pos \d+ vs",  # torch.save
            r"PytorchStreamWriter failed",
            r"iostream error",
            r"\d requested and \d+ written",  # NumPy
            r"bytes of [\d,]+ that are free",  # ours, before a download
        ),
        "The disk is full on {place}{free}.",
        _SPACE,
    ),
    _Known(
        "memory",
        (
            r"MemoryError",
            r"[Cc]an(?:no|')t allocate memory",
            r"not enough memory",
            r"bad_alloc",
            r"Insufficient memory",
            r"Unable to allocate \d",
        ),
        "The memory of {place} did not suffice.",
        f"{_LESS_AT_ONCE}, or {_SMALLER}.",
    ),
    _Known(
        "file size",
        (r"File too large", r"SIGXFSZ"),
        "A file grew larger than its disk or `ulimit -f` allows on {place}.",
        "Raise the limit, or name a `storage` on another file system.",
    ),
    _Known(
        "processes",
        (
            r"can't start new thread",
            r"pthread_create failed",
            r"fork[^\n]*Resource temporarily",
            r"Errno 11\] Resource temporarily",
        ),
        "Too many processes and threads run on {place}.",
        f"Allow more: `ulimit -u 65536` (`--pids-limit` of a container). {_LESS_AT_ONCE}.",
    ),
    _Known(
        "read only",
        (r"Read-only file system", r"readonly database"),
        "A disk is mounted read-only on {place}.",
        "Mount it for writing, or name another `storage` or SEGDIST_CACHE.",
    ),
    _Known(
        "broken disk",
        (
            r"Stale file handle",
            r"Input/output error",
            r"Transport endpoint is not connected",
            r"Remote I/O error",
            r"disk I/O error",
            r"Host is down",
        ),
        "A disk does not answer as it must on {place}: {words}.",
        "Look at its mount (`mount`, `dmesg`): a network disk may be away.",
    ),
    _Known(
        "node",
        (
            r"NodeDiedError",
            r"LocalRayletDiedError",
            r"node has died",
            r"node was (?:terminated|preempted)",
            r"node it was running on is",
            r"PreemptedError",
        ),
        "A node of the cluster is gone: {place}.",
        "Look at it with `ray list nodes`.",
    ),
    _Known(
        "process",
        (
            r"Actor(?:Died|Unavailable)Error",
            r"actor \w+ is unavailable",
            r"WorkerCrashedError",
            r"OwnerDiedError",
            r"ObjectLostError",
            r"ObjectReconstructionFailedError",
            r"died unexpectedly",
        ),
        "A process died on {place}.",
        "Somebody killed it, it crashed, or the kernel ended it for memory (`dmesg | grep -i oom` tells).",
    ),
    _Known(
        "clock",
        (r"RequestTimeTooSkewed", r"RequestExpired", r"time and the server's time is too large"),
        "The clock of {place} differs too much from that of the object store.",
        "Set it (`timedatectl set-ntp true`).",
    ),
    _Known(
        "credentials",
        (
            r"(?:No|Partial)Credentials",
            r"CredentialRetrieval",
            r"Unable to locate credentials",
            r"InvalidAccessKeyId",
            r"Access Key Id you provided",
            r"SignatureDoesNotMatch",
            r"signature we calculated",
            r"ExpiredToken",
            r"TokenRefresh",
            r"token (?:included in the request )?(?:has|is) (?:expired|invalid)",
            r"InvalidToken",
            r"UnauthorizedSSOToken",
            r"Access ?Denied|ACCESS_DENIED",
            r"An error occurred \((?:403|401)\)",
            r"AllAccessDisabled",
        ),
        "The object store refuses these credentials: they are missing, wrong, expired, or not allowed to.",
        "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of a user who may read and write there.",
    ),
    _Known(
        "bucket",
        (r"NoSuchBucket|NO_SUCH_BUCKET", r"specified bucket does not exist", r"Invalid ?[Bb]ucket ?[Nn]ame"),
        "There is no such bucket.",
        "Check its name and AWS_ENDPOINT_URL, or make it.",
    ),
    _Known(
        "name",
        (
            r"Name or service not known",
            r"failure in name resolution",
            r"nodename nor servname",
            r"NameResolutionError",
            r"No address associated with hostname",
            r"getaddrinfo failed",
            r"Could not contact DNS servers",
        ),
        "A name of the network cannot be resolved on {place}.",
        "Check the address (AWS_ENDPOINT_URL, `tracking.uri`, RAY_ADDRESS) and the network.",
    ),
    _Known(
        "tracking away",
        (r"API request to \S+ failed with exception", r"API request to endpoint \S+ failed with error code 50[234]"),
        "The MLflow server does not answer.",
        "Start it again, or check `tracking.uri` and the network.",
    ),
    _Known(
        "tracking credentials",
        (r"API request to endpoint \S+ failed with error code 40[13]",),
        "The MLflow server wants other credentials.",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    ),
    _Known(
        "database",
        (r"database is locked", r"unable to open database file"),
        "MLflow's database cannot be opened for writing on {place}.",
        "Let no other program hold it, and keep it on a disk of this machine: set `tracking.uri`.",
    ),
    _Known(
        "database",
        (r"database disk image is malformed",),
        "MLflow's database is damaged.",
        "Restore it from a backup, or set `tracking.uri` to another: what the sweep knows of its trials is told to it.",
    ),
    _Known(
        "storage away",
        (
            r"endpoint URL",
            r"AWS Error (?:NETWORK|SLOW|SERVICE|UNKNOW)",
            r"\((?:SlowDown|ServiceUnavailable|InternalError|RequestTimeout|50[0234])\)",
            r"reduce your request rate",
        ),
        "The object store does not answer.",
        "Check AWS_ENDPOINT_URL and the network.",
    ),
)
"""The first that fits counts: a narrow one stands before a wide one."""
_CODE = re.compile(r"^ {2}File .*\n(?: {4}.*\n)*", re.MULTILINE)
"""A frame of a traceback: its line of code may hold any of these words."""
_OURS = re.compile(r"^segdist\.[\w.]+Error: (.+)", re.MULTILINE)
_NODE = re.compile(r"\b(?:IP|ip)(?: address)?[:=] ?([0-9a-fA-F.:]*[0-9a-fA-F])")
_HERE = "this machine"
_LITTLE_BYTES = 1_000_000_000
"""Free on a disk: with less it is named where something found a disk full."""
_MOST_CHARACTERS = 200_000
"""Of a text that is searched; an error's own words stand at its end."""


def cause_of(problem: BaseException | str) -> Cause | None:
    """Why this happened, where it is one of the known causes.

    Args:
        problem: an error with what led to it, or the text of a traceback.
    """
    is_remote = isinstance(problem, str) or type(problem).__module__.startswith("ray.")
    text = (problem if isinstance(problem, str) else "\n".join(_told(problem)))[-_MOST_CHARACTERS:]
    text = _CODE.sub("", text)
    for known in _TABLE:
        if words := known.met_in(text):
            place = _place(text, is_remote=is_remote)
            free = _fullest() if place == _HERE and "{free}" in known.what else ""
            return Cause(known.kind, known.what.format(place=place, words=words, free=free), known.fix, place == _HERE)
    return None


def why(text: str) -> str:
    """The text of a traceback in one line: what our own error says, the known cause, or its last line."""
    if ours := _OURS.findall(text):
        return str(ours[-1]).strip()
    found = cause_of(text)
    return str(found) if found else (text.strip().splitlines() or ["no error was recorded"])[-1]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of this process or of its card did not suffice, so that half as much at once may fit."""
    found = cause_of(error)
    return found is not None and found.kind in ("memory", "card memory")


def _told(error: BaseException) -> Iterator[str]:
    """What an error says, and those that led to it, without their code."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield "".join(traceback.format_exception_only(one))
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _place(text: str, *, is_remote: bool) -> str:
    node = _NODE.search(text)
    if node and not node[1].startswith("127."):
        return f"the node {node[1]}"
    return "a node" if is_remote and not node else _HERE


def free_space(folder: str | Path) -> str:
    """What is free on the disk of a folder, or of the place where it is to be; "" where nobody knows."""
    place = Path(folder).absolute()
    for there in (place, *place.parents):
        try:
            return f"{shutil.disk_usage(there).free / 1e6:,.0f} MB are free in {there}"
        except OSError:
            continue
    return ""


def _fullest() -> str:
    """Of the disks that all write to, their storage left out, the one with the least space, where that is little."""
    temporary = tempfile.gettempdir()
    places = {name: os.environ.get(name) or temporary for name in ("TMPDIR", "RAY_TMPDIR", "SEGDIST_CACHE")}
    free = {name: shutil.disk_usage(place).free for name, place in places.items() if Path(place).is_dir()}
    name = min(free, key=lambda one: free[one], default="")
    if not name or free[name] > _LITTLE_BYTES:
        return ""
    return f": {free_space(places[name])} ({name})"
