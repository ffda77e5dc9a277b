"""The checkpoints of one trial in the storage: written whole or not at all, checked when they are read.

A checkpoint is a folder of files and, written last, `complete.json`: the SHA-256 of each of them, and what every epoch
so far reported, because a trial may have come further than its driver, which was killed, could write down. Two are
kept: the latest, from which a trial goes on, and the one with the best score, whose model is kept.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf, isfinite
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from segdist.core import storage
from segdist.core.causes import cause_of
from segdist.core.errors import StorageError
from segdist.searching.ledger import Ledger, checkpoints_of
from segdist.sweepfile.objectives import is_minimised

MARKER = "complete.json"
CHECKPOINT = "checkpoint_uri"
"""Under which an epoch's report names what was saved after it; "" where nothing was, or it is kept no more."""


class DamagedError(StorageError):
    """A checkpoint is not what was written; one before it may be."""


class Checkpoints:
    """Those of one trial.

    Args:
        folder: of this trial alone.
        is_better: whether a score is at least as good as another one.
    """

    def __init__(self, folder: str, *, is_better: Callable[[float, float], bool]) -> None:
        self._folder, self._is_better = folder, is_better
        self._best: tuple[float, str] | None = None
        self._history: list[dict[str, object]] = []

    def note(self, metrics: Mapping[str, float]) -> None:
        """Remember what an epoch reported, before its checkpoint is saved."""
        self._history.append({k: v for k, v in metrics.items() if isinstance(v, int | float) and isfinite(v)})

    def reported(self) -> list[dict[str, Any]]:
        """What each epoch up to now reported; of earlier processes too, once `latest` was read."""
        kept = set(self._places())
        return [{**one, CHECKPOINT: place if (place := one.get(CHECKPOINT)) in kept else ""} for one in self._history]

    def save(self, files: Path, *, epoch: int, score: float | None) -> str:
        """Keep a local folder as the checkpoint after an epoch; the URI that it has then.

        Raises:
            StorageError: it cannot be written; those before are still there.
        """
        if score is not None and not isfinite(score):
            score = None  # undefined, as where validation has no object: it is the best of nothing
        place = storage.join(self._folder, f"{epoch:05d}")
        if self._history:
            self._history[-1][CHECKPOINT] = place
        self._write(files, place, {"epoch": epoch, "score": score, "history": self._history})
        if score is not None and (self._best is None or self._is_better(score, self._best[0])):
            self._best = score, place
        kept = {place, self._best[1] if self._best else place}
        for old in self._places():
            if old not in kept:
                _remove(old)
        return place

    def save_midway(self, files: Path, *, epochs: int, steps: int) -> None:
        """Keep a local folder as the checkpoint after some steps of an epoch, beside those that are kept.

        Args:
            files: of the checkpoint.
            epochs: that are done.
            steps: of the next one.

        Raises:
            StorageError: it cannot be written; those before are still there.
        """
        place = storage.join(self._folder, f"{epochs:05d}-{steps:07d}")
        about = {"epoch": epochs, "steps": steps, "score": None, "history": self._history}
        self._write(files, place, about)

    def _write(self, files: Path, place: str, about: Mapping[str, object]) -> None:
        storage.remove(place)  # half of it may be there
        sums = {}
        for file in sorted(f for f in files.rglob("*") if f.is_file()):
            name = file.relative_to(files).as_posix()
            sums[name] = _digest(file)
            storage.upload(file, storage.join(place, name))
        storage.write_json(storage.join(place, MARKER), {**about, "sha256": sums})

    @contextmanager
    def latest(self, report: Callable[[str], None]) -> Iterator[Path | None]:
        """A copy of the latest checkpoint that is whole; None where there is none.

        Args:
            report: told of each that is damaged, which is removed; the one before it is taken instead.

        Raises:
            StorageError: the disk here is full, the storage is away or closed; what is there stays.
        """
        self._history, places = [], self._places()
        for place in places:
            about = storage.read_json(storage.join(place, MARKER))
            score = about.get("score")
            if score is not None and (self._best is None or self._is_better(score, self._best[0])):
                self._best = score, place
        with TemporaryDirectory(prefix="segdist-") as folder:
            for place in reversed(places):
                local = Path(folder) / PurePosixPath(place).name
                try:
                    fetch(place, local)
                except DamagedError as error:
                    report(str(error))
                    _remove(place)
                    if self._best and self._best[1] == place:
                        self._best = None
                else:
                    self._history = storage.read_json(storage.join(place, MARKER))["history"]
                    yield local
                    return
            yield None

    def _places(self) -> list[str]:
        """The complete ones, the oldest first."""
        ends = f"/{MARKER}"
        return sorted(e.uri.removesuffix(ends) for e in storage.find(self._folder, suffix=ends))


def thin(ledger: Ledger, *, metric: str, keep: int) -> int:
    """Remove what nothing needs when a sweep is done, but for the best trials; of how many trials.

    A trial that waits or was cut off goes on from its own, one that failed is tried again from it, and one whose model
    MLflow does not have yet keeps it. All others have ended, however far the sweep is widened.
    """
    ended = [t for t in ledger.trials if t.has_ended and t.state != "failed" and t.tracked and not t.is_cut_off]
    scored = [t for t in ended if t.best and not t.broken]
    sign = 1 if is_minimised(metric) else -1
    best = {t.number for t in sorted(scored, key=lambda t: sign * t.best.score if t.best else inf)[:keep]}
    over = [t.number for t in ended if t.number not in best and not t.thinned]
    for number in over:
        storage.remove(checkpoints_of(ledger.folder, number))
        ledger.change(number, thinned=True)
    return len(over)


def fetch(place: str, folder: Path) -> None:
    """Copy a checkpoint here.

    Raises:
        DamagedError: it is not whole, or a file of it is not what was written.
        StorageError: the disk here is full, the storage is away or closed.
    """
    try:
        _fetch(place, folder)
    except StorageError as error:
        cause = cause_of(error)
        if cause is None or cause.kind == "broken disk":
            raise DamagedError(str(error)) from error
        raise


def _fetch(place: str, folder: Path) -> None:
    about = storage.read_json(storage.join(place, MARKER))
    for name, digest in about["sha256"].items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise StorageError(f"The checkpoint {place} is damaged: it names the file {name}, which is outside of it.")
        file.parent.mkdir(parents=True, exist_ok=True)
        storage.download(storage.join(place, name), file)
        if _digest(file) != digest:
            raise StorageError(
                f"The checkpoint {place} is damaged: {name} is not what was written (SHA-256 {digest[:12]}...). "
                "Look at the disk; the checkpoint before it is taken where there is one."
            )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove(place: str) -> None:
    """The marker first: half of a checkpoint must not look like one."""
    storage.remove(storage.join(place, MARKER))
    storage.remove(place)
