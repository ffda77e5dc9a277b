"""What is read of MLflow's runs, and MLflow's own client as the place where it is read."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

PAGE = 1000
"""Runs in one answer of MLflow's."""


@dataclass(frozen=True)
class DatasetInput:
    """A data set that a run learned from.

    Attributes:
        name: what people call it.
        digest: its content hash.
        profile: what is known of it, as JSON text.
    """

    name: str
    digest: str
    profile: str


@dataclass(frozen=True)
class Run:
    """One run as MLflow has it, under MLflow's own keys.

    Attributes:
        run_id: names it.
        experiment_id: of its experiment.
        name: what people call it.
        status: RUNNING, FINISHED, FAILED, KILLED, ...
        start_time: milliseconds since 1970.
        end_time: the same; 0 before it ended.
        params: as text.
        metrics: the last value of each.
        tags: as text.
        datasets: its inputs; of trials they are not read.
    """

    run_id: str
    experiment_id: str
    name: str
    status: str
    start_time: int
    end_time: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    datasets: Sequence[DatasetInput] = field(default=())


@dataclass(frozen=True)
class Point:
    """A value of a metric.

    Attributes:
        step: the epoch.
        value: any number.
        timestamp: milliseconds since 1970.
    """

    step: int
    value: float
    timestamp: int


class Runs(Protocol):
    """Where runs are read; deleted ones are left out."""

    def experiment(self, name: str) -> str | None:
        """The id of the experiment of a name; None where there is none."""

    def experiment_names(self) -> list[str]:
        """Of those that are not deleted."""

    def active_experiments(self) -> list[str]:
        """The ids of those that are not deleted."""

    def run(self, run_id: str) -> Run:
        """The run of an id, with its inputs.

        Raises:
            BackendError: there is none, in the words of MLflow.
        """

    def tagged(self, experiment_id: str, tag: str, value: str = "", *, status: str = "") -> list[Run]:
        """The runs that have a tag, in order of their start, then of their ids.

        Args:
            experiment_id: where they are.
            tag: its key.
            value: that it has; "" for any.
            status: that they have; "" for any.
        """

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Every value that was logged under the key of a metric."""

    def fetch(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        """Copy a file or folder of a run into a folder, under its own path; None where there is none."""


class ClientRuns:
    """Runs as MLflow's client gives them, wherever they are.

    Args:
        client: connected.
    """

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def experiment(self, name: str) -> str | None:
        """See `Runs`."""
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else None

    def experiment_names(self) -> list[str]:
        """See `Runs`."""
        return [one.name for one in self._client.search_experiments()]

    def active_experiments(self) -> list[str]:
        """See `Runs`."""
        return [one.experiment_id for one in self._client.search_experiments()]

    def run(self, run_id: str) -> Run:
        """See `Runs`."""
        return _run(self._client.get_run(run_id))

    def tagged(self, experiment_id: str, tag: str, value: str = "", *, status: str = "") -> list[Run]:
        """See `Runs`."""
        condition, token = condition_of(tag, value, status), None
        found: list[Run] = []
        while True:
            page = self._client.search_runs([experiment_id], condition, 1, PAGE, ["attributes.start_time ASC"], token)
            found += map(_run, page)
            token = page.token
            if not token:
                return found

    def history(self, run_id: str, metric: str) -> list[Point]:
        """See `Runs`."""
        return [Point(p.step, p.value, p.timestamp) for p in self._client.get_metric_history(run_id, metric)]

    def fetch(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        """See `Runs`."""
        parent = str(PurePosixPath(artifact_path).parent)
        found = self._client.list_artifacts(run_id, None if parent == "." else parent)
        if artifact_path not in {item.path for item in found}:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self._client.download_artifacts(run_id, artifact_path, str(folder)))


def condition_of(tag: str, value: str, status: str) -> str:
    """What `Runs.tagged` asks for, in MLflow's language of filters."""
    conditions = [f"tags.`{tag}` = '{value}'" if value else f"tags.`{tag}` LIKE '%'"]
    return " and ".join(conditions + ([f"attributes.status = '{status}'"] if status else []))


def texts_of(runs: Runs, run_id: str, artifact_path: str) -> dict[str, str]:
    """The files of a folder of a run by their names, as text; of a file just this one."""
    with tempfile.TemporaryDirectory() as folder:
        found = runs.fetch(run_id, artifact_path, Path(folder))
        files = [] if found is None else [found] if found.is_file() else list(found.iterdir())
        return {file.name: file.read_text("utf-8") for file in files}


def _run(run: "MlflowRun") -> Run:
    inputs = run.inputs.dataset_inputs if run.inputs else ()
    return Run(
        run_id=run.info.run_id,
        experiment_id=str(run.info.experiment_id),
        name=run.info.run_name,
        status=run.info.status,
        start_time=run.info.start_time,
        end_time=run.info.end_time or 0,
        params=run.data.params,
        metrics=run.data.metrics,
        tags=run.data.tags,
        datasets=[DatasetInput(i.dataset.name, i.dataset.digest, i.dataset.profile or "{}") for i in inputs],
    )
