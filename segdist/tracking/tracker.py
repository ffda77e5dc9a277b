"""Sweeps and trials as MLflow runs: written by one driver, found again after any crash, read for the report."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from segdist import provenance
from segdist.errors import BackendError, StorageError
from segdist.spec import SweepSpec
from segdist.tracking import reading, registry, tags
from segdist.tracking.connection import Connection
from segdist.tracking.encoding import finite, flatten, key, param_text, tag_text
from segdist.tracking.values import DatasetInfo, SweepRecord, TrialRecord, TrialStatus

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARAMS_PER_CALL = 100  # MLflow's limit
_METRICS_PER_CALL = 1000


class Tracker:
    """Writes and reads the runs of sweeps. May be pickled: the connection is opened where it is used.

    Args:
        uri: an MLflow tracking URI: `sqlite:///FILE`, `http://HOST:PORT`, ...
        artifact_root: a URI for the files of new experiments; "" leaves the place to the MLflow server.
        metric: the search metric; the epoch in which it is highest is a trial's best.
    """

    def __init__(self, uri: str, artifact_root: str = "", *, metric: str = "val/iou") -> None:
        self.metric = key(metric)
        self._connection = Connection(uri, artifact_root)
        self._best: dict[str, float] = {}

    @classmethod
    def for_sweep(cls, spec: SweepSpec) -> Self:
        """The tracker that a sweep file asks for."""
        return cls.for_storage(spec.storage, spec.tracking.uri, metric=spec.search.metric)

    @classmethod
    def for_storage(cls, storage: str, uri: str = "embedded", *, metric: str = "val/iou") -> Self:
        """The tracker at `tracking.uri`; `embedded` means SQLite and artifacts inside the storage folder.

        Raises:
            StorageError: `embedded` with a storage that is no folder.
        """
        if uri.startswith(("http://", "https://", "databricks")):
            return cls(uri, metric=metric)
        if uri != "embedded":
            return cls(uri, _artifacts_beside(storage), metric=metric)
        if "://" in storage:
            raise StorageError(
                f"`tracking.uri: embedded` keeps SQLite in the storage folder, and SQLite cannot live in {storage}. "
                f"Set tracking.uri to an MLflow server (http://HOST:PORT), or storage to a folder."
            )
        folder = Path(storage).expanduser().absolute()
        return cls(f"sqlite:///{folder / 'mlflow.db'}", _artifacts_beside(storage), metric=metric)

    @property
    def uri(self) -> str:
        """The MLflow tracking URI, for `mlflow ui --backend-store-uri`; without credentials."""
        return self._connection.shown

    def check(self) -> None:
        """Connect now, so that a wrong address is an error before anything is computed.

        Raises:
            BackendError: nobody answers at the address, or it is not MLflow.
            StorageError: the database cannot be written.
        """
        with self._connection.client():
            pass

    # Writing sweeps

    def start_sweep(
        self,
        spec: SweepSpec,
        *,
        file: Path,
        text: str,
        dataset: DatasetInfo,
        more_tags: Mapping[str, Any] = {},
    ) -> str:
        """The parent run of a sweep: found by its fingerprint, or created.

        Args:
            spec: the sweep, checked.
            file: where the sweep file lies; its repository's commit is recorded.
            text: the sweep file as written.
            dataset: what its trials learn from.
            more_tags: further tags of the run.

        Returns:
            The run id.
        """
        environment = provenance.environment(file.absolute().parent)
        marks = {
            tags.KIND: tags.SWEEP, tags.FINGERPRINT: spec.sweep_fingerprint, tags.METRIC: self.metric,
            "mlflow.source.name": file.name, "mlflow.source.type": "LOCAL", "mlflow.note.content": spec.question,
            "mlflow.source.git.commit": environment.git_commit, "segdist.git_dirty": environment.git_dirty,
            "segdist.command": provenance.command_line(), tags.STARTED: time.time_ns() // 1_000_000, **more_tags,
        }  # fmt: skip
        with self._connection.client() as client:
            same = {tags.KIND: tags.SWEEP, tags.FINGERPRINT: spec.sweep_fingerprint}
            run_id = self._find_or_create(client, self._experiment(client, spec.name), same, name=spec.name)
            self._describe(client, run_id, marks, spec.model_dump(mode="json"), dataset)
            for name, content in (("spec", spec.model_dump(mode="json")), ("environment", environment.as_dict())):
                client.log_dict(run_id, content, f"sweep/{name}.json")
            client.log_text(run_id, text, "sweep/file.yaml")
        return run_id

    def close_orphans(self, parent_run_id: str, *, keep: Collection[str] = ()) -> list[str]:
        """Mark runs KILLED that a killed driver left RUNNING, and delete second runs of one trial.

        Args:
            parent_run_id: of the sweep.
            keep: keys of the trials that are truly running.

        Returns:
            Ids of the runs that were closed or deleted.
        """
        closed, seen = [], set()
        with self._connection.client() as client:
            for run in reading.children(client, parent_run_id):
                trial_key = run.data.tags.get(tags.TRIAL, "")
                if trial_key in seen:
                    client.delete_run(run.info.run_id)
                elif run.info.status == "RUNNING" and trial_key not in keep:
                    client.set_terminated(run.info.run_id, "KILLED")
                else:
                    seen.add(trial_key)
                    continue
                seen.add(trial_key)
                closed.append(run.info.run_id)
        return closed

    # Writing trials

    def start_trial(
        self,
        parent_run_id: str,
        trial_key: str,
        *,
        number: int,
        params: Mapping[str, Any],
        searched: Collection[str],
        dataset: DatasetInfo,
        more_tags: Mapping[str, Any] = {},
    ) -> str:
        """The run of a trial: found by its key when it is resumed, or created.

        Args:
            parent_run_id: of the sweep.
            trial_key: names the trial within the sweep, e.g. its fingerprint and number.
            number: its place in the order of the search; 0 is the untuned run.
            params: all values that decide what it learns, nested or with dotted keys; what was logged before stays.
            searched: the dotted keys among them that the search chose.
            dataset: what it learns from.
            more_tags: further tags of the run.

        Returns:
            The run id.
        """
        marks = {tags.NUMBER: number, tags.SEARCHED: list(searched), tags.END: "", **more_tags}
        same = {tags.PARENT: parent_run_id, tags.TRIAL: trial_key}
        with self._connection.client() as client:
            parent = client.get_run(parent_run_id)
            name = f"{parent.info.run_name}-{number:03d}"
            run_id = self._find_or_create(client, parent.info.experiment_id, same, name=name)
            self._describe(client, run_id, marks, params, dataset)
        return run_id

    def log_epoch(self, run_id: str, metrics: Mapping[str, Any], *, epoch: int) -> None:
        """Record what was measured after an epoch (counted from 1).

        Values that are not finite are left out. When the search metric is the highest so far, all `val/` values
        are kept as `best/val/...` too, because MLflow itself shows the last value only. The metric `seconds`, if
        given, is the training time so far over all resumptions.
        """
        values = {**finite(metrics), "epoch": float(epoch)}
        if values.get(self.metric, float("-inf")) > self._best_so_far(run_id):
            self._best[run_id] = values[self.metric]
            kept = {n: v for n, v in values.items() if n.startswith("val/") or n in (self.metric, "epoch")}
            values |= {tags.BEST + n: v for n, v in kept.items()}
        self._log(run_id, values, step=epoch)

    def log_metrics(self, run_id: str, metrics: Mapping[str, Any], *, step: int = 0) -> None:
        """Record measurements that are not made each epoch, e.g. `test/iou`; what is not finite is left out."""
        self._log(run_id, finite(metrics), step=step)

    def end(self, run_id: str, status: TrialStatus = "FINISHED", *, reason: str = "") -> None:
        """End a run.

        Args:
            run_id: of a sweep or trial.
            status: how it ended; a trial that early stopping ended is FINISHED.
            reason: why, in a few words: "stopped early", the first line of an error.
        """
        with self._connection.client() as client:
            if reason:
                client.set_tag(run_id, tags.END, tag_text(reason))
            client.set_terminated(run_id, status)

    def discard(self, run_id: str) -> None:
        """Delete the run of a trial that a killed driver started and no restored search knows; MLflow can undo it."""
        with self._connection.client() as client:
            client.delete_run(run_id)

    # Files

    def log_files(self, run_id: str, folder: Path, artifact_path: str) -> None:
        """Keep every file of a folder under a path of the run."""
        with self._connection.client() as client:
            client.log_artifacts(run_id, str(folder), artifact_path)

    def log_json(self, run_id: str, content: Mapping[str, Any], artifact_path: str) -> None:
        """Keep JSON values as a file of the run."""
        with self._connection.client() as client:
            client.log_dict(run_id, dict(content), artifact_path)

    def log_text(self, run_id: str, text: str, artifact_path: str) -> None:
        """Keep a text as a file of the run."""
        with self._connection.client() as client:
            client.log_text(run_id, text, artifact_path)

    def files(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        """Fetch a file or folder of a run into a local folder; None where the run has none."""
        with self._connection.client() as client:
            return reading.fetch(client, run_id, artifact_path, folder)

    def read_json(self, run_id: str, artifact_path: str) -> dict[str, Any]:
        """A JSON file of a run; empty where the run has none."""
        with self._connection.client() as client:
            return reading.load_json(client, run_id, artifact_path)

    # Reading

    def latest_sweep(self, name: str) -> SweepRecord:
        """The sweep of a name that was started last.

        Raises:
            BackendError: there is no sweep of this name.
        """
        with self._connection.client() as client:
            return reading.latest_sweep(client, name, where=self.uri)

    def find_sweep(self, spec: SweepSpec) -> SweepRecord | None:
        """This very sweep, if it was started before."""
        with self._connection.client() as client:
            return reading.find_sweep(client, spec.name, spec.sweep_fingerprint)

    def trials(self, parent_run_id: str) -> list[TrialRecord]:
        """The trials of a sweep, each once, best first; those without a score come last, in order of their start."""
        with self._connection.client() as client:
            return reading.trials(client, parent_run_id)

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) in order; of a step that was repeated after a crash, the last value."""
        with self._connection.client() as client:
            points = client.get_metric_history(run_id, key(metric))
        return sorted({p.step: p.value for p in sorted(points, key=lambda p: p.timestamp)}.items())

    # The registry

    def register_champion(self, name: str, run_id: str, artifact_path: str) -> int:
        """Make files of a run a version of a registered model, with alias `champion`; the same run stays one version.

        Returns:
            The version number.
        """
        with self._connection.client() as client, self._connection.exclusive():
            return registry.register_champion(client, name, run_id, artifact_path)

    def model_files(self, model: str, folder: Path) -> Path:
        """Fetch the files of `NAME@ALIAS` or `NAME@VERSION` into a local folder.

        Raises:
            BackendError: there is no such model, alias or version.
        """
        with self._connection.client() as client:
            return registry.model_files(client, model, folder, where=self.uri)

    # Helpers

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; the best values are read again there."""
        return {**self.__dict__, "_best": {}}

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        with self._connection.exclusive():
            found = client.get_experiment_by_name(name)
            if found is None:
                return str(client.create_experiment(name, artifact_location=self._connection.artifact_root or None))
        if found.lifecycle_stage != "active":
            raise BackendError(
                f"The MLflow experiment `{name}` was deleted. Restore it (mlflow experiments restore "
                f"--experiment-id {found.experiment_id}), remove it for good (mlflow gc), or set another `name`."
            )
        return str(found.experiment_id)

    def _find_or_create(self, client: "MlflowClient", experiment_id: str, same: Mapping[str, str], *, name: str) -> str:
        condition = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in same.items())
        with self._connection.exclusive():
            found = client.search_runs(
                [experiment_id], condition, max_results=1, order_by=["attributes.start_time ASC"]
            )
            if not found:
                return str(client.create_run(experiment_id, tags=dict(same), run_name=name).info.run_id)
        client.update_run(found[0].info.run_id, status="RUNNING")
        return str(found[0].info.run_id)

    def _describe(
        self,
        client: "MlflowClient",
        run_id: str,
        marks: Mapping[str, Any],
        params: Mapping[str, Any],
        dataset: DatasetInfo,
    ) -> None:
        """Tags are set anew, parameters once: MLflow refuses to change one, and a resumed run keeps its own."""
        from mlflow.entities import Param, RunTag

        known = client.get_run(run_id).data.params
        new = {key(name): param_text(value) for name, value in flatten(params).items()}
        missing = [Param(name, text) for name, text in new.items() if name not in known]
        for start in range(0, len(missing), _PARAMS_PER_CALL):
            client.log_batch(run_id, params=missing[start : start + _PARAMS_PER_CALL])
        client.log_batch(run_id, tags=[RunTag(name, tag_text(value)) for name, value in marks.items()])
        client.log_inputs(run_id, datasets=[reading.dataset_input(dataset)])

    def _log(self, run_id: str, values: Mapping[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        with self._connection.client() as client:
            for start in range(0, len(metrics), _METRICS_PER_CALL):
                client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])

    def _best_so_far(self, run_id: str) -> float:
        if run_id not in self._best:
            with self._connection.client() as client:
                known = client.get_run(run_id).data.metrics
            self._best[run_id] = known.get(tags.BEST + self.metric, float("-inf"))
        return self._best[run_id]


def _artifacts_beside(storage: str) -> str:
    if "://" in storage:
        return f"{storage.rstrip('/')}/mlartifacts"
    return (Path(storage).expanduser().absolute() / "mlartifacts").as_uri()
