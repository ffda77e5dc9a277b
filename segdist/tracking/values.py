"""What goes into MLflow and comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from segdist.core.json_values import JsonDict

TrialStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""RUNNING, or how a run ended: by itself, by an error, or stopped (early stopping counts as FINISHED)."""


@dataclass(frozen=True)
class Measured:
    """What was measured after one epoch of a trial.

    Attributes:
        epoch: counted from 1.
        metrics: by name; those that are not finite are left out.
        seconds: that the epoch took.
        at: when it ended, in seconds since 1970; 0 for now. Told again with the same time it stays one point.
    """

    epoch: int
    metrics: Mapping[str, object]
    seconds: float = 0.0
    at: float = 0.0


@dataclass(frozen=True)
class DatasetInfo:
    """The data set a run learned from, as MLflow shows it.

    Attributes:
        name: what people call it.
        digest: its content hash.
        profile: its manifest without the list of shards; JSON values.
    """

    name: str
    digest: str
    profile: JsonDict = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRecord:
    """One trial as recorded.

    Attributes:
        run_id: of the MLflow run.
        trial_key: names the trial within its sweep.
        number: its place in the order of the search, from 0.
        is_baseline: whether it has the sweep file's own values, untuned.
        status: how it ended.
        reason: why it ended, where there is more to say, e.g. an error.
        params: everything logged as a parameter, dotted keys, with the types they had.
        metrics: at the best epoch where a metric is measured each epoch, otherwise the last value. Always finite.
        epochs: epochs finished.
        best_epoch: the epoch in which the search metric was highest; 0 before the first.
        seconds: spent in epochs, over all resumptions; before the first epoch, since its start.
        started: milliseconds since 1970.
        broken: the constraints of the search that it breaks, and by how much; None where it was not measured.
        repeats: key of the trial of the search that it trains again with another seed; "" for one of the search.
        micro_batch: images at once to which memory brought it down; 0 where it did not.
    """

    run_id: str
    trial_key: str
    number: int
    is_baseline: bool
    status: str
    reason: str
    params: JsonDict
    metrics: dict[str, float]
    epochs: int
    best_epoch: int
    seconds: float
    started: int
    broken: dict[str, float | None] = field(default_factory=dict)
    repeats: str = ""
    micro_batch: int = 0

    @property
    def test_metrics(self) -> dict[str, float]:
        """Those of the test split; empty where the trial was not scored on it."""
        return {name: value for name, value in self.metrics.items() if name.startswith("test/")}


@dataclass(frozen=True)
class SweepRecord:
    """One sweep as recorded.

    Attributes:
        run_id: of the MLflow parent run.
        name: of the sweep and of the MLflow experiment.
        fingerprint: names this very search; the same is resumed.
        status: how it ended.
        metric: what the search was decided by.
        question: what the model is to find.
        spec: the sweep as checked, defaults filled in; JSON values.
        file_name: of the sweep file.
        file_text: the sweep file as written.
        environment: `provenance.Environment` as JSON values.
        dataset: the data set it learned from.
        params: of the parent run.
        metrics: of the parent run; always finite.
        tags: of the parent run.
        started: milliseconds since 1970.
        seconds: from its start to its end, or until now.
    """

    run_id: str
    name: str
    fingerprint: str
    status: str
    metric: str
    question: str
    spec: JsonDict
    file_name: str
    file_text: str
    environment: JsonDict
    dataset: DatasetInfo | None
    params: JsonDict
    metrics: dict[str, float]
    tags: dict[str, str]
    started: int
    seconds: float
