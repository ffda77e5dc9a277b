"""A worker of a group that no longer answers is named by those that wait for it."""

import os
import platform
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import PurePath
from types import FrameType

from torch import distributed
from torch.distributed import distributed_c10d

from segdist.core.errors import BackendError
from segdist.core.text import counted

_TIMED_OUT = re.compile(r"Timed out waiting|[Tt]imed out after")
"""What gloo says where one is awaited in vain. NCCL ends the process instead: there Ray's hang detector looks."""
_MOST_BEAT = 5.0
"""Seconds between two signs of life, at the most."""


@contextmanager
def hangs_named(seconds: float) -> Iterator[None]:
    """Within the block, an operation of all workers that one keeps waiting is an error that names who, and where.

    Every worker gives signs of life while its interpreter runs, with the place in segdist where it is.

    Args:
        seconds: that operations wait, as the process group was told; also how long its members are listened to.

    Raises:
        BackendError: a worker was awaited in vain.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        yield
        return
    pulse = _Pulse(min(_MOST_BEAT, seconds / 4))
    pulse.start()
    try:
        yield
    except RuntimeError as error:
        if not _TIMED_OUT.search(str(error)):
            raise
        raise BackendError(_said(error, pulse.silent_and_busy(), seconds)) from error
    finally:
        pulse.stop()


class _Pulse:
    def __init__(self, every: float) -> None:
        self._every, self._is_over = every, threading.Event()
        self._rank, self._world_size = distributed.get_rank(), distributed.get_world_size()
        self._store = distributed_c10d._get_default_store()
        self._of = threading.get_ident()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()

    def _beat(self) -> None:
        count = 0
        while not self._is_over.is_set():
            count += 1
            where = _place(sys._current_frames().get(self._of))
            with suppress(RuntimeError):  # the store is where one of the workers is, which may have ended
                self._store.set(_key(self._rank), f"{count} {platform.node()} {os.getpid()} {where}")
            self._is_over.wait(self._every)

    def silent_and_busy(self) -> tuple[list[str], list[str]]:
        """The other workers that give no sign of life, and those that do, with where they are."""
        others = [rank for rank in range(self._world_size) if rank != self._rank]
        before = {rank: self._heard(rank) for rank in others}
        self._is_over.wait(2 * self._every)
        after = {rank: self._heard(rank) for rank in others}
        silent = [_named(rank, before[rank]) for rank in others if before[rank] == after[rank]]
        busy = [_named(rank, after[rank], is_busy=True) for rank in others if before[rank] != after[rank]]
        return silent, busy

    def _heard(self, rank: int) -> str:
        try:
            self._store.wait([_key(rank)], timedelta(seconds=self._every))
            return str(self._store.get(_key(rank)).decode())
        except RuntimeError:
            return ""


def _key(rank: int) -> str:
    return f"segdist/alive/{rank}"


def _named(rank: int, heard: str, *, is_busy: bool = False) -> str:
    if not heard:
        return f"worker {rank}"
    _, node, process, where = heard.split(" ", 3)
    return f"worker {rank} on {node} (process {process}{f', in {where}' if is_busy else ''})"


def _place(frame: FrameType | None) -> str:
    """The innermost function of segdist that a thread is in."""
    while frame is not None:
        path = PurePath(frame.f_code.co_filename)
        if "segdist" in path.parts:
            return f"`{frame.f_code.co_name}` of {path.name}"
        frame = frame.f_back
    return "no code of segdist"


def _operation(error: BaseException) -> str:
    """What was waited in: a function of torch's, or the end of the backward pass, where gradients are averaged."""
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    named = [code.co_name for code in frames if "distributed_c10d" in code.co_filename]
    named += ["backward, where gradients are averaged"] * any("autograd" in code.co_filename for code in frames)
    ours = [code for code in frames if "segdist" in PurePath(code.co_filename).parts]
    return f"{named[0] if named else 'an operation'}{f' (`{ours[-1].co_name}`)' if ours else ''}"


def _said(error: RuntimeError, others: tuple[list[str], list[str]], seconds: float) -> str:
    silent, busy = others
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    found = f"No sign of life comes from {', '.join(silent)}." if silent else "All others give signs of life."
    if busy:
        found += f" Alive: {', '.join(busy)}."
    return (
        f"Worker {rank} of {counted(world_size, 'worker')} waited in {_operation(error)} for the others in vain "
        f"({seconds:g} seconds are `resources.collective_timeout`). {found}"
    )
