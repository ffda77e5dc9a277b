"""Probes in processes of their own: a run or a teacher does a little of its work, and dies alone where it must."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from segdist.core import errors
from segdist.core.causes import is_out_of_memory
from segdist.core.errors import BackendError, SegdistError
from segdist.core.records import LabelledImage
from segdist.core.spec import Gpus
from segdist.core.text import lines
from segdist.engine.probe import Request, probe
from segdist.engine.runtime import peak_bytes
from segdist.engine.taken import Taken
from segdist.engine.workers import reserved
from segdist.pipeline.label_rows import LabelJob, label_samples
from segdist.pipeline.panel import Panel

MOST_SECONDS = 900.0
"""Of one probe."""
LABELLED = "labelled"
"""The file in which a teacher's probe leaves the images with their labels."""
_LOOKS_EACH = 0.1
"""Seconds between two looks at the memory of a probe."""


@dataclass(frozen=True)
class TeacherRequest:
    """Have a teacher label some images."""

    job: LabelJob
    rows: Sequence[LabelledImage]
    cpus: float


@dataclass(frozen=True)
class Taught:
    """What a teacher takes: seconds until it labels, and of each image; bytes at most."""

    setup_seconds: float
    image_seconds: float
    memory: int


@dataclass
class Answer:
    """What a probe told.

    Attributes:
        lack: why it ended early, for lack of memory; "" where it came to its end.
        at: the point of the space that it looked at last.
        cards: bytes of each card of this machine.
        own: what the run takes at its own values.
        draws: at other points.
        largest: at the largest point; None where that is the run's own.
        matters: searched keys that change what a step holds.
        taught: what a teacher takes.
        labelled: what it labelled.
    """

    lack: str = ""
    at: dict[str, object] = field(default_factory=dict)
    cards: list[float] = field(default_factory=list)
    own: Taken | None = None
    draws: list[Taken] = field(default_factory=list)
    largest: Taken | None = None
    matters: tuple[str, ...] = ()
    taught: Taught | None = None
    labelled: list[LabelledImage] = field(default_factory=list)


def ask(request: Request | TeacherRequest, *, most_bytes: float) -> Answer:
    """Run a probe to its end.

    Args:
        request: what it does.
        most_bytes: of resident memory; one that takes more is ended, before the system ends something else.

    Raises:
        SegdistError: what it is to do cannot be done, as where weights are missing.
    """
    with TemporaryDirectory(prefix="segdist-probe-") as scratch:
        asked, told, said = (Path(scratch, name) for name in ("request", "told", "said"))
        asked.write_bytes(pickle.dumps(request))
        with told.open("wb") as out, said.open("wb") as err:
            command = [sys.executable, "-c", f"import {__name__} as it; it.main()", str(asked)]
            child = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
            try:
                lack = _watched(child, most_bytes)
            finally:
                child.kill()
                child.wait()
        answer = _read(told.read_text("utf-8"))
        labelled = Path(scratch, LABELLED)
        answer.labelled = pickle.loads(labelled.read_bytes()) if labelled.is_file() else []  # noqa: S301 - our child
        answer.lack = lack or answer.lack
        if child.returncode and not answer.lack:
            if child.returncode > 0:
                last = (lines(said.read_text("utf-8", "replace")) or ["it said nothing"])[-1]
                raise BackendError(f"A probe of the sweep failed at {answer.at or 'its own values'}: {last}")
            answer.lack = f"it was killed by signal {-child.returncode}, as where the system's memory does not suffice"
    return answer


def _watched(child: "subprocess.Popen[bytes]", most_bytes: float) -> str:
    """Wait for a process that keeps within memory and time; why it was ended, or ""."""
    started, process = time.monotonic(), psutil.Process(child.pid)
    while child.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = [process, *process.children(recursive=True)]
            held = sum(one.memory_info().rss for one in family)
            if held > most_bytes:
                return f"it needs more than {most_bytes / 1e9:.1f} GB"
        if time.monotonic() - started > MOST_SECONDS:
            raise BackendError(
                f"A probe of the sweep must end within {MOST_SECONDS:.0f} s, but a few steps took longer. Lower "
                "`train.batch_size` or `model.<family>.image_size`, or plan where the sweep is to run."
            )
        time.sleep(_LOOKS_EACH)
    return ""


def _read(text: str) -> Answer:
    answer = Answer()
    for line in text.splitlines():
        ((kind, content),) = json.loads(line).items()
        match kind:
            case "error":
                raise getattr(errors, content[0], SegdistError)(content[1])
            case "own" | "largest":
                setattr(answer, kind, Taken(**content))
            case "draw":
                answer.draws.append(Taken(**content))
            case "taught":
                answer.taught = Taught(**content)
            case _:
                setattr(answer, kind, tuple(content) if kind == "matters" else content)
    return answer


def _teach(request: TeacherRequest) -> tuple[Taught, list[LabelledImage]]:
    """Label images, the first of which warms up."""
    teacher = Panel(request.job.label, request.job.classes, request.job.trained_uri)
    started = time.perf_counter()
    samples, _, _ = label_samples(request.rows[:1], request.job, teacher)
    setup, started = time.perf_counter() - started, time.perf_counter()
    more, _, _ = label_samples(request.rows[1:], request.job, teacher)
    each = (time.perf_counter() - started) / max(1, len(more))
    contents = (content for _, content in request.rows)
    labelled = list(zip([*samples, *more], contents, strict=True))
    return Taught(max(0.0, setup - each), each, peak_bytes()), labelled


def _gpus_here(asked: Gpus) -> float:
    """Of those that workers will get, what this machine has: a probe may run where no card is."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return 1.0 if asked == "auto" else asked


def main() -> None:
    """Do what the request file, our own parent's, asks for."""
    file = Path(sys.argv[1])
    request: Request | TeacherRequest = pickle.loads(file.read_bytes())  # noqa: S301 - the parent process wrote it
    with suppress(OSError):  # of all processes, this one is to be killed first
        Path("/proc/self/oom_score_adj").write_text("1000")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no line of ours

    def tell(kind: str, content: object) -> None:
        out.write(json.dumps({kind: content}) + "\n")
        out.flush()

    try:
        if isinstance(request, TeacherRequest):
            with reserved(cpus=request.cpus, gpus=_gpus_here(request.job.label.gpus_per_actor)):
                found, labelled = _teach(request)
            file.with_name(LABELLED).write_bytes(pickle.dumps(labelled))
            tell("taught", asdict(found))
        else:
            of_worker = request.run.resources
            with reserved(cpus=of_worker.cpus_per_worker, gpus=_gpus_here(of_worker.gpus_per_worker)):
                probe(request, tell)
    except SegdistError as error:
        tell("error", [type(error).__name__, str(error)])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        tell("lack", "it runs out of memory: " + (lines(str(error)) or [type(error).__name__])[0])
