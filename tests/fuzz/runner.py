"""Starts the process that reads hostile files, again where a case ended it, and gathers what went wrong."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class Failure:
    """A case that gave neither a result nor an error for users.

    Attributes:
        target: the reader.
        case: `SEED:NUMBER`, or the name of a case of the corpus.
        error: what came out instead.
        operation_: the traceback, or the last lines of a process that ended.
    """

    target: str
    case: str
    error: str
    operation_: str

    @property
    def kind(self) -> str:
        """What is the same for all cases of one fault: the error's class, and the line of code it came from."""
        lines = [line for line in self.operation_.splitlines() if line.lstrip().startswith("File ")]
        return f"{self.error.partition('(')[0]} {lines[-1] if lines else ''}"

    def __str__(self) -> str:
        return f"{self.target} {self.case}: {self.error}\n{self.operation_}"


def attack(targets: Sequence[str], *, seed: int, first: int, last: int) -> Iterator[Failure]:
    """Read cases of targets, one process for all of them; one that a case ends is followed by another."""
    with TemporaryDirectory(prefix="segdist-fuzz-") as scratch:
        command = [sys.executable, "-m", "tests.fuzz.child", ",".join(targets), *map(str, (seed, first, last)), scratch]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        failed = Path(scratch) / "failed.jsonl"
        for line in failed.read_text().splitlines() if failed.exists() else ():
            yield Failure(**json.loads(line))
        if not answer.returncode:
            return
        now = Path(scratch) / "now"
        name, case = json.loads(now.read_text()) if now.exists() else (targets[0], "the example itself")
        yield Failure(name, case, f"the process ended with {answer.returncode}", answer.stderr[-3000:])
    _, colon, number = case.partition(":")
    if colon:
        yield from attack([name], seed=seed, first=int(number) + 1, last=last)
        if rest := targets[targets.index(name) + 1 :]:
            yield from attack(rest, seed=seed, first=first, last=last)
