"""One trial: inside the search's own process, or in a group of data-parallel workers; both report the same way."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segdist.core import storage
from segdist.core.spec import RunSpec
from segdist.datasets.shards import Dataset
from segdist.pipeline.own_cluster import SESSION
from segdist.sweepfile.label_policies import policy_name, run_values

CHECKPOINT_PATH = "checkpoint_path"
"""The metric under which a worker group's checkpoints reach the search."""


@dataclass(frozen=True)
class Job:
    """What every trial of a sweep has in common; small, because it travels to each of them."""

    run: RunSpec
    dataset_uri: str
    labels_uri: str
    """Pseudo-labels that overlay the data set's own annotations; "" for none."""
    boxes_only: tuple[str, ...]
    storage_path: str
    """Where worker groups keep their checkpoints."""
    metric: str
    labels_of_policy: Mapping[str, str] = field(default_factory=dict)
    """Where label policies are searched, the URI of each policy's labels; `labels_uri` is then the first of them."""

    def run_of(self, config: Mapping[str, Any]) -> RunSpec:
        """What a trial with these searched values learns."""
        return self.run.override(run_values(config))

    def labels_for(self, config: Mapping[str, Any]) -> str:
        """The URI of the labels that a trial with these searched values learns from; "" for none."""
        return self.labels_of_policy[policy_name(config)] if self.labels_of_policy else self.labels_uri

    def kept(self, run: RunSpec) -> str:
        """Where the models of a trial's `train.keep_every` are kept; "" where none are."""
        return storage.join(self.storage_path, "kept", run.fingerprint) if run.train.keep_every else ""


def train_trial(config: dict[str, Any], job: Job) -> None:
    """The function Ray Tune runs: the job's run with the searched values in `config`."""
    run = job.run_of(config)
    job = replace(job, labels_uri=job.labels_for(config))
    if run.resources.workers > 1:
        _train_in_group(run, job)
        return
    from ray import tune

    work(run, job, tune)


def work(run: RunSpec, job: Job, session: Any) -> None:
    """Fit on this process's share; `session` is `ray.tune` or `ray.train`, which report with the same calls."""
    import torch

    from segdist.engine.fit import fit

    torch.set_num_threads(max(1, int(run.resources.cpus_per_worker)))
    dataset = Dataset.open(job.dataset_uri)
    labels = Dataset.open(job.labels_uri) if job.labels_uri else None
    train, val = (
        dataset.reader(split, storage.cache_dir(), labels=labels, hide_masks=split in job.boxes_only)
        for split in ("train", "val")
    )
    checkpoint = session.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else nullcontext() as resume:
        fit(
            run,
            dataset.manifest.classes,
            train=train,
            val=val,
            resume=Path(resume) if resume else None,
            kept=job.kept(run),
            report=lambda metrics, folder: session.report(
                metrics, checkpoint=session.Checkpoint.from_directory(folder) if folder else None
            ),
        )


def _train_in_group(run: RunSpec, job: Job) -> None:
    """A Ray Train group of `resources.workers` processes; its reports pass through to the search."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from segdist.pipeline.meeting import MeetingOverFile

    # The trial's id is part of the name: a second trial with equal values must not find this one's checkpoints.
    name = f"{run.fingerprint}-{tune.get_context().get_trial_id()}"
    per_worker = {"CPU": run.resources.cpus_per_worker, "GPU": run.resources.gpus_per_worker}
    filesystem, path = storage.arrow_filesystem(job.storage_path)
    TorchTrainer(
        _train_worker,
        train_loop_config={"run": run.model_dump_json(), "job": job},
        torch_config=MeetingOverFile() if SESSION in os.environ else None,
        scaling_config=train.ScalingConfig(
            num_workers=run.resources.workers,
            use_gpu=run.resources.gpus_per_worker > 0,
            resources_per_worker={kind: amount for kind, amount in per_worker.items() if amount},
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            callbacks=[TuneReportCallback()],
            failure_config=train.FailureConfig(max_failures=run.resources.max_failures),
            # Two, because the group runs ahead of the search: the best that the search knows of must still be there.
            checkpoint_config=train.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=job.metric),
        ),
    ).fit()


def _train_worker(config: dict[str, Any]) -> None:
    from ray import train

    work(RunSpec.model_validate_json(config["run"]), config["job"], train)
