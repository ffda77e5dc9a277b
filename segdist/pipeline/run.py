"""The main job: ingest, label, search, evaluate, report. Each step does only what is missing."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from segdist import pages
from segdist.commands.diff import standing
from segdist.commands.promote import register_winner
from segdist.core import storage
from segdist.core.errors import BackendError, DataError
from segdist.core.records import LabelledImages
from segdist.core.redaction import redact
from segdist.core.spec import SweepSpec, digest
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.datasets.ingest import ingest_key
from segdist.datasets.shards import Dataset
from segdist.labelling.corrections import Corrections, corrections_uri
from segdist.metrics import Evaluator, formulas
from segdist.pipeline.cluster import connected
from segdist.pipeline.evaluate import DONE as EVALUATED
from segdist.pipeline.evaluate import evaluate_on_test, evaluate_trials, evaluator_on_val
from segdist.pipeline.importance import importance
from segdist.pipeline.ingest import ingest
from segdist.pipeline.label_sets import LabelSet, make_label_sets
from segdist.pipeline.sweep import search
from segdist.pipeline.trial import Job
from segdist.sweepfile import label_policies
from segdist.sweepfile.loading import load, trials_of
from segdist.sweepfile.overrides import as_override
from segdist.tracking import Tracker, names

NEXT_BEST = 4
"""Trials that the best one is compared with."""
DONE = "done.json"
"""In a sweep's folder, once its report is written."""


class InterruptedSweepError(BackendError):
    """The search was stopped before its last trial; the same command goes on with it."""


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
        tracker = Tracker.for_sweep(spec)
        with TemporaryDirectory(prefix="segdist-") as folder:
            model = tracker.download(tracker.trials(parent, spec.search.metric)[0].run_id, "model", Path(folder))
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
    tracker = Tracker.for_sweep(spec)
    tracker.close_abandoned()
    dataset = ingest(spec)
    _say_dataset(dataset)
    _check_learnable(spec, dataset)
    with connected() as ray:
        labels = make_label_sets(spec, dataset, say) if spec.label else []
        for one in labels:
            _say_labels(one)
        parent = _open(tracker, spec, file, kind, fingerprint, dataset, labels)
        with _closing(tracker, parent):
            job = _job(spec, folder, dataset, labels)
            best = _search(ray, tracker, spec, parent, job, labels)
            if kind == "sweep" and best:
                _register_winner(ray, tracker, spec, parent, best, job)
            _finish(tracker, spec, parent)
    said = _conclude(tracker, spec, parent)
    storage.write_json(storage.join(folder, DONE), asdict(_Done(parent, _asked(spec), said)))
    say(f"took      {_minutes(time.monotonic() - started)}")
    return parent


@dataclass(frozen=True)
class _Done:
    """What is left of a sweep that came to its end, so that another start need not ask anybody."""

    run_id: str
    asked: dict[str, object]
    said: str


def _asked(spec: SweepSpec) -> dict[str, Any]:
    """What of a question's extent a further start would have to do something about."""
    return {"trials": trials_of(spec), "tracking": redact(spec.tracking.uri), "constraints": spec.search.constraints}


def _done(folder: str, spec: SweepSpec) -> _Done | None:
    """The end of the sweep, where it has come to one with at least as many trials."""
    uri = storage.join(folder, DONE)
    if not storage.exists(uri):
        return None
    found, asked = _Done(**storage.read_json(uri)), _asked(spec)
    known = {"constraints": {}, **found.asked}
    is_same = all(known[key] == asked[key] for key in ("tracking", "constraints"))
    return found if is_same and known["trials"] >= asked["trials"] else None


def _folder(spec: SweepSpec, fingerprint: str) -> str:
    """The sweep's own place in the storage."""
    return storage.join(storage.absolute(spec.storage), "sweeps", spec.name, fingerprint)


def _fingerprint(spec: SweepSpec, kind: str) -> str:
    """Names the work: other data, or other decisions of people about their labels, are another sweep."""
    key = ingest_key(spec)
    decided = Corrections.load(corrections_uri(spec.storage, key)).fingerprint if spec.label else ""
    return digest([kind, spec.sweep_fingerprint, key, *([decided] if decided else [])])


def _open(
    tracker: Tracker,
    spec: SweepSpec,
    file: str,
    kind: str,
    fingerprint: str,
    dataset: Dataset,
    labels: Sequence[LabelSet],
) -> str:
    parent = tracker.start_sweep(
        spec.name,
        fingerprint,
        spec_text=spec.model_dump_json(indent=1),
        spec_file=file,
        tags={"segdist.kind": kind, "segdist.question": spec.question, "segdist.trials": trials_of(spec)},
        params={"search.metric": spec.search.metric},
        dataset=dataset.manifest,
    )
    tracker.log_json(parent, _summary(labels), pages.SUMMARY)
    return parent


def _job(spec: SweepSpec, folder: str, dataset: Dataset, labels: Sequence[LabelSet]) -> Job:
    """What the sweep's trials have in common."""
    return Job(
        run=spec.run,
        dataset_uri=dataset.uri,
        labels_uri=labels[0].labels.uri if labels else "",
        boxes_only=tuple(spec.data.boxes_only),
        storage_path=folder,
        metric=spec.search.metric,
        is_costed=bool(spec.space and spec.search.constraints),
        labels_of_policy={one.policy.name: one.labels.uri for one in labels} if len(labels) > 1 else {},
    )


def _search(
    ray: ModuleType, tracker: Tracker, spec: SweepSpec, parent: str, job: Job, labels: Sequence[LabelSet]
) -> str:
    """Run the missing trials, and score the winner on the test split; the winner's run, "" where nothing was found."""
    tags = {"segdist.dataset": Dataset.open(job.dataset_uri).manifest.content_hash}
    if len(labels) == 1:
        tags["segdist.labels"] = labels[0].labels.manifest.content_hash
    found = search(spec, job, ray, tracker, parent, tags)
    if not found.is_done:
        tracker.close_orphans(parent)
        raise InterruptedSweepError(
            f"`{spec.name}` was stopped with {found.done} of {counted(found.total, 'trial')} done. "
            "The same command goes on with it."
        )
    board = pages.leaderboard(tracker, spec.name, parent_run_id=parent)
    best = "" if board.nothing_feasible else _winner(board)
    evaluate_trials(ray, tracker, parent, job)
    if board.found_nothing or not best:
        return ""
    _compare_with_next(tracker, spec, parent, job)
    metrics = evaluate_on_test(ray, tracker, best, job)
    if metrics:
        say(f"test      iou {metrics['test/iou']:.3f}, dice {metrics['test/dice']:.3f} (the winner alone)")
    return best


def _winner(board: pages.Leaderboard) -> str:
    """The run of the best trial that kept a model: one that failed after some epochs kept none."""
    if board.best is None or board.best.status != "FINISHED":
        raise BackendError(
            f"No trial of `{board.sweep.name}` ended with a score in `{board.metric}`: see their metrics in MLflow."
        )
    return board.best.run_id


def _compare_with_next(tracker: Tracker, spec: SweepSpec, parent: str, job: Job) -> None:
    """Record how clearly the best trial is better than the next, where people drew the masks that decide it."""
    counts = Dataset.open(job.dataset_uri).manifest.splits["val"]
    if "val" in job.boxes_only or counts.masks < counts.instances:
        return
    board = pages.leaderboard(tracker, spec.name, parent_run_id=parent)
    metric = spec.search.metric.partition("/")[2]
    evaluated = [t for t in board.trials if t.status == "FINISHED" and not t.broken and EVALUATED in t.metrics]
    best, others = board.best, evaluated[1 : 1 + NEXT_BEST]
    if best is None or not others or best is not evaluated[0] or metric not in formulas():
        return
    found = standing(tracker, best.run_id, [t.run_id for t in others], metric=metric)
    close = [t.number for t, one in zip(others, found.differences, strict=True) if one.winner != 1]
    said = {
        "best": best.number,
        "compared": [t.number for t in others],
        "close": close,
        "chance": found.chance,
        "images": len(found.differences[0].images),
    }
    tracker.tag(parent, names.STANDING, json.dumps(said))


def _register_winner(ray: ModuleType, tracker: Tracker, spec: SweepSpec, parent: str, best: str, job: Job) -> None:
    def measure(run_id: str, rows: LabelledImages, metric: str) -> Evaluator:  # noqa: ARG001 - a worker opens the same rows
        return evaluator_on_val(ray, tracker, run_id, job, metric)

    said = register_winner(tracker, spec, best, measure=measure)
    tracker.tag(parent, names.CHAMPION, said)
    for line in said.splitlines():
        say(f"champion  {line}")


def _finish(tracker: Tracker, spec: SweepSpec, parent: str) -> None:
    board = pages.leaderboard(tracker, spec.name, parent_run_id=parent)
    tracker.log_json(parent, importance(board), "importance.json")
    with TemporaryDirectory(prefix="segdist-") as folder:
        page = pages.write_html(tracker, spec.name, Path(folder) / "report.html", parent_run_id=parent)
        tracker.log_files(parent, page.parent, "report")
        where = storage.join(spec.storage, "sweeps", spec.name, "report.html")
        storage.write_atomic(where, page.read_bytes())
    say(f"report    {where}")


def _conclude(tracker: Tracker, spec: SweepSpec, parent: str) -> str:
    """Print the leaderboard; where nothing on it is of use, say so and why. What was said comes back as plain text."""
    board = pages.leaderboard(tracker, spec.name, parent_run_id=parent)
    pages.print_leaderboard(board)
    lines = [pages.leaderboard_text(board)]
    if board.found_nothing:
        reasons = pages.why_nothing(board, tracker.read_json(parent, pages.SUMMARY))
        nothing = ["champion  none: a model that finds nothing is of no use. The likeliest reasons:"]
        nothing += [f"          - {reason}" for reason in reasons]
        say("\n".join(nothing))
        lines += nothing
    return "\n".join(lines)


@contextmanager
def _closing(tracker: Tracker, parent: str) -> Iterator[None]:
    """End the sweep's run as what it was: finished, failed or stopped."""
    try:
        yield
    except (KeyboardInterrupt, InterruptedSweepError):
        tracker.end(parent, "KILLED")
        raise
    except BaseException:
        tracker.end(parent, "FAILED")
        raise
    tracker.end(parent, "FINISHED")


def _check_learnable(spec: SweepSpec, dataset: Dataset) -> None:
    """There must be something to learn from, and something to be scored on."""
    for split, purpose in (("train", "learned from"), ("val", "scored on")):
        counts = dataset.manifest.splits.get(split)
        if counts is None or not counts.instances:
            raise DataError(
                f"The split `{split}` has no object, so nothing can be {purpose}. "
                f"Annotate some of its images, or give it a larger share in `data.split`."
            )
        is_labelled = spec.label is not None and split in spec.label.splits
        if not is_labelled and (not counts.masks or split in spec.data.boxes_only):
            raise DataError(
                f"The split `{split}` has boxes but no masks, so nothing can be {purpose}. "
                f"Let a teacher draw them: label: {{teacher: {{family: sam}}, splits: [{split}]}}"
            )
    _check_comparable(spec, dataset)


def _check_comparable(spec: SweepSpec, dataset: Dataset) -> None:
    """Where label policies are searched, no policy may draw the masks that trials are scored on."""
    if not label_policies.searched(spec):
        return
    for split in ("val", "test"):
        counts = dataset.manifest.splits.get(split)
        bare = counts.instances - counts.masks if counts else 0
        if counts and bare:
            raise DataError(
                f"Label policies must be compared on human masks, but in `{split}` there are objects without "
                f"one: {bare} of {counts.instances}. Annotate them, or take the `label.` keys out of `space`."
            )


def _summary(labels: Sequence[LabelSet]) -> dict[str, object]:
    """What the report shows beside the runs: how the labels were made and how good they are."""
    shown = [one.labels.manifest.model_dump(mode="json", exclude={"shards"}) for one in labels]
    searched = [{"policy": dict(one.policy.values), "labels": m} for one, m in zip(labels, shown, strict=True)]
    return {"labels": shown[0] if shown else None, "policies": searched if len(shown) > 1 else []}


def _say_dataset(dataset: Dataset) -> None:
    splits = ", ".join(f"{name} {counts.images}" for name, counts in dataset.manifest.splits.items())
    say(f"data      images {splits}; classes {', '.join(dataset.manifest.classes)}; {dataset.manifest.content_hash}")


def _say_labels(one: LabelSet) -> None:
    quality = one.labels.manifest.details.get("quality")
    known = (
        f"mean IoU {quality['iou']:.3f} against hidden masks, box-fill {quality['box_fill_iou']:.3f}; "
        if quality
        else ""
    )
    which = f"{one.policy.title}: " if one.policy.values else ""
    say(f"labels    {which}{known}{one.labels.manifest.content_hash}")
    for warning in pages.label_warnings(one.labels.manifest.details):
        say(f"warning   {which}{warning}")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
