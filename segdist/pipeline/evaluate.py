"""Every trial's kept model over the validation split, and the winner over the test split: measured in the same way.

The full set of metrics is computed once a trial, after the search, and not where a checkpoint is saved: early stopping
needs two numbers an epoch, most checkpoints are overwritten, and a trial that is stopped runs no code at its end. So it
costs one pass over the split a trial, models are timed while nothing trains beside them, and what is missing after an
interruption is done by the next start.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from segdist.core.causes import OF_STORAGE, cause_of, why
from segdist.core.errors import BackendError, StorageError
from segdist.core.storage import cache_dir
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.datasets.shards import Dataset
from segdist.metrics import WORST_GROUP, Evaluator, family_of, is_minimised
from segdist.pipeline.cluster import slots
from segdist.pipeline.gpus import given
from segdist.pipeline.own_cluster import check_own_room
from segdist.pipeline.trial import Job
from segdist.tracking import Tracker, TrialRecord, names

DONE = "runtime/latency_p50_ms"
"""The metric by which an evaluated trial is known."""
_EVALUATED, _TESTED = "evaluated/epoch", "evaluated/test_epoch"
"""The epoch whose model was evaluated, and looked at on the test split; older runs do not say."""
EVALUATION, RANKED = "evaluation", "pictures_ranked"
"""Where a run keeps numbers and predictions of each image, and the worst, median and best images."""
Files = dict[str, bytes]


@dataclass(frozen=True)
class EvaluationFiles:
    """What a worker sends back: metrics without the split's name, and the files of each folder."""

    metrics: dict[str, float]
    evaluation: Files
    ranked: Files
    pictures: Files
    description: Files
    """The model's description, where its scores per class were tuned."""


def evaluate_trials(ray: ModuleType, tracker: Tracker, parent_run_id: str, job: Job) -> None:
    """Every metric, `runtime/...` and `model/bytes` of each finished trial that has none yet, logged to its run.

    Args:
        ray: the connected `ray` module.
        tracker: where the trials were recorded.
        parent_run_id: the sweep's run.
        job: what its trials have in common.
    """
    trials = tracker.trials(parent_run_id)
    untuned = next((t.metrics[job.metric] for t in trials if t.is_baseline and job.metric in t.metrics), None)
    waiting = [t for t in trials if t.status == "FINISHED" and not _is_evaluated(t)]
    if not waiting:
        return
    job = _with_gpus(ray, job)
    resources = job.run.resources
    most = slots(ray, cpus=resources.cpus_per_worker, gpus=resources.gpus)
    say(f"evaluate  {counted(len(waiting), 'trial')} on the validation split")
    for trial, found in _evaluations(ray, tracker, waiting, job, most):
        if isinstance(found, EvaluationFiles):
            _log_val(tracker, trial, found, job, untuned)
        else:
            say(f"trial {trial.number} has only the metrics of its epochs: {found}")


def evaluate_on_test(ray: ModuleType, tracker: Tracker, run_id: str, job: Job) -> dict[str, float]:
    """Metrics named `test/...` of a trial's kept model, logged to its run with the panels; empty without a test split.

    What the run has is not measured again: a look at the test split is one look.

    Args:
        ray: the connected `ray` module.
        tracker: where the trial was recorded.
        run_id: the trial's run.
        job: what the sweep's trials have in common.
    """
    if not Dataset.open(job.dataset_uri).manifest.splits.get("test"):
        return {}
    record, _ = tracker.trial(run_id)
    if record.test_metrics and record.metrics.get(_TESTED, record.best_epoch) == record.best_epoch:
        return record.test_metrics
    found: EvaluationFiles = _answer(ray, _submit(ray, _packed(tracker, run_id), _with_gpus(ray, job), "test"))
    metrics = {f"test/{name}": value for name, value in found.metrics.items() if family_of(name)}
    for files, place in ((found.pictures, "pictures_test"), (found.evaluation, EVALUATION)):
        with _written(files) as folder:
            tracker.log_files(run_id, folder, place)
    tracker.log_metrics(run_id, metrics, step=0, of_model=True)
    tracker.log_metrics(run_id, {_TESTED: record.best_epoch}, step=0)  # last: all of it is there
    return metrics


def evaluator_on_val(ray: ModuleType, tracker: Tracker, run_id: str, job: Job, metric: str) -> Evaluator:
    """What an evaluator saw of a kept model's predictions over the validation split, computed where trials are.

    Args:
        ray: the connected `ray` module.
        tracker: where the trial was recorded.
        run_id: its run.
        job: what names the data and the resources; the trial need not be one of its own.
        metric: to compute.
    """
    job = _with_gpus(ray, job)
    seen: Evaluator = _answer(ray, _submit(ray, _packed(tracker, run_id), job, metric, task=_filled_evaluator))
    return seen


def _with_gpus(ray: ModuleType, job: Job) -> Job:
    """The same on as many GPUs as there are for a worker now."""
    resources = job.run.resources
    found = resources.with_gpus(given(resources.gpus_per_worker, ray).gpus)
    return replace(job, run=job.run.model_copy(update={"resources": found}))


def _evaluations(
    ray: ModuleType, tracker: Tracker, trials: Sequence[TrialRecord], job: Job, most: int
) -> Iterator[tuple[TrialRecord, EvaluationFiles | str]]:
    """What each trial's model shows, or why it shows nothing; at most this many models at once."""
    left = iter(trials)
    running: dict[object, TrialRecord] = {}
    while True:
        for trial in islice(left, most - len(running)):
            packed = _packed(tracker, trial.run_id)
            if packed:
                running[_submit(ray, packed, job, "val")] = trial
            else:
                yield trial, "it kept no model"
        if not running:
            return
        (ready,), _ = ray.wait(list(running), num_returns=1)
        trial = running.pop(ready)
        try:
            yield trial, _answer(ray, ready)
        except BackendError as error:  # one model that cannot be measured must not cost the sweep
            yield trial, str(error)


def _answer(ray: ModuleType, submitted: object) -> Any:
    """What a worker found.

    Raises:
        StorageError: what it has to read or write is away, closed or full.
        BackendError: anything else that it met.
    """
    try:
        return ray.get(submitted)
    except ray.exceptions.RayError as error:
        check_own_room()
        cause = cause_of(str(error))
        kind = StorageError if cause is not None and cause.kind in OF_STORAGE else BackendError
        raise kind(why(str(error))) from error


def _log_val(tracker: Tracker, trial: TrialRecord, found: EvaluationFiles, job: Job, untuned: float | None) -> None:
    for files, place in ((found.evaluation, EVALUATION), (found.ranked, RANKED)):
        with _written(files) as folder:
            tracker.log_files(trial.run_id, folder, place)
    if found.description:
        with _written(found.description) as folder:
            tracker.change_model(trial.run_id, folder)
    each_epoch = {*job.run.evaluate.each_epoch, WORST_GROUP}  # these are there, and belong to the history of the search
    new = {name: value for name, value in found.metrics.items() if family_of(name) not in each_epoch}
    named = {f"val/{name}" if family_of(name) else name: value for name, value in new.items()}
    if untuned is not None and job.metric in trial.metrics:
        higher = trial.metrics[job.metric] - untuned
        named[names.GAIN] = -higher if is_minimised(job.metric) else higher
    tracker.log_metrics(trial.run_id, named, step=trial.best_epoch, of_model=True)
    tracker.log_metrics(trial.run_id, {_EVALUATED: trial.best_epoch}, step=trial.best_epoch)  # last: all of it is there


def _is_evaluated(trial: TrialRecord) -> bool:
    """Whether the model that a trial has now was; one that went on in a later start may have a better one."""
    return DONE in trial.metrics and trial.metrics.get(_EVALUATED, trial.best_epoch) == trial.best_epoch


def _packed(tracker: Tracker, run_id: str) -> Files:
    """The files of a trial's model; none where it kept none."""
    with TemporaryDirectory(prefix="segdist-") as folder:
        model = tracker.find_model(run_id, Path(folder))
        return {file.name: file.read_bytes() for file in model.iterdir()} if model else {}


def _submit(
    ray: ModuleType, packed: Files, job: Job, what: str, *, task: Callable[[Files, Job, str], object] | None = None
) -> object:
    """A worker with a trial's resources that evaluates a model."""
    resources = job.run.resources
    options = {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus}
    return ray.remote(_within_reserved).options(**options).remote(task or _evaluated, packed, job, what)


def _within_reserved(task: Callable[[Files, Job, str], object], packed: Files, job: Job, what: str) -> object:
    from segdist.engine.workers import reserved

    with reserved(cpus=job.run.resources.cpus_per_worker, gpus=job.run.resources.gpus):
        return task(packed, job, what)


def _filled_evaluator(packed: Files, job: Job, metric: str) -> Evaluator:
    from segdist.engine.evaluation import filled_evaluator

    with _written(packed) as folder:
        rows = Dataset.open(job.dataset_uri).reader("val", cache_dir())
        return filled_evaluator(folder, rows, (metric,), trusted=True)


def _evaluated(packed: Files, job: Job, split: str) -> EvaluationFiles:
    from segdist.engine import checkpoint, pictures, runtime
    from segdist.engine.evaluation import evaluate_network
    from segdist.engine.workers import Workers

    with _written(packed) as folder:
        network = checkpoint.load(folder, trusted=True, device=Workers.here().device)
        evaluate, costs = checkpoint.describe(folder).evaluate, runtime.bytes_on_disk(folder)
        description = (folder / checkpoint.DESCRIPTION).read_bytes()
    labels = Dataset.open(job.labels_uri) if job.labels_uri else None
    hide = split in job.boxes_only
    rows = Dataset.open(job.dataset_uri).reader(split, cache_dir(), labels=labels, hide_masks=hide)
    found = evaluate_network(network, rows, evaluate, seed=job.run.seed, tune=evaluate.post.tune and split == "val")
    changed: Files = {}
    if found.min_scores:
        evaluate = evaluate.with_min_scores(found.min_scores)
        with _written({checkpoint.DESCRIPTION: description}) as folder:
            checkpoint.redescribe(folder, evaluate)
            changed = _read(folder)
    with TemporaryDirectory(prefix="segdist-") as scratch:
        places = {name: Path(scratch) / name for name in (EVALUATION, RANKED, "pictures")}
        pictures.save(places["pictures"], rows, found.predictions, evaluate, classes=network.classes)
        pictures.save_ranked_examples(places[RANKED], rows, found, evaluate, classes=network.classes)
        found.write(places[EVALUATION], split, rows)
        return EvaluationFiles(
            found.metrics | costs,
            evaluation=_read(places[EVALUATION]),
            ranked=_read(places[RANKED]),
            pictures=_read(places["pictures"]),
            description=changed,
        )


def _read(folder: Path) -> Files:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())} if folder.is_dir() else {}


@contextmanager
def _written(files: Files) -> Iterator[Path]:
    with TemporaryDirectory(prefix="segdist-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)
