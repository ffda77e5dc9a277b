"""The search: Ray Tune runs the trials that the ledger lacks; a search that was killed, widened or moved goes on."""

import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from types import FrameType, ModuleType

from segdist.core import storage
from segdist.core.causes import why
from segdist.core.errors import BackendError
from segdist.core.interruption import Interrupted, Stops, interruptible
from segdist.core.spec import SweepSpec
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.pipeline.checkpoints import thin
from segdist.pipeline.cluster import holders, keep_keys_out_of_logs
from segdist.pipeline.draining import draining, is_to_leave
from segdist.pipeline.gpus import given, with_gpus
from segdist.pipeline.growth import asked_to_grow
from segdist.pipeline.own_cluster import check_own_room
from segdist.pipeline.packing import Need, Node, fitting, nodes_of, usable
from segdist.pipeline.planned import planned, resident_bytes
from segdist.pipeline.recording import Recording
from segdist.pipeline.sweep_meters import SweepMeters
from segdist.pipeline.trial import GROUPS, Job, train_trial
from segdist.searching import Ledger, Search, Trial
from segdist.searching.budget import Budget, Meter
from segdist.searching.lease import Lease, leased
from segdist.sweepfile.alike import likeness
from segdist.sweepfile.loading import epochs_of
from segdist.tracking import Tracker
from segdist.tracking.mirrors import Mirrors

MOST_BREAKDOWNS = 3
"""Times that Tune may break down, one after the other without an epoch in between, before the sweep ends."""


def search(
    spec: SweepSpec,
    job: Job,
    ray: ModuleType,
    tracker: Tracker,
    parent_run_id: str,
    tags: dict[str, str],
    meter: Meter,
) -> Search:
    """Run the trials that are missing; their results are in MLflow afterwards.

    Args:
        spec: the sweep.
        job: what its trials have in common; `job.storage_path` holds the ledger.
        ray: the connected `ray` module.
        tracker: where trials are recorded.
        parent_run_id: the sweep's run in MLflow.
        tags: further tags of every trial.
        meter: the time of the sweep, of which its budget may bound it.

    Returns:
        What became of the trials.

    Raises:
        Interrupted: the search was stopped; what it had is recorded.
        BackendError: no trial succeeded, the cluster cannot hold one, Tune breaks down again and again, or another
            driver runs this sweep.
    """
    keep_keys_out_of_logs()
    with (
        leased(job.storage_path, spec.name) as lease,
        Mirrors(spec.tracking.also, job.storage_path, sweep=spec.name) as mirrors,
    ):
        ledger = Ledger(job.storage_path)
        recording = Recording(
            tracker, parent_run_id, job, tags, ledger, all_params=spec.tracking.all_params, mirrors=mirrors
        )
        recording.catch_up()
        meters = SweepMeters(spec, ledger, recording, meter)
        with meters.told(), recording.running():
            found = _run_all(spec, job, ray, ledger, recording, lease, meter, meters)
        recording.catch_up()
        storage.remove(storage.join(job.storage_path, GROUPS))
    if found.was_cut_off:
        _say_cut_off(spec, found)
    ended = [trial for trial in ledger.searched if trial.has_ended]
    if ended and all(trial.state == "failed" or trial.too_large for trial in ended):
        raise BackendError(
            f"No trial of `{spec.name}` succeeded: {ended[0].reason}\nThe whole error is in MLflow (error.txt)."
        )
    return found


def thin_checkpoints(spec: SweepSpec, job: Job) -> None:
    """Remove what is left of trials that ended, when the sweep has its report.

    Raises:
        BackendError: another driver runs this sweep.
    """
    with leased(job.storage_path, spec.name):
        removed = thin(Ledger(job.storage_path), metric=job.metric, keep=spec.search.keep_checkpoints)
    if removed:
        say(f"storage   the checkpoints of {counted(removed, 'trial')} are removed: MLflow has their models")


def _say_cut_off(spec: SweepSpec, search: Search) -> None:
    """What the budget was enough for.

    Raises:
        BackendError: for no model.
    """
    if not any(trial.has_ended and trial.latest for trial in search.ledger.trials):
        raise BackendError(
            f"The budget of `{spec.name}` is spent ({search.budget_said}) before a trial had a model to keep. Raise "
            "`search.budget`: the same command goes on."
        )
    whole = sum(trial.has_ended and not trial.is_cut_off for trial in search.ledger.trials)
    say(
        f"budget    spent {search.budget_said}; {whole} of {counted(search.total, 'trial')} came to their end. "
        "A larger `search.budget` goes on."
    )


def _run_all(
    asked: SweepSpec,
    job: Job,
    ray: ModuleType,
    ledger: Ledger,
    recording: Recording,
    lease: Lease,
    meter: Meter,
    meters: SweepMeters,
) -> Search:
    """Start Tune, and again while trials remain: after an error of Ray's, or when cards have joined the cluster.

    Each time from the ledger, and with as many GPUs a worker as there are then.
    """
    breakdowns, retry = 0, True
    while True:
        found = given(asked.resources.gpus_per_worker, ray)
        if found.lack:
            say(f"warning   trials run on the CPU: {found.lack}")
        spec = with_gpus(asked, found)
        job = replace(job, run=job.run.model_copy(update={"resources": spec.resources}))
        search = Search(spec, ledger, retry=retry, budget=Budget(spec, meter) if spec.search.budget else None)
        meters.search = search
        if search.is_done:
            return search
        before, retry = search.progress, False
        if before[1]:
            _say_goes_on(search)
        waits = asked.resources.gpus_per_worker == "auto" and not found.gpus and not found.lack
        try:
            stopped_by = _run(spec, job, ray, search, recording, lease, meter, meters, waits_for_cards=waits)
        except Exception as error:
            if not _is_of_ray(error):
                raise
            check_own_room()
            breakdowns = breakdowns + 1 if search.progress == before else 1
            _begin_anew(spec, error, breakdowns)
        else:
            if stopped_by:
                raise Interrupted(stopped_by)
            if search.is_done or not waits or not given("auto", ray).gpus:
                return search


def _begin_anew(spec: SweepSpec, error: Exception, breakdowns: int) -> None:
    """Say that the search does, after an error of Ray's.

    Raises:
        BackendError: it has too often.
    """
    said = why("".join(traceback.format_exception(error)))
    if breakdowns >= MOST_BREAKDOWNS:
        raise BackendError(
            f"The search of `{spec.name}` broke down {counted(breakdowns, 'time')} without an "
            f"epoch in between: {said}\n"
            "What is done is kept; the same command goes on with it."
        ) from error
    say(f"search    begins anew from what is recorded: {said}")


def _say_goes_on(search: Search) -> None:
    best = "" if search.best is None else f", best {search.best:.3f}"
    ended, wanted = search.repeats
    repeats = f" and {ended} of {counted(wanted, 'repeat')}" if wanted else ""
    say(f"search    goes on with {search.done} of {counted(search.total, 'trial')}{repeats} done{best}")


def _is_of_ray(error: Exception) -> bool:
    """Whether it was raised by Ray's code: it has errors of all classes, and none of them is the end of a sweep."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "ray"


def _run(
    spec: SweepSpec,
    job: Job,
    ray: ModuleType,
    search: Search,
    recording: Recording,
    lease: Lease,
    meter: Meter,
    meters: SweepMeters,
    *,
    waits_for_cards: bool,
) -> int:
    """Let Tune run trials; the signal that stopped it, or 0.

    Args:
        spec: the sweep, whose trials reserve a number of GPUs.
        job: what its trials have in common.
        ray: the connected `ray` module.
        search: what is to be run.
        recording: tells MLflow.
        lease: that no other driver runs the sweep.
        meter: its time.
        meters: tell Prometheus.
        waits_for_cards: whether no further trial begins here once there are cards.
    """
    from ray import tune

    from segdist.pipeline.packs import Packs
    from segdist.pipeline.progress import Progress
    from segdist.pipeline.tune_memory import ended_trials_forgotten
    from segdist.pipeline.tune_trials import Ends, Problem, Suggestions, Verdicts, broken_down_alone

    problem = Problem()
    progress = Progress(search, metric=job.metric, epochs=epochs_of(spec), searched=list(spec.space))
    trainable = tune.with_resources(tune.with_parameters(train_trial, job=job), _driver_resources(spec))

    plan = planned(job.storage_path)
    memory = resident_bytes(plan.families) if plan else 0

    has_room = True

    def room() -> int:
        nonlocal has_room
        lease.check()
        nodes = nodes_of(ray, leaving=draining())
        meter.nodes = len(nodes)
        if waits_for_cards and given("auto", ray).gpus and suggestions.close():
            cards = counted(sum(int(node.gpus) for node in nodes), "GPU")
            say(f"search    {cards} joined: what runs now comes to its end, then trials train on them")
        try:
            fits = _concurrency(spec, nodes, memory)
        except BackendError:  # what held trials when the search began has left
            fits = 0
        if has_room and not fits:
            say("search    waits for a node that holds a trial: the last one has left the cluster")
        has_room = fits > 0
        return fits

    asked = spec.resources
    packs = None
    if _packs(spec):
        packs = Packs(ray, size=spec.search.pack, cpus=asked.cpus_per_worker, gpus=asked.gpus, is_to_leave=is_to_leave)
        search.share = packs.share
    suggestions = Suggestions(search, room, problem, packs=packs, alike=lambda trial: _alike(job, trial))
    ends = Ends(search, recording, progress, problem, suggestions, max_failures=asked.max_failures, packs=packs)
    _concurrency(spec, nodes_of(ray), memory)  # what can never fit is refused here
    with TemporaryDirectory(prefix="segdist-tune-") as scratch:  # Tune's own files: nobody reads them again
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=-1,  # until there is nothing left to suggest
                search_alg=suggestions,
                scheduler=Verdicts(search, recording, progress, problem, meters),
                # A reused process starts the next trial without importing torch again.
                reuse_actors=spec.resources.workers == 1,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                progress_reporter=tune.CLIReporter(),  # silent; the one for notebooks clears the cell
                callbacks=[ends],
            ),
        )
        try:
            with _stopping_gracefully() as stops, broken_down_alone(), ended_trials_forgotten(), asked_to_grow(spec):
                tuner.fit()
            return stops.first
        except Exception as error:
            if problem.error:
                raise problem.error from error
            raise
        finally:
            progress.stop()
            if packs:
                packs.close()


def _packs(spec: SweepSpec) -> bool:
    """Whether processes of their own train the trials, several each."""
    return spec.search.pack > 1 and spec.resources.workers == 1


def _alike(job: Job, trial: Trial) -> str:
    """What others must have equal to be trained with a trial."""
    run = job.run_of(trial.settings)
    return likeness(
        run.with_micro_batch(trial.micro_batch) if trial.micro_batch else run, job.labels_for(trial.settings)
    )


def _concurrency(spec: SweepSpec, nodes: Sequence[Node], memory: int) -> int:
    """Trials that fit the cluster as it is now.

    Args:
        spec: the sweep.
        nodes: of the cluster.
        memory: bytes that a plan found a worker to need; 0 where there is none. One trial runs all the same.

    Raises:
        BackendError: not even one fits.
    """
    asked = spec.resources
    need = Need(asked.cpus_per_worker, asked.gpus, workers=asked.workers)
    if asked.min_workers and not fitting(nodes, need):
        need = replace(need, workers=asked.min_workers)
    fits = holders(nodes, need)
    if spec.search.concurrency != "auto":
        return min(fits, spec.search.concurrency)
    return min(fits, max(fitting(usable(nodes), replace(need, memory=memory * spec.search.pack)), 1))


def _driver_resources(spec: SweepSpec) -> dict[str, float]:
    """What Tune reserves for a trial: everything if that trains in its process, next to nothing if in others."""
    if spec.resources.workers > 1:
        return {"CPU": 0.01}
    if _packs(spec):
        return {"memory": 1.0}  # of a CPU it would take a part from those that train
    gpus = spec.resources.gpus
    return {"CPU": spec.resources.cpus_per_worker, **({"GPU": gpus} if gpus else {})}


@contextmanager
def _stopping_gracefully() -> Iterator[Stops]:
    """Ctrl-C, SIGTERM and SIGHUP become the signal on which Tune saves and returns; a second one does not wait for it.

    Only the main thread may catch signals; in another, as those of a web server, they stay what they were.
    """
    stops = Stops()
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return

    def stop(number: int, frame: FrameType | None) -> None:
        is_first = not stops.first
        try:
            stops(number, frame)
        except Interrupted:
            if not is_first or not callable(signal.getsignal(signal.SIGUSR1)):  # Tune does not listen yet
                raise
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        with interruptible(stop):
            yield stops
    finally:
        signal.signal(signal.SIGUSR1, before)
