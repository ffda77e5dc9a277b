"""Other trackers that show the trials of a sweep, too, on request: one file each, by the name in `tracking.also`.

Nothing is ever read from them. Each is told a trial as the ledger knows it, as often as there is news of it.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, Self

from segdist.core import storage
from segdist.core.errors import SpecError
from segdist.core.extras import install
from segdist.tracking.mirrors.shown import Shown

__all__ = ["Mirror", "Mirrors", "Shown"]


class Mirror(Protocol):
    """One other tracker.

    A module of this package has one as `Mirror`, made of the folder that it writes to and the name of the sweep.
    """

    def show(self, trial: Shown) -> None:
        """Make the folder of a trial show all that is known of it, each point once, whatever was shown before."""

    def close(self) -> None:
        """Leave nothing open."""


class Mirrors:
    """All that a sweep asks for.

    Args:
        kinds: names of modules of this package.
        place: the sweep's own folder or prefix; each tracker has a folder below it, and each trial one below that.
        sweep: its name.

    Raises:
        SpecError: a library is not installed.
    """

    def __init__(self, kinds: Sequence[str], place: str, *, sweep: str) -> None:
        self._scratch = TemporaryDirectory(prefix="segdist-") if kinds and "://" in place else None
        self._root, self._place = Path(self._scratch.name if self._scratch else place), place
        self._mirrors = {kind: _made(kind, self._root / kind, sweep) for kind in kinds}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for mirror in self._mirrors.values():
            mirror.close()
        if self._scratch:
            self._scratch.cleanup()

    def show(self, trial: Shown) -> None:
        """Tell all of them of a trial. In an object store its files are there when it has ended."""
        for kind, mirror in self._mirrors.items():
            mirror.show(trial)
            if self._scratch and trial.has_ended:
                storage.remove(storage.join(self._place, kind, trial.name))
                for file in sorted(f for f in (self._root / kind / trial.name).rglob("*") if f.is_file()):
                    storage.upload(
                        file, storage.join(self._place, kind, file.relative_to(self._root / kind).as_posix())
                    )

    def show_missing(self, trial: Shown) -> None:
        """The same of a trial that one of them has nothing of: it was not asked for when that ran."""
        if not all(any(storage.find(storage.join(self._place, kind, trial.name))) for kind in self._mirrors):
            self.show(trial)


def _made(kind: str, folder: Path, sweep: str) -> Mirror:
    try:
        made: Mirror = importlib.import_module(f"{__name__}.{kind}").Mirror(folder, sweep)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"`tracking.also: [{kind}]` needs {error.name}, which is not installed: {install(str(error.name))}"
        ) from error
    return made
