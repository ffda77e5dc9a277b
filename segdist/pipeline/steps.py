"""The steps of the main job: ingest, label, search, evaluate, report. Each does only what is missing."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NamedTuple

from segdist import pages
from segdist.checking.dataset_text import dataset_line
from segdist.commands.compare import shown_by
from segdist.commands.diff import standing
from segdist.commands.promote import register_winner
from segdist.commands.side_by_side import write_images
from segdist.core import storage
from segdist.core.errors import BackendError, DataError, SegdistError, did_you_mean
from segdist.core.records import LabelledImages
from segdist.core.spec import SweepSpec
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.datasets.shards import Dataset
from segdist.metrics import WORST_GROUP, Evaluator, are_groups, formulas
from segdist.pages.side_by_side import FOLDER, PAGE
from segdist.pipeline.cluster import connected
from segdist.pipeline.evaluate import DONE as EVALUATED
from segdist.pipeline.evaluate import evaluate_on_test, evaluate_trials, evaluator_on_val
from segdist.pipeline.gpus import Given, with_gpus
from segdist.pipeline.importance import importance
from segdist.pipeline.ingest import ingest
from segdist.pipeline.label_sets import LabelSet, make_label_sets
from segdist.pipeline.planned import Plan, against_truth, planned
from segdist.pipeline.recording import pictures_shown
from segdist.pipeline.sweep import search, thin_checkpoints
from segdist.pipeline.trial import Job
from segdist.pipeline.warm_start import take_warm_start
from segdist.searching import Ledger
from segdist.searching.budget import Budget, Meter
from segdist.sweepfile import label_policies
from segdist.sweepfile.loading import trials_of
from segdist.sweepfile.objectives import COSTS, needs_costs, objectives_of
from segdist.tracking import Tracker, TrialStatus, names

NEXT_BEST = 4
"""Trials that the best one is compared with."""


class Outcome(NamedTuple):
    """How the steps ended.

    Attributes:
        run_id: of the sweep's run in MLflow.
        said: of its end.
        was_cut_off: whether its budget left something undone.
    """

    run_id: str
    said: str
    was_cut_off: bool


def do_steps(spec: SweepSpec, file: str, *, kind: str, fingerprint: str, folder: str, meter: Meter) -> Outcome:
    """Do what of a sweep is missing.

    Args:
        spec: the sweep.
        file: where it was read.
        kind: "sweep", or "train" for a run without search and champion.
        fingerprint: of its question.
        folder: its own place in the storage.
        meter: the time that it takes.

    Raises:
        Interrupted: somebody stopped it; its notes say what is done.
        SegdistError: something a user can fix.
    """
    done: list[str] = []
    plan = planned(folder)
    if plan and spec.search.budget and not any(trial.has_ended for trial in Ledger(folder).trials):
        asked = spec.resources.gpus_per_worker
        gpus = float(plan.gpu_hours > 0) if asked == "auto" else asked
        Budget(with_gpus(spec, Given(gpus)), meter).check(plan.trial_seconds)
    with _noting(done):
        tracker = Tracker.for_sweep(spec)
        if tracker.risk:
            say(f"warning   {tracker.risk}")
        tracker.close_abandoned()
        take_warm_start(tracker, spec, folder=folder, fingerprint=fingerprint)
        dataset = ingest(spec)
        say(dataset_line(dataset))
        _check_learnable(spec, dataset)
        done.append("data")
        with connected() as ray:
            labels = make_label_sets(spec, dataset, say) if spec.label else []
            for one in labels:
                _say_labels(one)
            done += ["labels"] if labels else []
            parent = _open(tracker, spec, file, kind, fingerprint, dataset, labels)
            with _closing(tracker, parent):
                job = _job(spec, folder, dataset, labels)
                with _counting(done, folder, trials_of(spec)):
                    found = search(spec, job, ray, tracker, parent, _tags(dataset, labels), meter)
                tracker.tag(parent, names.BUDGET, found.budget_said)
                tracker.tag(parent, names.CONFIRMED, json.dumps(found.confirmed))
                best = _evaluate(ray, tracker, spec, parent, job)
                done.append("evaluation")
                if kind == "sweep" and best:
                    _register_winner(ray, tracker, spec, parent, best, job)
                if plan:
                    _compare_with_plan(tracker, plan, parent, job, meter)
                _finish(tracker, spec, parent, dataset)
                done.append("report")
                thin_checkpoints(spec, job)
        return Outcome(parent, _conclude(tracker, spec, parent), found.was_cut_off)


@contextmanager
def _noting(done: Sequence[str]) -> Iterator[None]:
    """Who stops the steps is told how far they came."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"Done: {', '.join(done)}." if done else "No step was done.")
        raise


@contextmanager
def _counting(done: list[str], folder: str, total: int) -> Iterator[None]:
    """Add how many trials are done, whether or not that is all of them; of a search that is cut short, say its cost."""
    try:
        yield
    except BaseException:
        if cost := str(Ledger(folder).cost):
            say(f"spent     {cost}")
        raise
    finally:
        ledger = Ledger(folder)
        ended, again = (sum(t.has_ended for t in trials) for trials in (ledger.searched, ledger.repeats))
        repeats = f" and {again} of {counted(len(ledger.repeats), 'repeat')}" if ledger.repeats else ""
        done.append(f"{min(ended, total)} of {counted(total, 'trial')}{repeats}")


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
        tags={
            "segdist.kind": kind,
            "segdist.question": spec.question,
            "segdist.trials": trials_of(spec),
            names.LABELS_PLACE: labels[0].labels.uri if len(labels) == 1 else "",
        },
        params={"search.metric": spec.search.metric},
        dataset=dataset.manifest,
    )
    searched = {name: not range_.when for name, range_ in spec.space.items()}
    tracker.save_view(parent, searched=searched, pictures=pictures_shown(spec.evaluate.pictures))
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
        sweep=spec.name,
        is_costed=needs_costs(spec),
        is_watched=spec.tracking.system_metrics,
        labels_of_policy={one.policy.name: one.labels.uri for one in labels} if len(labels) > 1 else {},
    )


def _tags(dataset: Dataset, labels: Sequence[LabelSet]) -> dict[str, str]:
    """What every trial learned from."""
    tags = {"segdist.dataset": dataset.manifest.content_hash}
    return tags | ({"segdist.labels": labels[0].labels.manifest.content_hash} if len(labels) == 1 else {})


def _evaluate(ray: ModuleType, tracker: Tracker, spec: SweepSpec, parent: str, job: Job) -> str:
    """Measure the trials, and score the winner on the test split; the winner's run, "" where nothing was found."""
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
    found = _standing(tracker, spec, parent, job)
    tracker.tag(parent, names.STANDING, found.text if found else "")


def _standing(tracker: Tracker, spec: SweepSpec, parent: str, job: Job) -> pages.Standing | None:
    """The best trial beside the other confirmed ones; without any, beside the next best; None where nothing tells."""
    counts = Dataset.open(job.dataset_uri).manifest.splits["val"]
    metric = spec.search.metric.partition("/")[2]
    if "val" in job.boxes_only or counts.masks < counts.instances or metric not in formulas():
        return None
    board = pages.leaderboard(tracker, spec.name, parent_run_id=parent)
    compared = {one.trial.number: one.models for one in board.confirmed}
    if not compared:
        fit = [t for t in board.trials if t.status == "FINISHED" and not t.broken and EVALUATED in t.metrics]
        compared = {t.number: (t,) for t in fit[: 1 + NEXT_BEST]}
    if len(compared) < 2 or board.leader is None or board.leader.number != next(iter(compared)):
        return None
    if unseen := [t.number for models in compared.values() for t in models if EVALUATED not in t.metrics]:
        say(f"compare   not done: trial {unseen[0]} was not evaluated")
        return None
    found = standing(tracker, [[t.run_id for t in models] for models in compared.values()], metric=metric)
    first, *others = compared
    return pages.Standing(
        best=first,
        compared=tuple(others),
        close=tuple(others[place - 1] for place in found.close),
        chance=found.chances[0],
        images=counts.images,
        chances=dict(zip(compared, found.chances, strict=True)) if board.confirmed else {},
        gaps=dict(zip(others, found.gaps, strict=True)) if board.confirmed else {},
    )


def _register_winner(ray: ModuleType, tracker: Tracker, spec: SweepSpec, parent: str, best: str, job: Job) -> None:
    def measure(run_id: str, rows: LabelledImages, metric: str) -> Evaluator:  # noqa: ARG001 - a worker opens the same rows
        return evaluator_on_val(ray, tracker, run_id, job, metric)

    said = register_winner(tracker, spec, best, measure=measure)
    tracker.tag(parent, names.CHAMPION, said)
    for line in said.splitlines():
        say(f"champion  {line}")


def _compare_with_plan(tracker: Tracker, plan: Plan, parent: str, job: Job, meter: Meter) -> None:
    """Record what was predicted beside what came."""
    runs = [parent, *(trial.run_id for trial in tracker.trials(parent))]
    labels = {job.labels_uri, *job.labels_of_policy.values()} - {""}
    folders = [job.dataset_uri, *labels, job.storage_path, *tracker.own_places(runs)]
    found = against_truth(
        plan, seconds=meter.seconds, starts=meter.starts, ledger=Ledger(job.storage_path), folders=folders
    )
    tracker.log_json(parent, found, pages.PLAN)
    for what, before, after in pages.plan_rows(found):
        say(f"plan      {what}: {before} predicted, {after}")


def _finish(tracker: Tracker, spec: SweepSpec, parent: str, dataset: Dataset) -> None:
    board = pages.leaderboard(tracker, spec.name, parent_run_id=parent)
    tracker.log_json(parent, importance(board), "importance.json")
    place = storage.join(spec.storage, "sweeps", spec.name)
    images = write_images(tracker, board, storage.join(place, FOLDER), dataset=dataset)
    link = f"{FOLDER}/{PAGE}" if images else ""
    with TemporaryDirectory(prefix="segdist-") as folder:
        file = Path(folder) / "report.html"
        page = pages.write_html(tracker, spec.name, file, parent_run_id=parent, images=link)
        tracker.log_files(parent, page.parent, "report")
        where = storage.join(place, "report.html")
        storage.write_atomic(where, page.read_bytes())
    say(f"report    {where}")
    if images:
        say(f"images    {images.uri}")


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
    shown = str(shown_by(tracker, parent, board.best.run_id if board.best else ""))
    say(shown)
    lines.append(shown)
    return "\n".join(lines)


@contextmanager
def _closing(tracker: Tracker, parent: str) -> Iterator[None]:
    """End the sweep's run, and what of its trials is still open, as what it was: finished, failed or stopped."""
    try:
        yield
    except BaseException as error:
        status: TrialStatus = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with suppress(SegdistError), tracker.impatient():  # where MLflow is away, the next start closes them
            tracker.close_orphans(parent)
            tracker.end(parent, status, reason=(str(error) or type(error).__name__).splitlines()[0])
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
    _check_measured(spec, dataset)
    _check_named(spec, dataset.manifest.classes)


def _check_named(spec: SweepSpec, classes: Sequence[str]) -> None:
    """A key that is about some classes names such as there are: another would be passed over, or end every trial."""
    post, train = spec.evaluate.post, spec.train
    for key, named in {
        "evaluate.post.stuff": post.stuff,
        "evaluate.post.min_scores": post.min_scores,
        "train.augment_classes": train.augment_classes,
    }.items():
        for name in named:
            if name not in classes:
                raise DataError(f"`{key}` names `{name}`, which is no class. {did_you_mean(name, classes)}")


def _check_measured(spec: SweepSpec, dataset: Dataset) -> None:
    """What is measured of a class or of groups can be, for there are such."""
    for name in objectives_of(spec):
        of_class = name.split("/", 2)[2:]
        known = dataset.manifest.classes
        if of_class and name not in COSTS and of_class[0] not in known:
            raise DataError(
                f"`{name}` is measured of no trial, for there is no class `{of_class[0]}`. "
                f"{did_you_mean(of_class[0], known)}"
            )
        if name == f"val/{WORST_GROUP}" and not are_groups([sample.group for sample in dataset.samples("val")]):
            raise DataError(
                f"`{name}` is measured of no trial, for the validation images are in no groups: at least two, with "
                "two images each on average, must be. Give the sources a `group`."
            )


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
