"""One trial: inside the search's own process, or in a group of data-parallel workers; both report the same way."""

import math
import operator
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdist.core import storage
from segdist.core.errors import DivergedError
from segdist.core.spec import RunSpec
from segdist.core.text import counted
from segdist.datasets.shards import Dataset
from segdist.metrics import is_minimised
from segdist.pipeline.checkpoints import CHECKPOINT, Checkpoints
from segdist.pipeline.draining import left_early, node_here
from segdist.pipeline.elastic import for_the_room
from segdist.pipeline.own_cluster import SESSION
from segdist.pipeline.trial_meters import trial_told
from segdist.searching.ledger import checkpoints_of
from segdist.sweepfile.label_policies import policy_name, run_values

if TYPE_CHECKING:
    from segdist.engine.pace import Work
    from segdist.engine.packs import PackMember

DAMAGED = "damaged_checkpoints"
"""Under which an epoch's report says which checkpoints could not be read."""

LOST = "not_finite.json"
"""Beside a trial's checkpoints: the images of the batch whose loss was not finite."""
MOST_HALVINGS = 2
"""Times that a trial goes on with half the rate after a loss that was not finite."""

GROUPS = "groups"
"""Where Ray Train keeps what it needs to start a worker group again; gone when the search ends."""


Report = Callable[[dict[str, Any]], None]
"""Takes the metrics of an epoch."""


@dataclass(frozen=True)
class Seat:
    """A trial's place in a pack: the name of the process, and of the place in it."""

    host: str
    token: str


@dataclass(frozen=True)
class Job:
    """What every trial of a sweep has in common; small, because it travels to each of them."""

    run: RunSpec
    dataset_uri: str
    labels_uri: str
    """Pseudo-labels that overlay the data set's own annotations; "" for none."""
    boxes_only: tuple[str, ...]
    storage_path: str
    """The sweep's own folder: its ledger and checkpoints."""
    metric: str
    sweep: str = ""
    """Its name."""
    is_costed: bool = False
    """Whether each trial measures what its model costs, because the search has constraints on that."""
    is_watched: bool = True
    """Whether each trial records what its node and its cards do."""
    labels_of_policy: Mapping[str, str] = field(default_factory=dict)
    """Where label policies are searched, the URI of each policy's labels; `labels_uri` is then the first of them."""

    def run_of(self, config: Mapping[str, Any]) -> RunSpec:
        """What a trial with these searched values learns."""
        return self.run.override(run_values(config))

    def labels_for(self, config: Mapping[str, Any]) -> str:
        """The URI of the labels that a trial with these searched values learns from; "" for none."""
        return self.labels_of_policy[policy_name(config)] if self.labels_of_policy else self.labels_uri

    def checkpoints(self, number: int) -> Checkpoints:
        """Where a trial keeps its checkpoints."""
        at_least = operator.le if is_minimised(self.metric) else operator.ge
        return Checkpoints(checkpoints_of(self.storage_path, number), is_better=at_least)

    def kept(self, run: RunSpec) -> str:
        """Where the models of a trial's `train.keep_every` are kept; "" where none are."""
        return storage.join(self.storage_path, "kept", run.fingerprint) if run.train.keep_every else ""


def train_trial(config: dict[str, Any], job: Job) -> None:
    """The function Ray Tune runs: the job's run with the searched `values` of the trial `number` in `config`."""
    number, known, values = int(config["number"]), int(config["known"]), config["values"]
    run = job.run_of(values)
    assert run.resources.gpus_per_worker != "auto", "what is reserved is decided before"
    if config["micro_batch"]:
        run = run.with_micro_batch(config["micro_batch"])
    job = replace(job, labels_uri=job.labels_for(values))
    if config["seat"]:
        follow(Seat(**config["seat"]), run, job, number, known)
        return
    if run.resources.workers > 1:
        _train_in_group(run, job, number, known)
        return
    from ray import tune

    work(run, job, number, known, tune.report, nodes=(node_here(),))


def work(
    run: RunSpec,
    job: Job,
    number: int,
    known: int,
    report: Report,
    *,
    nodes: tuple[str, ...] = (),
    news: str = "",
) -> None:
    """Fit on this process's share, from the trial's latest checkpoint on.

    Args:
        run: what to learn.
        job: what all trials have in common.
        number: of the trial.
        known: the last epoch that the driver has heard of; those that earlier processes did since are told again.
        report: called after every epoch; under `CHECKPOINT` is the URI of what was saved after it, and under `DAMAGED`
            what is to be known of checkpoints that could not be read.
        nodes: ids of those that the trial needs; when one of them is about to leave, the trial does.
        news: for people, told with the next epoch.

    Raises:
        PreemptedError: it has left, and goes on elsewhere after the step that it had come to.
    """
    from segdist.engine.workers import reserved

    with (
        reserved(cpus=run.resources.cpus_per_worker, gpus=run.resources.gpus),
        left_early(*nodes) as is_asked_to_leave,
    ):
        work_beside(run, job, number, known, _with_news(report, news), is_asked_to_leave=is_asked_to_leave)


def _with_news(report: Report, news: str) -> Report:
    """Tell of news with the first report."""
    left = [news] if news else []

    def tell(metrics: dict[str, object]) -> None:
        told = [*left, *([str(metrics[DAMAGED])] if DAMAGED in metrics else [])]
        left.clear()
        report({**metrics, DAMAGED: "\n".join(told)} if told else metrics)

    return tell


def work_beside(
    run: RunSpec,
    job: Job,
    number: int,
    known: int,
    report: Report,
    member: "PackMember | None" = None,
    *,
    is_asked_to_leave: Callable[[], bool] | None = None,
) -> None:
    """`work` in a process that has reserved what it needs, alone or as a member of a pack."""
    from segdist.engine.allocation import give_back

    with (
        _watched(is_watched=job.is_watched) as watched,
        trial_told(job.sweep, run, number, place=storage.kind_of(job.storage_path)) as told,
    ):
        try:
            _work(run, job, number, known, report, watched, told, member, is_asked_to_leave)
        finally:
            give_back()  # the process is used again


@contextmanager
def _watched(*, is_watched: bool) -> Iterator[Callable[[], dict[str, float]]]:
    """What says what the nodes and cards of a trial did since it last said so; nothing where nobody wants to know."""
    if not is_watched:
        yield dict
        return
    from segdist.engine.system import of_all, watching
    from segdist.engine.workers import Workers

    with watching() as watch:
        yield lambda: of_all(Workers.here(), watch.taken())


def _work(
    run: RunSpec,
    job: Job,
    number: int,
    known: int,
    report: Report,
    watched: Callable[[], dict[str, float]],
    on_work: Callable[["Work"], None],
    member: "PackMember | None",
    is_asked_to_leave: Callable[[], bool] | None,
) -> None:
    from segdist.engine.evaluation import costs_of
    from segdist.engine.fit import MODEL, Leaving, fit

    dataset = Dataset.open(job.dataset_uri)
    labels = Dataset.open(job.labels_uri) if job.labels_uri else None
    train, val = (
        dataset.reader(split, storage.cache_dir(), labels=labels, hide_masks=split in job.boxes_only)
        for split in ("train", "val")
    )
    checkpoints, damaged, costs = job.checkpoints(number), list[str](), dict[str, float]()

    def told(metrics: dict[str, float], folder: Path | None) -> None:
        nonlocal known
        epoch = int(metrics["epoch"])
        known = max(known, epoch)
        if folder and job.is_costed and not costs:
            costs.update(costs_of(folder / MODEL, val, run.evaluate))
        metrics = metrics | costs | watched()
        checkpoints.note(metrics)
        damaged.extend(member.news() if member else ())
        saved = checkpoints.save(folder, epoch=epoch, score=metrics.get(job.metric)) if folder else ""
        report({**metrics, CHECKPOINT: saved, **({DAMAGED: "\n".join(damaged)} if damaged else {})})
        damaged.clear()

    def save_midway(folder: Path, epochs: int, steps: int) -> None:
        checkpoints.save_midway(folder, epochs=epochs, steps=steps)

    halvings = 0
    while True:
        with checkpoints.latest(damaged.append) as resume:
            for one in checkpoints.reported():
                if one["epoch"] > known:
                    report(one)
                    known = one["epoch"]
            try:
                fit(
                    run,
                    dataset.manifest.classes,
                    train=train,
                    val=val,
                    resume=resume,
                    kept=job.kept(run),
                    report=told,
                    halvings=halvings,
                    on_work=on_work,
                    member=member,
                    leaving=is_asked_to_leave and Leaving(is_asked_to_leave, save_midway),
                )
            except DivergedError as error:
                halvings = error.halvings + 1
                place = storage.join(checkpoints_of(job.storage_path, number), LOST)
                storage.write_json(place, {"error": str(error), "images": error.images, "halvings": error.halvings})
                if halvings > MOST_HALVINGS:
                    raise DivergedError(
                        f"{error} It went on {MOST_HALVINGS} times from its checkpoint with half the rate. "
                        f"All images of the batch: {place}"
                    ) from error
                damaged.append(f"goes on from its checkpoint with half the learning rate: {error}")
            else:
                return


def follow(seat: Seat, run: RunSpec, job: Job, number: int, known: int) -> None:
    """Have a trial be trained in a pack, and pass its reports on to the search."""
    import ray
    from ray import tune
    from ray.exceptions import RayActorError

    try:
        host = ray.get_actor(seat.host)
    except ValueError as error:
        raise RayActorError(error_msg="The actor died unexpectedly: the process of the trial's pack is gone") from error
    try:
        ray.get(host.begin.remote(seat.token, run, job, number, known, node_here()))
        while (metrics := ray.get(host.next.remote(seat.token))) is not None:
            tune.report(metrics)
    finally:  # also where Tune ends this thread, because the trial is stopped
        host.leave.remote(seat.token)


def _train_in_group(run: RunSpec, job: Job, number: int, known: int) -> None:
    """A Ray Train group of `resources.workers` processes, or of fewer where `resources.min_workers` are enough."""
    import ray
    from ray.train import ControllerError

    while True:
        here = for_the_room(run, ray)
        lacks = here.resources.workers < run.resources.workers
        news = f"trains with {counted(here.resources.workers, 'worker')} of {run.resources.workers}" if lacks else ""
        try:
            _fit_group(here, job, number, known, news)
        except ControllerError:
            if run.resources.min_workers is None:
                raise
            continue  # what was there has gone before the group began
        return


def _fit_group(run: RunSpec, job: Job, number: int, known: int, news: str) -> None:
    """Its reports pass through to the search."""
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from segdist.pipeline.meeting import MeetingOverFile

    gpus = run.resources.gpus
    backend = "nccl" if gpus >= 1 else "gloo"  # NCCL refuses two workers on one card
    per_worker = {"CPU": run.resources.cpus_per_worker, "GPU": gpus}
    timeout = math.ceil(run.resources.collective_timeout)
    os.environ |= {
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": f"{timeout}",  # of reports, for which all wait
        "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR": "1" if backend == "nccl" else "0",
        "RAY_TRAIN_NCCL_RAS_ACTION": "fail",
        "RAY_TRAIN_NCCL_RAS_CONFIRM_DURATION_S": f"{timeout}",
    }  # Ray Train reads them here
    filesystem, path = storage.arrow_filesystem(storage.join(job.storage_path, GROUPS))
    of_trial = {"run": run.model_dump_json(), "job": job, "number": number, "known": known}
    of_trial |= {"driver": node_here(), "news": news}
    TorchTrainer(
        _train_worker,
        train_loop_config=of_trial,
        torch_config=(MeetingOverFile if SESSION in os.environ else TorchConfig)(backend=backend, timeout_s=timeout),
        scaling_config=train.ScalingConfig(
            num_workers=run.resources.workers,
            use_gpu=gpus > 0,
            resources_per_worker={kind: amount for kind, amount in per_worker.items() if amount},
        ),
        run_config=train.RunConfig(
            name=f"{number:04d}-{uuid.uuid4().hex[:8]}",  # by a name it knows, Train would find a state of its own
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=train.FailureConfig(controller_failure_limit=0 if run.resources.min_workers else -1),
            callbacks=[TuneReportCallback()],  # a group that breaks down is taken up by the driver, which knows why
        ),
    ).fit()


def _train_worker(config: dict[str, Any]) -> None:
    import torch
    from ray import train
    from ray.train.torch import get_device

    from segdist.engine.hangs import hangs_named
    from segdist.engine.workers import Workers, check_card

    run = RunSpec.model_validate_json(config["run"])
    if run.resources.gpus:
        check_card()
        torch.cuda.set_device(get_device())  # each worker of a group sees the cards of all on its node
    nodes = (*Workers.here().gather([node_here()]), config["driver"])  # of all: who scores waits for nobody
    with hangs_named(run.resources.collective_timeout):
        work(run, config["job"], config["number"], config["known"], train.report, nodes=nodes, news=config["news"])
