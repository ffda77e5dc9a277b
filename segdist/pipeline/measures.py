"""What segdist tells Prometheus: every metric once, with what starts its clock and when its value is stale.

Ray exports them on each node's metrics port, as `ray_` and the name, counters with `_total` at the end. The table is
the contract: metrics are registered from it, `dashboards/METRICS.md` is written from it, and a test holds the queries
of the dashboards and rules against it.

No trial is a label: there are thousands of them, and a series each would stay. What is told of a single trial is told
by the process that runs it, of which Ray's own label `WorkerId` says which one; its trial is the value of a metric.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from segdist.core import causes

Kind = Literal["counter", "gauge", "histogram"]
Teller = Literal["driver", "trial", "teacher"]
PREFIX = "ray_"
WAITS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Bounds of the buckets of waiting times, in seconds."""


@dataclass(frozen=True)
class Measure:
    """One metric.

    Attributes:
        name: with its unit, as Prometheus asks.
        kind: of metric.
        labels: with the values they may have, so that their number is bounded.
        says: what it is.
        clock: what starts or moves it.
        told_by: the processes that tell it, and with it when it is stale.
        of_each: of a counter, all values of its last label, where they are known before anything is counted.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    says: str
    clock: str
    told_by: tuple[Teller, ...]
    of_each: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """The name in Prometheus; of a histogram without `_bucket`, `_sum` and `_count`."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


LABELS = {
    "sweep": "its name in the sweep file",
    "family": "of the model: `unet_cbam`, `sam`, ...",
    "teacher": "its family; `trained` for a model of segdist's own",
    "state": "of a trial: `waiting`, `running`, `finished`, `stopped`, `failed`, `infeasible`; "
    "of an image: `done`, `planned`",
    "part": "of a step: `data`, `forward`, `backward`, `update`, `score`, `report`; of labelling: `read`, `teacher`, "
    "`decide`, `write`",
    "metric": "the search metric, such as `val/iou`",
    "resource": "`gpu` where trials reserve cards, and `cpu`",
    "outcome": "`useful` or `wasted`",
    "device": "`gpu`, or `cpu` where trials compute there",
    "cause": "the kind of what ended a process: `memory`, `card memory`, `node`, `process`, `disk`, ..., `other`",
    "place": "`local`, or the scheme of the object store: `s3`, `gs`",
}
"""What each label says, and its values."""

MEASURES = (
    Measure(
        "segdist_trained_images", "counter", ("sweep", "family"),
        "Images that trials have learned from, augmented or not.",
        "Each step of the optimiser, on the worker that took it; told about once a second.", ("trial",),
    ),
    Measure(
        "segdist_train_steps", "counter", ("sweep", "family"),
        "Steps of the optimiser; in a group of workers each counts.",
        "Each step; told about once a second.", ("trial",),
    ),
    Measure(
        "segdist_step_seconds", "counter", ("sweep", "family", "part"),
        "Seconds that training took, by part. On a card forward, backward and update are those of its stream.",
        "The part itself: data, score and report by the clock, the others by the clock or by events of the card.",
        ("trial",), ("data", "forward", "backward", "update", "score", "report"),
    ),
    Measure(
        "segdist_last_step_timestamp_seconds", "gauge", ("sweep", "family"),
        "When the process of a trial last came further (a step, a score, a report), in seconds since 1970.",
        "Set when the trial begins.", ("trial",),
    ),
    Measure(
        "segdist_trial_number", "gauge", ("sweep", "family"),
        "The number of the trial that a process runs, as in `SWEEP#NUMBER`: a value, not a label. Of trials that share "
        "a process (`search.pack`) it is that of one of them.",
        "Set when the trial begins.", ("trial",),
    ),
    Measure(
        "segdist_peak_memory_bytes", "gauge", ("sweep", "family", "device"),
        "The most memory of a trial's process: allocated by torch on its card, resident where it computes on the CPU.",
        "Since the process began.", ("trial",),
    ),
    Measure(
        "segdist_read_bytes", "counter", ("sweep", "place"),
        "Bytes read from the storage and from places that sources name; rows of memory-mapped shards are not counted.",
        "When a file was read; told every few seconds.", ("driver", "trial", "teacher"),
    ),
    Measure(
        "segdist_written_bytes", "counter", ("sweep", "place"),
        "Bytes written to the storage: shards, checkpoints, the ledger, pages.",
        "When a file was written; told every few seconds.", ("driver", "trial", "teacher"),
    ),
    Measure(
        "segdist_labelled_images", "counter", ("sweep", "teacher"),
        "Images that a teacher has been shown, or that needed none; `rate` of it is images per second.",
        "After each call of the teacher, of 8 images.", ("teacher",),
    ),
    Measure(
        "segdist_labelled_objects", "counter", ("sweep", "teacher"),
        "Objects that a teacher was asked about.",
        "After each call of the teacher.", ("teacher",),
    ),
    Measure(
        "segdist_labelling_seconds", "counter", ("sweep", "teacher", "part"),
        "Seconds of the processes that label, by part; `read` is what is waited for, as images are decoded ahead.",
        "After each call of the teacher; `write` after each unit of a shard.",
        ("teacher",), ("read", "teacher", "decide", "write"),
    ),
    Measure(
        "segdist_labelling_images", "gauge", ("sweep", "teacher", "state"),
        "Images of the labels that are being made: those of units that are stored, and all of them.",
        "When the labels of a policy begin to be made; those of earlier starts are counted.", ("driver",),
    ),
    Measure(
        "segdist_trials", "gauge", ("sweep", "state"),
        "Trials in the ledger by state, of the search and repeats.",
        "When the search begins; those of earlier starts are counted.", ("driver",),
    ),
    Measure(
        "segdist_planned_trials", "gauge", ("sweep",),
        "Trials that the search is to have, repeats excepted.",
        "When the search begins.", ("driver",),
    ),
    Measure(
        "segdist_epochs", "counter", ("sweep", "family"),
        "Epochs that trials reported to this start; one that is done again counts again.",
        "Each report.", ("driver",),
    ),
    Measure(
        "segdist_best_score", "gauge", ("sweep", "metric"),
        "The best of all epochs of the search's trials that break no constraint.",
        "The first epoch with a score; those of earlier starts are counted.", ("driver",),
    ),
    Measure(
        "segdist_compute_seconds", "gauge", ("sweep", "resource", "outcome"),
        "CPU- and GPU-seconds that all trials have held, over all starts. A gauge, because what is useful today is "
        "wasted when its trial is stopped or fails. The GPU's stands at 0 where no trial reserves one.",
        "A trial's process that is there; counted at its reports and its end.", ("driver",),
    ),
    Measure(
        "segdist_queue_wait_seconds", "histogram", ("sweep",),
        "From when the search hands a trial out to when its process has taken it: Ray looks for room, or a node comes. "
        "Of Ray's histograms the buckets and the count are exact, the sum is not.",
        "The search's suggestion.", ("driver",),
    ),
    Measure(
        "segdist_retries", "counter", ("sweep", "cause"),
        "Times that a trial was taken up again because its process ended.",
        "The end of the process.", ("driver",), (*get_args(causes.Kind), "other"),
    ),
    Measure(
        "segdist_preemptions", "counter", ("sweep",),
        "Times that a trial was taken up again because its node was taken away or died.",
        "The end of the process.", ("driver",),
    ),
    Measure(
        "segdist_first_trial_seconds", "gauge", ("sweep",),
        "From the command to the end of the first step that a trial of this start took: data, labels and processes.",
        "The command; told with the first epoch.", ("driver",),
    ),
    Measure(
        "segdist_tracking_spool_trials", "gauge", ("sweep",),
        "Trials of which the ledger knows what MLflow was not told: how far it is behind.",
        "News of a trial.", ("driver",),
    ),
    Measure(
        "segdist_tracking_told_timestamp_seconds", "gauge", ("sweep",),
        "When MLflow last knew everything or took some news, in seconds since 1970.",
        "The start of the search.", ("driver",),
    ),
    Measure(
        "segdist_node_seconds", "gauge", ("sweep",),
        "Seconds of all nodes of the cluster while the sweep went on, over all starts.",
        "The command.", ("driver",),
    ),
    Measure(
        "segdist_spent_money", "gauge", ("sweep",),
        "Those seconds at `resources.price_per_hour`, in the money of that price; absent where none is given.",
        "The command.", ("driver",),
    ),
)  # fmt: skip

STALE = {
    "driver": "20 seconds after the search ended, however it ended",
    "trial": "20 seconds after its trial left the process, or the process is gone",
    "teacher": "never set",
}
"""When a gauge is gone, by who tells it: Ray forgets one that is not set again, and it is set every 5 seconds."""


def measure(name: str) -> Measure:
    """The metric with a name."""
    return next(one for one in MEASURES if one.name == name)


def documented() -> str:
    """The table as a page of Markdown."""
    lines = [
        "# Metrics",
        "",
        "Written from `segdist/pipeline/measures.py`, which is where to change it; a test compares the two.",
        "",
        f"A **counter** is told as what was added, and as 0 before its process begins to work; take `rate` or `increase` and `sum` over processes. Ray exports every 10 seconds: what a process did before its 0 was seen is in no rate, and is all that a labelling of a few seconds does, so dashboards look at `ray_segdist_labelling_images` then. It stays, still, for as long as its node's Ray does. A **gauge** is set every 5 seconds while there is something to say, and Ray forgets it 20 seconds after the last time: one of a driver is gone {STALE['driver']}, one of a trial {STALE['trial']}. No gauge of yesterday's sweep stays.",  # noqa: E501
        "",
        "Ray adds labels of its own: `WorkerId` (the process), `NodeAddress`, `SessionName`, `Component`, `Version`.",
        "",
        "| metric | kind | labels | what it is | what starts or moves it | told by |",
        "|---|---|---|---|---|---|",
    ]
    for one in MEASURES:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(
            f"| `{one.exported}` | {one.kind} | {labels} | {one.says} | {one.clock} | {', '.join(one.told_by)} |"
        )
    lines += ["", "| label | values |", "|---|---|"]
    lines += [f"| `{label}` | {says} |" for label, says in LABELS.items()]
    return "\n".join(lines) + "\n"
