"""The search: Ray Tune runs the trials, Optuna chooses values, ASHA stops the hopeless; a killed search goes on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segdist.core import storage
from segdist.core.errors import BackendError
from segdist.core.spec import SweepSpec
from segdist.pipeline.cluster import keep_keys_out_of_logs, slots
from segdist.pipeline.trial import Job, train_trial
from segdist.sweepfile.loading import epochs_of, trials_of
from segdist.tracking import Tracker


def search(spec: SweepSpec, job: Job, ray: Any, tracker: Tracker, parent_run_id: str, tags: dict[str, str]) -> None:
    """Run the trials that are missing; their results are in MLflow afterwards.

    Args:
        spec: the sweep.
        job: what its trials have in common; `job.storage_path` holds the state of the search.
        ray: the connected `ray` module.
        tracker: where trials are recorded.
        parent_run_id: the sweep's run in MLflow.
        tags: further tags of every trial.

    Raises:
        BackendError: no trial succeeded, or the cluster cannot hold one.
    """
    from ray import tune

    keep_keys_out_of_logs()
    resources = spec.resources
    concurrency = slots(
        ray,
        cpus=resources.workers * resources.cpus_per_worker,
        gpus=resources.workers * resources.gpus_per_worker,
    )
    if spec.search.concurrency != "auto":
        concurrency = min(concurrency, spec.search.concurrency)
    trainable = tune.with_resources(tune.with_parameters(train_trial, job=job), _driver_resources(spec))
    path = storage.join(job.storage_path, "tune")
    filesystem, fs_path = storage.arrow_filesystem(path)
    if tune.Tuner.can_restore(fs_path, storage_filesystem=filesystem):
        tuner = tune.Tuner.restore(
            fs_path, trainable, storage_filesystem=filesystem, resume_unfinished=True, resume_errored=True
        )
    else:
        tuner = _new_tuner(spec, job, trainable, tracker, parent_run_id, tags, concurrency)
    with _stopping_gracefully():
        results = tuner.fit()
    if results.num_errors == len(results):
        first = str(results.errors[0]).strip().splitlines()[-1] if results.errors else "none was started"
        raise BackendError(f"No trial of `{spec.name}` succeeded: {first}\nThe whole error is in MLflow (error.txt).")


def _new_tuner(
    spec: SweepSpec,
    job: Job,
    trainable: Any,
    tracker: Tracker,
    parent_run_id: str,
    tags: dict[str, str],
    concurrency: int,
) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from segdist.pipeline.callbacks import Tracking
    from segdist.pipeline.progress import Progress
    from segdist.pipeline.space import searcher

    epochs = epochs_of(spec)
    asha = spec.search.asha
    scheduler = asha and ASHAScheduler(
        time_attr="epoch",  # Tune's own counter restarts when a trial is resumed
        metric=job.metric,
        mode="max",
        max_t=epochs,
        grace_period=min(asha.grace_epochs, epochs),
        reduction_factor=asha.reduction_factor,
    )
    progress = Progress(metric=job.metric, trials=trials_of(spec), epochs=epochs, searched=list(spec.space))
    filesystem, path = storage.arrow_filesystem(job.storage_path)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=trials_of(spec),
            max_concurrent_trials=concurrency,
            search_alg=searcher(spec) if spec.space else None,
            scheduler=scheduler or None,
            # A reused process starts the next trial without importing torch again.
            reuse_actors=spec.resources.workers == 1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # silent; the one for notebooks clears the cell
            callbacks=[Tracking(tracker, parent_run_id, job, tags), progress],
            failure_config=tune.FailureConfig(max_failures=spec.resources.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=job.metric),
        ),
    )


def _driver_resources(spec: SweepSpec) -> dict[str, float]:
    """What Tune reserves for a trial: everything if it trains in Tune's process, next to nothing if a group does."""
    if spec.resources.workers > 1:
        return {"CPU": 0.01}
    gpus = spec.resources.gpus_per_worker
    return {"CPU": spec.resources.cpus_per_worker, **({"GPU": gpus} if gpus else {})}


@contextmanager
def _stopping_gracefully() -> Iterator[None]:
    """SIGTERM becomes the signal on which Tune saves and returns; installed after Ray's own handlers.

    Only the main thread may do so; in another, as those of a web server, SIGTERM stays what it was.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
