"""Keeps lines of Ray's own off a user's terminal: what went wrong is said by us, once, with what to do."""

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LINE = re.compile(rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [DIWE] \d+ \d+\] .*\.cc:\d+: ")
"""`[2026-11-28 18:30:36,337 E 5854 5854] core_worker.cc:2465: Actor with ...`; fatal lines (C) pass."""
_CHUNK = 65_536


@contextmanager
def core_lines_hidden() -> Iterator[None]:
    """Drop such lines, and only those, from what this process writes to stderr; they stay in Ray's own log files.

    With SEGDIST_DEBUG nothing is dropped.
    """
    if os.environ.get("SEGDIST_DEBUG"):
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)
    forwarding = threading.Thread(target=_forward, args=(source, terminal), daemon=True)
    forwarding.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # the pipe's last writer here: the thread comes to its end
        forwarding.join(timeout=1.0)  # a process that was started meanwhile may hold the pipe open


@contextmanager
def raylet_lines_hidden() -> Iterator[None]:
    """Drop what nodes tell of workers that died (`(raylet) A worker died or was killed ...`, ten lines each time).

    Ray has no switch for them: its driver prints them from a thread, by this function. With SEGDIST_DEBUG they stay.
    """
    from ray._private import worker

    shown = worker.print_to_stdstream
    if not os.environ.get("SEGDIST_DEBUG"):
        worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = shown


def _forward(source: int, terminal: int) -> None:
    held = b""
    while chunk := os.read(source, _CHUNK):
        *lines, held = (held + chunk).splitlines(keepends=True)
        if held.endswith(b"\n") or not held.startswith(b"["):  # a prompt or a bar is shown at once
            lines, held = [*lines, held], b""
        os.write(terminal, b"".join(line for line in lines if not _LINE.match(line)))
    os.write(terminal, held)
