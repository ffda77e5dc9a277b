"""Ray Tune, told what to run and asked for nothing else: it keeps no state that a start would go on from."""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from segdist.core.causes import OF_STORAGE, cause_of, why
from segdist.core.errors import DivergedError, PreemptedError, StorageError
from segdist.core.storage import absolute
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.pipeline.checkpoints import CHECKPOINT
from segdist.pipeline.departed import node_is_gone
from segdist.pipeline.memory_kills import MemoryKill
from segdist.pipeline.meters import count, observe
from segdist.pipeline.packs import Packs
from segdist.pipeline.progress import Progress
from segdist.pipeline.recording import Recording
from segdist.pipeline.sweep_meters import SweepMeters
from segdist.pipeline.trial import DAMAGED
from segdist.searching import Search, Trial

_SLOTS_FOR = 5.0
"""Seconds that the cluster's size is remembered: nodes that are added later raise the concurrency."""
_STOPPED = "stopped; runs on when the sweep does"
_MEMORY = ("memory", "card memory", "killed for memory")
"""Kinds of causes that half as many images at once may mend."""
_PAUSES = (30.0, 120.0)
"""Seconds in which others may let go of the memory of a node, before a trial that runs alone is taken up again."""
_NO_SCORES = frozenset(
    {
        "first_step_at",
        "training_iteration",
        "should_checkpoint",
        "timestamp",
        "pid",
        "time_this_iter_s",
        "time_total_s",
        "iterations_since_restore",
        "time_since_restore",
        "done",
    }
)
"""Numbers about the process and Tune's own, not about what was learned."""

_OF_TUNE = frozenset({"trial_id", "done", "epoch"})
"""What Tune needs of a result after the verdict; `epoch` because it asks for the metric of its searcher."""


def _is_score(name: str) -> bool:
    return name not in _NO_SCORES and not name.startswith("config/")


class Problem:
    """The first error of our own inside Tune's loop: Tune would wrap it in text."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def noted(self, call: Callable[[], object]) -> Any:
        """The call's result; its error is kept, and raised on, so that Tune ends."""
        try:
            return call()
        except Exception as error:
            self.error = self.error or error
            raise


class _Unsaved:
    """Tune pickles what it is given, to go on with it one day; it never will, and what holds the ledger cannot be."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


class Suggestions(_Unsaved, Searcher):
    """Hands the search's trials to Tune, as many at once as the cluster holds now.

    Args:
        search: says which.
        slots: how many fit.
        problem: where errors are kept.
        packs: has a place for each trial, where several are trained in one process.
        alike: of a trial, what others must have equal to be trained with it; "" where none can.
    """

    def __init__(
        self,
        search: Search,
        slots: Callable[[], int],
        problem: Problem,
        *,
        packs: Packs | None = None,
        alike: Callable[[Trial], str] = lambda _: "",
    ) -> None:
        super().__init__(metric="epoch", mode="max")  # Tune wants names; nobody asks for them
        self._search, self._slots, self._problem = search, slots, problem
        self._packs, self._alike = packs, alike
        self._without_place: Trial | None = None
        self._running: set[str] = set()
        self._handed_out: dict[int, float] = {}
        self._is_closed, self._paused_until = False, 0.0
        self._counted, self._room, self._most = float("-inf"), 0, sys.maxsize

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial; None for none now."""
        if time.monotonic() - self._counted > _SLOTS_FOR:
            self._counted, self._room = time.monotonic(), self._slots()
        if self._is_closed:
            return None if self._running else Searcher.FINISHED
        if len(self._running) >= min(self._at_once, self._most) or time.monotonic() < self._paused_until:
            return None
        trial = self._without_place or self._problem.noted(self._search.next)
        if trial is None:
            return None if self._search.is_waiting else Searcher.FINISHED
        seat = None
        if self._packs:
            seat = self._packs.take(trial_id, trial.number, self._alike(trial), room=self._room)
            self._without_place = None if seat else trial
            if not seat:
                return None
        self._running.add(trial_id)
        self._handed_out[trial.number] = time.monotonic()
        return {
            "number": trial.number,
            "values": trial.settings,
            "known": trial.from_latest().last_epoch,
            "micro_batch": trial.micro_batch,
            "seat": seat,
        }

    @property
    def _at_once(self) -> int:
        """Trials that run at the same time."""
        asked = self._search.spec.search
        room = self._room * asked.pack if self._packs else self._room
        return room if asked.concurrency == "auto" else min(room, asked.concurrency)

    def taken(self, number: int) -> float:
        """A process has taken a trial; the seconds that it was waited for."""
        return time.monotonic() - self._handed_out.pop(number, time.monotonic())

    def still_awaits(self, trial_id: str) -> bool:
        """Whether Tune has not told of a trial's end."""
        return trial_id in self._running

    def close(self) -> bool:
        """Nothing more begins: Tune ends with what runs. Whether that is news."""
        was_open, self._is_closed = not self._is_closed, True
        return was_open

    def pause(self, seconds: float) -> None:
        """Nothing begins for a while."""
        self._paused_until = time.monotonic() + seconds

    def let_less_run(self) -> bool:
        """Fewer trials at once from now on, since memory does not hold those; False where no other one runs."""
        if not self._running:
            return False
        if len(self._running) < self._most:
            self._most = len(self._running)
            say(f"search    memory does not hold that much: from now on {counted(self._most, 'trial')} at once")
        return True

    def on_trial_complete(self, trial_id: str, result: object = None, error: bool = False) -> None:  # noqa: FBT001, FBT002 - Tune's
        """There is room for another one."""
        self._running.discard(trial_id)
        if self._packs:
            self._packs.give_up(trial_id, broke=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class Verdicts(_Unsaved, FIFOScheduler):
    """Tells each epoch to the ledger, to MLflow and to people, and stops what the search gives up."""

    def __init__(
        self, search: Search, recording: Recording, progress: Progress, problem: Problem, meters: SweepMeters
    ) -> None:
        super().__init__()
        self._search, self._recording, self._progress, self._problem = search, recording, progress, problem
        self._meters = meters

    def on_trial_result(self, tune_controller: object, trial: TuneTrial, result: dict[str, object]) -> str:
        """Go on, or stop."""
        return str(self._problem.noted(lambda: self._judge(trial.config["number"], result)))

    def _judge(self, number: int, result: dict[str, Any]) -> str:
        if result.get(DAMAGED):
            say(f"trial {number:<3} {result[DAMAGED]}")
        numbers = {k: float(v) for k, v in result.items() if isinstance(v, int | float) and _is_score(k)}
        stop = self._search.report(number, numbers, result.get(CHECKPOINT, ""))
        self._recording.changed(number)
        self._progress.epoch(number)
        self._meters.epoch(number, float(result.get("first_step_at") or inf))
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class Ends(_Unsaved, TrialProgressCallback):
    """Tells when trials start and end, and has those whose process broke down taken up again.

    It stands in the place of what Tune would print, and keep every trial for.

    Args:
        search: is told first.
        recording: is told then.
        progress: is told last.
        problem: where errors are kept.
        suggestions: starts fewer trials at once where memory does not hold as many.
        max_failures: times that a trial is taken up.
        packs: in which trials are trained together.
    """

    def __init__(
        self,
        search: Search,
        recording: Recording,
        progress: Progress,
        problem: Problem,
        suggestions: Suggestions,
        *,
        max_failures: int,
        packs: Packs | None = None,
    ) -> None:
        self._packs = packs
        self._search, self._recording, self._progress, self._problem = search, recording, progress, problem
        self._suggestions, self._max_failures = suggestions, max_failures
        self._started: set[int] = set()
        self._kills: dict[int, int] = {}
        self._died_at: dict[int, int] = {}
        self._lost_node_at: dict[int, int] = {}
        self._failures = Counter[int]()
        self._pushed = Counter[tuple[int, int]]()

    def setup(self, **info: object) -> None:
        """Start the table, where there is a terminal to draw it in."""
        self._progress.start()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """A trial begins, or goes on."""
        self._started.add(trial.config["number"])
        self._kills[trial.config["number"]] = kernel_kills()
        self._problem.noted(lambda: self._search.start(trial.config["number"]))
        self._recording.changed(trial.config["number"])
        waited = self._suggestions.taken(trial.config["number"])
        observe("segdist_queue_wait_seconds", waited, sweep=self._search.spec.name)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: object
    ) -> None:
        """The ledger has the epoch. Tune would keep means of every number, of every trial until the last has ended."""
        for name in result.keys() - _OF_TUNE:
            del result[name]

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """A trial ran to its end, or was stopped."""
        self._started.discard(trial.config["number"])
        self._problem.noted(lambda: self._search.end(trial.config["number"]))
        self._recording.changed(trial.config["number"])
        self._progress.ended(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """A trial broke down: it is taken up again, or has failed for good."""
        number, text = trial.config["number"], _with_node(error_text(trial))
        if number not in self._started:  # its process died before it began
            self.on_trial_start(iteration, trials, trial)
        kind = self._kind(number, text)
        self._started.discard(number)
        if self._search.ledger[number].state != "running":  # it had done its part
            self.on_trial_complete(iteration, trials, trial)
        elif PreemptedError.__name__ in text:
            self._taken_up(self._problem.noted(lambda: self._search.moved(number, why(text))), "node")
        elif kind in _MEMORY:
            self._short_of_memory(number, kind, text)
        elif (kind == "node" and self._came_further(number)) or self._may_go_on(number, text):
            self._taken_up(self._problem.noted(lambda: self._search.again(number, why(text))), kind)
        elif self._is_for_all(text):
            self._problem.noted(partial(self._give_up, number, why(text)))
        else:
            self._problem.noted(lambda: self._search.fail(number, why(text)))
            self._recording.changed(number, error=text)
            self._progress.ended(number)

    def _short_of_memory(self, number: int, kind: str, text: str) -> None:
        """Have a trial taken up alone, later, or with half the images at once: the first that may help."""
        search, reason = self._search, why(text)
        kill = MemoryKill.of(text)
        taken_up: Callable[[], Trial]
        if self._packs and self._packs.part(number):
            taken_up = partial(search.again, number, f"on its own: {reason}")
        elif kind == "killed for memory" and self._suggestions.let_less_run():
            taken_up = partial(search.again, number, reason)
        elif kill and kill.is_of_others:
            taken_up = self._pushed_out(number, kill)
        else:
            taken_up = partial(search.out_of_memory, number, reason)
        self._taken_up(self._problem.noted(taken_up), kind, error=text)

    def _pushed_out(self, number: int, kill: MemoryKill) -> Callable[[], Trial]:
        """What to do with a trial that runs alone and yet had to go for what others hold: it need not be too large.

        They may leave; they may stay, so that fewer images fit beside them; and then it has failed, and the search
        learns nothing about its values.
        """
        trial = self._search.ledger[number]
        at = number, trial.last_epoch
        self._pushed[at] += 1
        if self._pushed[at] <= len(_PAUSES):
            seconds = _PAUSES[self._pushed[at] - 1]
            self._suggestions.pause(seconds)
            return partial(self._search.again, number, f"in {seconds:.0f} seconds: {kill}")
        if self._search.micro_batch(trial) > 1:
            return partial(self._search.out_of_memory, number, str(kill))
        fix = "Have them end or hold less, and run the sweep again, which takes the trial up."
        return partial(self._search.fail, number, f"{kill} It waited for them {counted(len(_PAUSES), 'time')}. {fix}")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: object) -> None:
        """Trials that never began are taken up again.

        Where the one before did not leave a process in time, Tune gives up the next one that was to have it, and tells
        nobody: it would be waited for forever.
        """
        for trial in trials:
            if trial.status == TuneTrial.ERROR and self._suggestions.still_awaits(trial.trial_id):
                self._suggestions.on_trial_complete(trial.trial_id, error=True)
                self.on_trial_error(iteration, trials, trial)

    def _is_for_all(self, text: str) -> bool:
        """Whether a trial ended for what ends the others, too: a storage, or the disk of all, that is full or away."""
        cause = cause_of(text)
        if cause is None or cause.kind not in OF_STORAGE:
            return False
        return cause.is_here or absolute(self._search.spec.storage) in why(text)

    def _give_up(self, number: int, reason: str) -> None:
        self._search.interrupt(number, reason)
        raise StorageError(f"{reason}\nWhat is done is kept; the same command goes on with it.")

    def _taken_up(self, trial: Trial, kind: str, *, error: str = "") -> None:
        """Tell of a trial that waits to be taken up again, or has ended because memory does not hold it."""
        self._recording.changed(trial.number, error=error if trial.has_ended else "")
        if trial.has_ended:
            self._progress.ended(trial.number)
        else:
            self._progress.taken_up(trial.number)
            count("segdist_retries", sweep=self._search.spec.name, cause=kind or "other")
            if kind == "node":
                count("segdist_preemptions", sweep=self._search.spec.name)

    def _kind(self, number: int, text: str) -> str:
        """The kind of cause that ended a trial's process.

        Of one that the kernel ended nobody but the kernel knows why. A second end at the same epoch is taken for one
        of memory, as long as less can be held at once.
        """
        cause = cause_of(text)
        if cause is None or cause.kind != "process":
            return cause.kind if cause else ""
        if kernel_kills() > self._kills.get(number, 0):
            return "killed for memory"
        trial = self._search.ledger[number]
        is_second = self._died_at.get(number) == trial.last_epoch
        self._died_at[number] = trial.last_epoch
        return "memory" if is_second and self._search.micro_batch(trial) > 1 else "process"

    def _came_further(self, number: int) -> bool:
        """Whether a trial whose node is gone has done an epoch since it lost one before: it is not what ends them."""
        epoch = self._search.ledger[number].last_epoch
        before, self._lost_node_at[number] = self._lost_node_at.get(number, -1), epoch
        return epoch > before

    def _may_go_on(self, number: int, text: str) -> bool:
        """Whether a trial that broke down is taken up again; one whose loss is not finite has been, inside."""
        self._failures[number] += 1
        return self._failures[number] <= self._max_failures and DivergedError.__name__ not in text

    def on_experiment_end(self, trials: list[TuneTrial], **info: object) -> None:
        """Trials that are still open were interrupted; running the sweep again goes on with them."""
        for trial in self._search.ledger.trials:
            if trial.state == "running":
                self._problem.noted(partial(self._search.interrupt, trial.number, _STOPPED))
                self._recording.changed(trial.number)
        self._progress.stop()


@contextmanager
def broken_down_alone() -> Iterator[None]:
    """What ends one trial's process ends no other's.

    Ray's actor manager knows of two errors that a process may meet. At any other, as when Ray's memory monitor ended it
    or its node is gone, it ends the whole experiment.
    """
    known = RayActorManager._actor_task_failed

    def failed(manager: RayActorManager, tracked_actor_task: object, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        known(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = known


def kernel_kills() -> int:
    """Processes that the kernel of this machine has ended for memory since it started; 0 where it does not say."""
    try:
        counts = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", counts, re.MULTILINE)
    return int(found[1]) if found else 0


def _with_node(text: str) -> str:
    """What ended a trial, with the death of its node where that is why its process died."""
    cause = cause_of(text)
    return f"NodeDiedError\n{text}" if cause and cause.kind == "process" and node_is_gone(text) else text


def error_text(trial: TuneTrial) -> str:
    """The traceback that ended a trial."""
    file = trial.error_file
    return Path(file).read_text() if file and Path(file).exists() else "no error was recorded"
