"""A process that trains several trials at once; each is told to Tune by a process of its own, that only waits."""

import threading
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal

from segdist.core.spec import RunSpec
from segdist.engine.packs import Pack, PackMember
from segdist.engine.workers import reserved
from segdist.pipeline.draining import left_early, node_here
from segdist.pipeline.trial import Job, work_beside

_Metrics = dict[str, object]
Verdict = Literal["go on", "stop"]


@dataclass
class _Taken:
    """A place in the pack: what its trial reports, and what it is told."""

    news: SimpleQueue[_Metrics | BaseException | None] = field(default_factory=SimpleQueue)
    verdicts: SimpleQueue[Verdict] = field(default_factory=SimpleQueue)
    member: PackMember | None = None
    thread: threading.Thread | None = None
    has_reported: bool = False


class PackHost:
    """An actor of Ray's, in which each trial has a thread.

    Args:
        cpus: of this process.
        gpus: of this process.

    Raises:
        BackendError: cards were reserved, and torch cannot use them.
    """

    def __init__(self, cpus: float, gpus: float) -> None:
        ExitStack().enter_context(reserved(cpus=cpus, gpus=gpus))  # for as long as the process lives
        self._context = copy_context()
        self._pack = Pack()
        self._taken: dict[str, _Taken] = {}

    def begin(self, token: str, run: RunSpec, job: Job, number: int, known: int, node: str) -> None:
        """Start to train a trial, which is told to Tune on that node; see `trial.work`."""
        taken = self._taken[token] = _Taken()

        def train() -> None:
            try:
                self._train(taken, run, job, number, known, node)
                taken.news.put(None)
            except BaseException as error:  # noqa: BLE001 - raised where the trial is told to Tune
                taken.news.put(error)

        taken.thread = threading.Thread(
            target=self._context.copy().run, args=(train,), name=f"trial-{number}", daemon=True
        )
        taken.thread.start()

    def _train(self, taken: _Taken, run: RunSpec, job: Job, number: int, known: int, node: str) -> None:
        with left_early(node_here(), node) as is_asked_to_leave, self._pack.member() as member:
            taken.member = member

            def report(metrics: _Metrics) -> None:
                taken.news.put(metrics)
                with member.away():
                    if taken.verdicts.get() == "stop":
                        raise SystemExit

            work_beside(run, job, number, known, report, member, is_asked_to_leave=is_asked_to_leave)

    def next(self, token: str) -> _Metrics | None:
        """Let a trial go on, and wait for its next report; None when it has ended.

        Raises:
            Exception: what ended it.
        """
        taken = self._taken[token]
        if taken.has_reported:
            taken.verdicts.put("go on")
        found = taken.news.get()
        taken.has_reported = True
        if isinstance(found, BaseException):
            raise found
        return found

    def leave(self, token: str) -> None:
        """End a trial that is stopped; returns when it has. One that has ended is nothing to do for."""
        taken = self._taken.pop(token, None)
        if taken is None or taken.thread is None:
            return
        if taken.member:
            taken.member.leave()
        taken.verdicts.put("stop")
        taken.thread.join()
