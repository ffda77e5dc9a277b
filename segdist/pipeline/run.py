"""The main job: `run` and `train` of a sweep file. What is done already is known without Ray, torch or MLflow."""

import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segdist.core import storage
from segdist.core.redaction import redact
from segdist.core.spec import SweepSpec, digest
from segdist.core.terminal import say
from segdist.core.text import minutes
from segdist.datasets.ingest import ingest_key
from segdist.labelling.corrections import Corrections, corrections_uri
from segdist.pipeline.travelling import taken_along
from segdist.sweepfile.loading import load, trials_of
from segdist.sweepfile.overrides import as_override

DONE = "done.json"
"""In a sweep's folder, once its report is written."""


def run(sweep: str | os.PathLike[str], **overrides: object) -> str:
    """Label, search, evaluate and report, as `segdist run` does; called again, it goes on where it stopped.

    Args:
        sweep: the sweep file.
        **overrides: values of its keys, as on the command line: `**{"search.trials": 4}`; a mapping replaces what is
            there, whatever the key: `search={"trials": 4, "startup_trials": 2}`.

    Returns:
        The id of its run in MLflow; `compare` takes its name.

    Raises:
        SegdistError: something a user can mend, named with its fix.
    """
    return run_sweep(os.fspath(sweep), [as_override(key, value) for key, value in overrides.items()])


def run_sweep(file: str, overrides: Sequence[str]) -> str:
    """Do whatever of a sweep is not done yet; the id of its run in MLflow.

    Raises:
        SegdistError: something a user can fix, named with its fix.
    """
    return _run(load(file, overrides), file, kind="sweep")


def train_once(file: str, overrides: Sequence[str], *, save: Path | None = None) -> str:
    """Train the untuned run of a sweep file as a sweep of one trial; the id of its run in MLflow.

    Args:
        file: the sweep file.
        overrides: `key=value`.
        save: also write the trained model folder here.
    """
    spec = load(file, overrides)
    parent = _run(spec.model_copy(update={"space": {}}), file, kind="train")
    if save:
        from segdist.tracking import Tracker

        tracker = Tracker.for_sweep(spec)
        with TemporaryDirectory(prefix="segdist-") as folder:
            model = tracker.model(tracker.trials(parent, spec.search.metric)[0].run_id, Path(folder))
            shutil.copytree(model, save, dirs_exist_ok=True)
        say(f"model     {save}")
    return parent


def _run(spec: SweepSpec, file: str, *, kind: str) -> str:
    started = time.monotonic()
    storage.check_writable(spec.storage)
    fingerprint = _fingerprint(spec, kind)
    folder = _folder(spec, fingerprint)
    if done := _done(folder, spec):
        say(f"{spec.name} is done: nothing to do. Change a key, or name another `storage`, to run it anew.")
        say(done.said)
        return done.run_id
    from segdist.pipeline.steps import do_steps
    from segdist.searching.budget import metered

    with taken_along(spec.resources.environment), metered(folder) as meter:
        end = do_steps(spec, file, kind=kind, fingerprint=fingerprint, folder=folder, meter=meter)
    budget = _bounds(spec) if end.was_cut_off else {}
    storage.write_json(storage.join(folder, DONE), asdict(_Done(end.run_id, _asked(spec), end.said, budget)))
    say(f"took      {minutes(time.monotonic() - started)}")
    return end.run_id


@dataclass(frozen=True)
class _Done:
    """What is left of a sweep that came to its end, so that another start need not ask anybody."""

    run_id: str
    asked: dict[str, object]
    said: str
    budget: dict[str, float] = field(default_factory=dict)
    """What it was bounded by, where that left something undone."""


def _asked(spec: SweepSpec) -> dict[str, Any]:
    """What of a question's extent a further start would have to do something about."""
    return {
        "trials": trials_of(spec),
        "tracking": redact(spec.tracking.uri),
        "constraints": spec.search.constraints,
        "objectives": list(spec.search.objectives),
        "confirm": spec.search.confirm.model_dump() if spec.search.confirm and spec.space else None,
        "grid": spec.model_dump(mode="json", include={"space"}) if spec.search.sampler == "grid" else {},
    }


def _bounds(spec: SweepSpec) -> dict[str, float]:
    """The budget in hours: of the wall clock, of GPUs and, what money buys, of nodes."""
    asked, price = spec.search.budget, spec.resources.price_per_hour
    if asked is None:
        return {}
    bought = asked.money / price if asked.money and price else None
    found = {"hours": asked.hours, "gpu_hours": asked.gpu_hours, "node_hours": bought}
    return {key: hours for key, hours in found.items() if hours is not None}


def _done(folder: str, spec: SweepSpec) -> _Done | None:
    """The end of the sweep, where it has come to one with at least as many trials and as large a budget."""
    uri = storage.join(folder, DONE)
    if not storage.exists(uri):
        return None
    found, asked = _Done(**storage.read_json(uri)), _asked(spec)
    known = {"constraints": {}, "objectives": [], "confirm": None, "grid": {}, **found.asked}
    is_same = {**known, "trials": 0} == {**asked, "trials": 0}
    bounds = _bounds(spec)
    is_no_larger = all(bounds.get(key, math.inf) <= hours for key, hours in found.budget.items())
    return found if is_same and is_no_larger and known["trials"] >= asked["trials"] else None


def folder_of(spec: SweepSpec, kind: str = "sweep") -> str:
    """The folder of a sweep, or of a single training ("train"), whether or not it was started."""
    return _folder(spec, _fingerprint(spec, kind))


def _folder(spec: SweepSpec, fingerprint: str) -> str:
    """The sweep's own place in the storage."""
    return storage.join(storage.absolute(spec.storage), "sweeps", spec.name, fingerprint)


def _fingerprint(spec: SweepSpec, kind: str) -> str:
    """Names the work: other data, or other decisions of people about their labels, are another sweep."""
    key = ingest_key(spec)
    decided = Corrections.load(corrections_uri(spec.storage, key)).fingerprint if spec.label else ""
    return digest([kind, spec.sweep_fingerprint, key, *([decided] if decided else [])])
