"""Names of the tags and metrics by which segdist finds its runs in MLflow."""

import getpass
from pathlib import Path

from segdist.core import provenance
from segdist.core.drivers import this_driver

KIND = "segdist.kind"  # "sweep", or "train" for a single trial
QUESTION = "segdist.question"
FINGERPRINT = "segdist.fingerprint"  # on parent runs only
METRIC = "segdist.metric"
STARTED = "segdist.started"  # milliseconds since 1970 of the last start or resumption
DRIVER = "segdist.driver"  # the process that writes a parent run and its trials
PARENT = "mlflow.parentRunId"  # what nests runs in MLflow's own pages
TRIAL = "segdist.trial"
NUMBER = "segdist.number"
BASELINE = "segdist.baseline"
REPEATS = "segdist.repeats"  # key of the trial that another one trains again with another seed
CONFIRMED = "segdist.confirmed"  # JSON, on parent runs: numbers of the trials that were trained again
KEPT = "segdist.kept"  # where a trial keeps the models of `train.keep_every`
MODEL = "segdist.model"  # of a trial, as MLflow's models are named
MODEL_AT = "segdist.model_at"  # the tracking URI under which a trial's model stays that is not kept here
EPOCH = "segdist.epoch"  # on models: which one of the trial it is taken from
BROKEN = "segdist.broken"  # JSON: the constraints of the search that a trial breaks, and by how much
MICRO_BATCH = "segdist.micro_batch"  # images at once to which memory brought a trial down
LABELS_PLACE = "segdist.labels_place"  # on parent runs: the pseudo-labels that all trials learned from
STANDING = "segdist.standing"  # JSON, on parent runs: how clearly the best trial is the best
BUDGET = "segdist.budget"  # on parent runs: what of the budget is spent
END = "segdist.end"  # why a run ended
CHAMPION = "segdist.champion"  # on parent runs: whether the winner became the champion, and why
BEST = "best/"  # in front of a metric: its value in the epoch in which the search metric was highest
NOTE = "mlflow.note.content"  # Markdown, on the page of an experiment or run
EXPERIMENT_KIND = "mlflow.experimentKind"  # which of MLflow's pages an experiment gets
TRAINING = "custom_model_development"
REPORT = "report/report.html"  # among the artifacts of parent runs
SHARED = ("mlflow.user", "mlflow.source.", "segdist.git_dirty")  # what trials have from their sweep
GAIN = "gain"  # of a trial over the untuned one, in the search metric; the higher the better
TOTAL_SECONDS = "total_seconds"  # spent in epochs, over all resumptions


def is_run_id(text: str) -> bool:
    """Whether a text has the form of MLflow's run ids: 32 hexadecimal digits."""
    return len(text) == 32 and not set(text) - set("0123456789abcdef")


def names_model(text: str) -> bool:
    """Whether a text has the form of what names one model: a run id, `SWEEP#TRIAL`, `NAME@VERSION` or `NAME@ALIAS`."""
    return is_run_id(text) or "#" in text or "@" in text


def of_sweep(metric: str, file: Path, environment: provenance.Environment, started: int) -> dict[str, object]:
    """The tags of a parent run, among them those that MLflow's own pages show."""
    return {
        METRIC: metric,
        STARTED: started,
        DRIVER: this_driver(),
        "segdist.command": provenance.command_line(),
        "segdist.git_dirty": environment.git_dirty,
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": file.name,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": environment.git_commit,
        "mlflow.source.git.branch": environment.git_branch,
    }
