"""What reaches a terminal while Ray works."""

import subprocess
import sys

_PROGRAM = """
import os, sys
from segdist.pipeline.backend_lines import core_lines_hidden
with core_lines_hidden():
    os.write(2, b"[2026-11-28 18:30:36,337 E 5854 5854] core_worker.cc:2465: Actor with class name ...\\n")
    os.write(2, b"[2026-11-28 18:30:36,337 C 5854 5854] (raylet) node.cc:12: Check failed\\n[not a log li")
    os.write(2, b"ne]\\n[2026-11-28 18:30:36,33")
    os.write(2, b"7 W 5854 5854] (core) a.cc:1: half now, half then\\n")
    print("ours", file=sys.stderr)
    os.write(2, b"no newline at the end")
os.write(2, b", and after it")
"""


def _shown(**environment: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, env={**environment, **_here()}
    )
    return answer.stderr


def _here() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(filter(None, sys.path))}


def test_lines_of_rays_core_are_dropped_and_everything_else_passes_whole() -> None:
    kept = "[2026-11-28 18:30:36,337 C 5854 5854] (raylet) node.cc:12: Check failed\n[not a log line]\nours\n"
    assert _shown() == f"{kept}no newline at the end, and after it"


def test_with_debug_nothing_is_dropped() -> None:
    assert "core_worker.cc:2465" in _shown(SEGDIST_DEBUG="1")
