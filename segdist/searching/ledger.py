"""The ledger of a sweep: one small file a trial, written whole each time something happens to it.

It is the only record that a start goes on from. Ray Tune runs trials and forgets them, Optuna's study is made anew from
the ledger, MLflow shows what the ledger knows; none of them is asked what was done. Beside the trials lies
`sweep.json`: the sweep as it was last started, and whether it is done.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Literal, Self

from pydantic import ValidationError

from segdist.core import storage
from segdist.core.errors import StorageError
from segdist.core.spec import Strict, digest
from segdist.searching.budget import OVER
from segdist.searching.cost import Cost, Held
from segdist.sweepfile.objectives import COSTS

VERSION: Literal[1] = 1
State = Literal["waiting", "running", "finished", "stopped", "failed", "infeasible"]
"""waiting: to be taken up, from its checkpoint where it has one. stopped: early, by the search, as it was no good.
infeasible: it ended, but breaks a constraint, or memory does not hold it."""
ENDED: tuple[State, ...] = ("finished", "stopped", "failed", "infeasible")
IN_VAIN: tuple[State, ...] = ("stopped", "failed", "infeasible")
MEMORY = "memory"
"""The constraint that a trial breaks which memory does not hold."""
_READERS = 32
"""Files read at once: in an object store each costs a round trip."""


class Epoch(Strict):
    """One epoch of a trial."""

    epoch: int
    """From 1."""
    metrics: dict[str, float]
    """By MLflow's names; finite."""
    seconds: float = 0.0
    """That it took."""
    at: float = 0.0
    """When it was told, in seconds since 1970; 0 where that is not known."""


class Saved(Strict):
    """A checkpoint."""

    uri: str
    """Its folder."""
    epoch: int
    """After which it was saved."""


class Best(Saved):
    """The checkpoint with the best score."""

    score: float
    """In the search metric."""


class Trial(Strict):
    """What is known of one trial.

    Its number, values and whether it is the baseline are given when it is suggested, and never change.
    """

    version: Literal[1] = 1
    number: int
    """From 0, in the order of suggestion; what `SWEEP#NUMBER` means."""
    values: dict[str, Any]
    """Of the searched keys."""
    is_baseline: bool = False
    """Whether they are the sweep file's own."""
    seed: int = 0
    """Of its weights, order and augmentation."""
    repeats: str = ""
    """Key of the trial of the search whose values it learns with another seed; "" for one of the search itself."""
    state: State = "waiting"
    """What became of it."""
    reason: str = ""
    """Why it ended or waits, where there is more to say."""
    epochs: tuple[Epoch, ...] = ()
    """In order, each once."""
    latest: Saved | None = None
    """What it goes on from."""
    best: Best | None = None
    """What its model is taken from."""
    constraints: dict[str, float | None] = {}
    """By name, by how much each is broken: 0 or less where it holds, None where it was not measured."""
    micro_batch: int | None = None
    """Images of a worker's forward pass, where the run's own were too many; `resources.micro_batch` otherwise."""
    too_large: bool = False
    """Whether memory did not hold one image at a time."""
    thinned: bool = False
    """Whether its checkpoints were removed, after MLflow had its model."""
    starts: int = 0
    """Times it was started or taken up."""
    spent: Held = Held()
    """What it held so far; `cost` says what counts."""
    of_use: Held = Held()
    """What of that led to its latest checkpoint."""
    lost: Held = Held()
    """What of that is done again."""
    machine: str = ""
    """Where it ran last."""
    tracked: str = ""
    """The tracking URI under which all of it is recorded; "" while that is to be done."""

    @property
    def key(self) -> str:
        """Names the trial within its sweep: one that takes the number of a deleted one is another."""
        return f"{self.number:04d}-{digest(self.settings)[:8]}"

    @property
    def settings(self) -> dict[str, object]:
        """What it changes of the sweep file: its values, and its seed where that is its own."""
        return {**self.values, "seed": self.seed} if self.repeats else self.values

    @property
    def broken(self) -> dict[str, float | None]:
        """The constraints that do not hold, or are not known to."""
        return {name: by for name, by in self.constraints.items() if by is None or by > 0}

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state in ENDED

    @property
    def last_epoch(self) -> int:
        """0 before the first."""
        return self.epochs[-1].epoch if self.epochs else 0

    @property
    def seconds(self) -> float:
        """Spent in the epochs that count: what was done again after a crash is counted once."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def wasted(self) -> Held:
        """What it held in vain."""
        return self.spent if self.state in IN_VAIN and not self.is_cut_off else self.lost

    @property
    def is_cut_off(self) -> bool:
        """Whether it was ended because the budget was spent: its model counts, and it may go on."""
        return self.state == "stopped" and self.reason == OVER

    @property
    def measured(self) -> dict[str, float]:
        """What is known of its model: the metrics of the epoch it is taken from, and what it costs, from any epoch."""
        kept = self.best.epoch if self.best else self.last_epoch
        costs = {name: value for e in self.epochs for name, value in e.metrics.items() if name in COSTS}
        return costs | next((e.metrics for e in self.epochs if e.epoch == kept), {})

    def scores(self, metric: str, *, until: int | None = None) -> list[float]:
        """Of its epochs, or of those up to one."""
        counted = (e for e in self.epochs if until is None or e.epoch <= until)
        return [e.metrics[metric] for e in counted if metric in e.metrics]

    def with_epoch(self, epoch: Epoch) -> Self:
        """The trial after one more epoch; one that is repeated since a checkpoint takes the place of what it was."""
        before = tuple(e for e in self.epochs if e.epoch < epoch.epoch)
        return self.model_copy(update={"epochs": (*before, epoch)})

    def from_latest(self) -> Self:
        """The trial as its latest checkpoint knows it: what it did after it is done again."""
        last = self.latest.epoch if self.latest else 0
        epochs = tuple(e for e in self.epochs if e.epoch <= last)
        is_cut_short = self.state != "waiting" or len(epochs) < len(self.epochs)
        lost = self.spent - self.of_use if is_cut_short else self.lost
        return self.model_copy(update={"state": "waiting", "epochs": epochs, "lost": lost})


class Ledger:
    """The trials of one sweep.

    Args:
        folder: a folder or prefix of its own; made with the first trial.

    Raises:
        StorageError: a file of it is damaged, or of a later version.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._trials = {trial.number: trial for trial in sorted(self._read(), key=lambda trial: trial.number)}
        self._listener: Callable[[Trial], object] = lambda _: None

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All of them, by number."""
        return tuple(self._trials.values())

    def __len__(self) -> int:
        return len(self._trials)

    def listen(self, listener: Callable[[Trial], object]) -> None:
        """Who is told each trial: all of them now, and from now on each that is written; the last who asked, alone."""
        self._listener = listener
        for trial in self._trials.values():
            listener(trial)

    @property
    def cost(self) -> Cost:
        """Of all trials together."""
        return Cost.of((trial.spent, trial.wasted) for trial in self.trials)

    @property
    def searched(self) -> tuple[Trial, ...]:
        """Those of the search."""
        return tuple(trial for trial in self.trials if not trial.repeats)

    @property
    def repeats(self) -> tuple[Trial, ...]:
        """Those that train one of the search again."""
        return tuple(trial for trial in self.trials if trial.repeats)

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    @property
    def next_number(self) -> int:
        """That of the next suggestion: the lowest that is free."""
        return next(number for number in count() if number not in self._trials)

    def write(self, trial: Trial) -> None:
        """Keep what is now known of a trial; when this returns it outlives a crash.

        Raises:
            StorageError: it cannot be written.
        """
        self._save(trial)
        if trial.number in self._trials:
            self._trials[trial.number] = trial
        else:  # another dictionary, for a thread may be reading this one; sorted, for one of a lower number may be gone
            self._trials = dict(sorted({**self._trials, trial.number: trial}.items()))
        self._listener(trial)

    def change(self, number: int, **changes: object) -> Trial:
        """Write some fields of a trial anew."""
        trial = self._trials[number].model_copy(update=changes)
        self.write(trial)
        return trial

    def _save(self, trial: Trial) -> None:
        storage.write_atomic(self._uri(trial.number), trial.model_dump_json().encode())

    def _uri(self, number: int) -> str:
        return storage.join(self.folder, "trials", f"{number:04d}.json")

    def _read(self) -> Iterable[Trial]:
        files = [entry.uri for entry in storage.find(storage.join(self.folder, "trials"), suffix=".json")]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self._read_one, files))

    def _read_one(self, uri: str) -> Trial:
        trial = _trial(uri)
        if self._uri(trial.number).rpartition("/")[2] != uri.rpartition("/")[2]:
            raise StorageError(
                f"{uri} must be of the trial that its name says, but holds trial {trial.number}. Give it back its name."
            )
        return trial


def checkpoints_of(folder: str, number: int) -> str:
    """Where a trial of the sweep with this folder keeps its checkpoints."""
    return storage.join(folder, "checkpoints", f"{number:04d}")


def _trial(uri: str) -> Trial:
    content = storage.read_json(uri)
    if isinstance(content, Mapping) and content.get("version", VERSION) != VERSION:
        raise StorageError(
            f"{uri} was written by another version of segdist (ledger {content['version']}, this one knows {VERSION}). "
            "Go on with that version, or name another `storage`."
        )
    try:
        return Trial.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise StorageError(
            f"{uri} must be a trial of a sweep, but {where}: {first['msg']}. It is damaged: restore it from a backup, "
            "or delete it to have its trial suggested and trained anew."
        ) from error
