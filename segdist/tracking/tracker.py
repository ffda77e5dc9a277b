"""Sweeps and trials as MLflow runs: written by one driver, found again after any crash, read for the report."""

import time
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from PIL import Image

from segdist.core import drivers, provenance
from segdist.core.errors import BackendError, StorageError
from segdist.core.json_values import JsonDict
from segdist.core.redaction import redact, redact_all
from segdist.core.registry import distributions
from segdist.core.spec import SweepSpec
from segdist.core.text import decode_text
from segdist.datasets.shards import Manifest
from segdist.metrics import is_better
from segdist.reading.examples import decode_image
from segdist.tracking import models, names, notes, reading, registry, views
from segdist.tracking.connection import Connection
from segdist.tracking.encoding import finite, flatten, key, param_text, tag_text
from segdist.tracking.values import Measured, SweepRecord, TrialRecord, TrialStatus

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run, RunTag

LOCAL_PAGE = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens when it is told nothing else."""
_PICTURE_SIDE = 448
"""Pixels of the longest side; MLflow keeps PNG, of which a photograph has up to two bytes a pixel, and shows 256."""
_PARAMS_PER_CALL = 100  # MLflow's limit
_METRICS_PER_CALL = 1000


class Tracker:
    """Writes and reads the runs of sweeps. May be pickled: the connection is opened where it is used.

    Args:
        uri: an MLflow tracking URI: `sqlite:///FILE`, `http://HOST:PORT`, ...
        artifact_root: a URI for the files of new experiments; "" leaves the place to the MLflow server.
        metric: the search metric; the epoch in which it is best is a trial's best.
    """

    def __init__(self, uri: str, artifact_root: str = "", *, metric: str = "val/iou") -> None:
        self.metric = metric
        self._connection = Connection(uri, artifact_root)
        self._parents: dict[str, Run] = {}

    @classmethod
    def for_sweep(cls, spec: SweepSpec) -> Self:
        """The tracker that a sweep file asks for."""
        return cls.at(spec.storage, spec.tracking.uri, metric=spec.search.metric)

    @classmethod
    def at(cls, storage: str, uri: str = "embedded", *, metric: str = "val/iou") -> Self:
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

    @property
    def risk(self) -> str:
        """What is to be known of the place of MLflow's database; "" where nothing is."""
        return self._connection.risk

    @property
    def is_served(self) -> bool:
        """Whether a server answers, and shows MLflow's pages itself."""
        return self.uri.startswith("http")

    @property
    def page(self) -> str:
        """Where MLflow's pages are: the server itself, or where `mlflow ui` shows a database."""
        return self.uri if self.is_served else LOCAL_PAGE

    @property
    def page_command(self) -> str:
        """What has to run for these pages; "" where a server does."""
        return "" if self.is_served else f"mlflow ui --backend-store-uri {self.uri} --host 127.0.0.1"

    def check(self) -> None:
        """Connect now, so that a wrong address is an error before anything is computed.

        Raises:
            BackendError: nobody answers at the address, or it is not MLflow.
            StorageError: the database cannot be written.
        """
        with self._connection.client():
            pass

    def impatient(self) -> AbstractContextManager[None]:
        """While the process ends, a server is asked once for each thing, with seconds of patience."""
        return self._connection.impatient()

    # Writing sweeps

    def start_sweep(
        self,
        name: str,
        fingerprint: str,
        *,
        spec_text: str,
        spec_file: str,
        tags: Mapping[str, object],
        params: Mapping[str, object],
        dataset: Manifest,
    ) -> str:
        """The parent run of a sweep: found by its fingerprint, or created.

        Args:
            name: of the sweep, and of the MLflow experiment.
            fingerprint: names this very search.
            spec_text: the sweep as checked, defaults filled in, as JSON.
            spec_file: where the sweep file lies; it is kept as written, with its repository's commit.
            tags: further tags; `segdist.kind` and `segdist.question` are shown in reports.
            params: what to compare sweeps by.
            dataset: what its trials learn from.

        Returns:
            The run id.
        """
        file = Path(spec_file).absolute()
        environment = provenance.environment(file.parent, plugins=distributions())
        marks = {**names.of_sweep(self.metric, file, environment, time.time_ns() // 1_000_000), **tags}
        question, command = str(tags.get(names.QUESTION, "")), provenance.command_line()
        with self._connection.client() as client:
            same = {names.FINGERPRINT: fingerprint}
            experiment = self._experiment(client, name, question)
            run, is_new = self._find_or_create(client, experiment, same, run_name=name)
            run_id = str(run.info.run_id)
            report = views.report_of(experiment, run_id)
            marks[names.NOTE] = notes.of_sweep(question, self.metric, command, dataset.content_hash, report)
            self._describe(client, run_id, marks, params, is_new=is_new)
            self._log_inputs(client, run_id, [reading.dataset_input(name, dataset)])
            client.log_text(run_id, redact(spec_text), "sweep/spec.json")
            client.log_dict(run_id, environment.as_dict(), "sweep/environment.json")
            if file.is_file():
                client.log_text(run_id, redact(decode_text(file.read_bytes(), str(file))), "sweep/file.yaml")
        return run_id

    def save_view(
        self, parent_run_id: str, *, searched: Mapping[str, bool], pictures: Sequence[Sequence[str]] = ()
    ) -> None:
        """Keep a view of a sweep for MLflow's own pages, which `links` opens.

        Args:
            parent_run_id: of the sweep.
            searched: its searched keys, and whether every trial has a value of it.
            pictures: of each table of images, the keys of the pictures that its trials log.
        """
        state = views.of_sweep(parent_run_id, self.metric, searched, pictures)
        tag = views.TAG + views.key_of(parent_run_id)
        with self._connection.writing() as client:
            client.set_experiment_tag(client.get_run(parent_run_id).info.experiment_id, tag, views.encoded(state))

    def links(self, parent_run_id: str, winner: str = "") -> dict[str, str]:
        """Where a sweep is shown on MLflow's pages: its `charts`, `trials`, its own page, its `winner`.

        Args:
            parent_run_id: of the sweep.
            winner: the run of its best trial; "" for none.
        """
        experiment = self._connection.read(lambda runs: runs.run(parent_run_id).experiment_id)
        return views.links(self.page, experiment, parent_run_id, winner)

    def close_abandoned(self) -> list[str]:
        """Mark sweeps KILLED, with their trials, whose driver was killed on this host; those of other hosts stay.

        Returns:
            Ids of the sweeps' runs.
        """
        running = self._connection.read(reading.running_sweeps)
        gone = [run.run_id for run in running if drivers.is_gone(run.tags.get(names.DRIVER, ""))]
        for run_id in gone:
            self.close_orphans(run_id)
            self.end(run_id, "KILLED", reason="its driver was killed; the same command goes on with it")
        return gone

    def close_orphans(self, parent_run_id: str, *, keep: Collection[str] = ()) -> list[str]:
        """Mark runs KILLED that a killed driver left RUNNING, and delete second runs of one trial.

        Args:
            parent_run_id: of the sweep.
            keep: keys of the trials that are truly running.

        Returns:
            Ids of the runs that were closed or deleted.
        """
        closed, seen = [], set()
        found = self._connection.read(lambda runs: reading.children(runs, runs.run(parent_run_id)))
        with self._connection.client() as client:
            # Of two runs of a trial, begun in the same moment because an answer was lost, one was told everything.
            for run in sorted(found, key=lambda run: (run.start_time, -len(run.metrics))):
                trial_key = run.tags.get(names.TRIAL, "")
                if trial_key in seen:
                    models.delete(client, run.run_id)
                    client.delete_run(run.run_id)
                elif run.status == "RUNNING" and trial_key not in keep:
                    client.set_terminated(run.run_id, "KILLED")
                else:
                    seen.add(trial_key)
                    continue
                seen.add(trial_key)
                closed.append(run.run_id)
        return closed

    # Writing trials

    def start_trial(
        self,
        parent_run_id: str,
        trial_key: str,
        *,
        number: int,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        title: str = "",
    ) -> str:
        """The run of a trial: found by its key when it is resumed, or created with the sweep's data set.

        Args:
            parent_run_id: of the sweep.
            trial_key: names the trial within the sweep.
            number: its place in the order of the search, from 0.
            params: all values that decide what it learns, nested or with dotted keys; what was logged before stays.
            tags: further tags; `segdist.baseline: True` marks the untuned run.
            title: what tells it from the others, in a few words.

        Returns:
            The run id.
        """
        same = {names.PARENT: parent_run_id, names.TRIAL: trial_key}
        with self._connection.client() as client:
            parent = self._parents.get(parent_run_id) or client.get_run(parent_run_id)
            self._parents[parent_run_id] = parent
            name = notes.name_of_trial(parent.info.run_name, number, title)
            shared = {n: value for n, value in parent.data.tags.items() if n.startswith(names.SHARED)}
            report = views.report_of(str(parent.info.experiment_id), parent_run_id)
            marks = {**shared, names.NOTE: notes.of_trial(title or name, self.metric, report), names.END: "", **tags}
            run, is_new = self._find_or_create(client, parent.info.experiment_id, same, run_name=name)
            run_id = str(run.info.run_id)
            if not run.inputs or not run.inputs.dataset_inputs:  # its driver may have been killed before it had them
                self._log_inputs(client, run_id, parent.inputs.dataset_inputs if parent.inputs else [])
            self._describe(client, run_id, {**marks, names.NUMBER: number}, params, is_new=is_new)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, object], *, step: int, of_model: bool = False) -> None:
        """Record measurements; values that are not finite are left out.

        Args:
            run_id: of a sweep or trial.
            metrics: by name.
            step: where they stand on the axis of charts: the epoch, counted from 1.
            of_model: whether they are of the run's model, too; those of `val/` and `test/` on that split.
        """
        points = _points(finite(metrics), step=step, at=0.0)
        if not of_model:
            self._log(run_id, points)
            return
        with self._connection.writing() as client:
            models.link(client, run_id, points)

    def log_epochs(
        self, run_id: str, epochs: Iterable[Measured], *, new: Container[int] | None = None, again: bool = False
    ) -> None:
        """Record the epochs of a trial, in as few requests as MLflow allows.

        Of the epoch in which the search metric is best, all `val/` values are kept as `best/val/...` too, because
        MLflow itself shows the last value only; the seconds are added up as `total_seconds`.

        Args:
            run_id: of a trial.
            epochs: all that count, from the first on.
            new: those that MLflow does not have; None for all of them.
            again: whether it had others in their place, whose best need not be the best any more.
        """
        best: dict[str, float] = {}
        points: list[Metric] = []
        seconds = 0.0
        for one in epochs:
            seconds += one.seconds
            values = {**finite(one.metrics), "epoch": float(one.epoch), "seconds": one.seconds}
            score, before = values.get(self.metric), best.get(names.BEST + self.metric)
            is_best = score is not None and (before is None or is_better(score, before, metric=self.metric))
            if is_best:
                kept = {n: v for n, v in values.items() if n.startswith("val/") or n in (self.metric, "epoch")}
                best = {names.BEST + n: v for n, v in kept.items()}
            if new is None or one.epoch in new:
                shown = {**values, names.TOTAL_SECONDS: seconds, **(best if is_best or again else {})}
                points += _points(shown, step=one.epoch, at=one.at)
        self._log(run_id, points)

    def end(
        self,
        run_id: str,
        status: TrialStatus = "FINISHED",
        *,
        reason: str = "",
        tags: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """End a run.

        Args:
            run_id: of a sweep or trial.
            status: how it ended; a trial that early stopping ended is FINISHED.
            reason: why, in a few words, e.g. the first line of an error.
            tags: what else is to be known of its end.
        """
        marks = {**tags, **({names.END: reason} if reason else {})}
        with self._connection.writing() as client:
            if marks:
                client.log_batch(run_id, tags=_tags(marks))
            client.set_terminated(run_id, status)

    def tag(self, run_id: str, name: str, value: object) -> None:
        """Set one tag of a run."""
        with self._connection.writing() as client:
            client.set_tag(run_id, key(name), tag_text(value))

    def discard(self, run_id: str) -> None:
        """Delete the run of a trial that a killed driver started and no restored search knows; MLflow can undo it."""
        with self._connection.client() as client:
            models.delete(client, run_id)
            client.delete_run(run_id)

    # Files

    def log_files(self, run_id: str, folder: Path, artifact_path: str) -> None:
        """Keep every file of a folder under a path of the run."""
        with self._connection.client() as client:
            client.log_artifacts(run_id, str(folder), artifact_path)

    def keep_model(
        self,
        run_id: str,
        files: Path,
        *,
        epoch: int,
        family: str,
        example: bytes = b"",
        measured: Measured | None = None,
    ) -> None:
        """Keep a trial's model among MLflow's models, where `mlflow.pyfunc` finds it; once, however often it is told.

        Args:
            run_id: of the trial.
            files: the model folder, called `model`.
            epoch: that the model is taken from.
            family: of the model.
            example: a picture as bytes, to try it with; empty for none.
            measured: what `log_epochs` was told of that epoch; `val/` of it is linked to the model.
        """
        of_val = {n: v for n, v in measured.metrics.items() if n.startswith("val/")} if measured else {}
        points = _points(finite(of_val), step=epoch, at=measured.at if measured else 0.0)
        with self._connection.client() as client:
            models.keep(client, run_id, files, epoch=epoch, family=family, example=example, metrics=points)

    def change_model(self, run_id: str, folder: Path) -> None:
        """Replace files of a trial's model by those of a folder."""
        with self._connection.client() as client:
            models.change(client, run_id, folder)

    def read_model_json(self, run_id: str, name: str) -> JsonDict:
        """A JSON file of a run's model; empty where the run keeps none."""
        with self._connection.client() as client:
            return models.read_json(client, self._connection.uri, run_id, name)

    def has_model(self, run_id: str) -> bool:
        """Whether a run keeps a model."""
        with self._connection.client() as client:
            return models.exists(client, run_id)

    def find_model(self, run_id: str, folder: Path) -> Path | None:
        """Fetch the files of a run's model into a local folder; None where it keeps none."""
        with self._connection.client() as client:
            return models.fetch(client, self._connection.uri, run_id, folder)

    def model(self, run_id: str, folder: Path) -> Path:
        """The same.

        Raises:
            BackendError: it keeps none.
        """
        found = self.find_model(run_id, folder)
        if found is None:
            raise BackendError(f"MLflow run {run_id} at {self.uri} keeps no model.")
        return found

    def log_pictures(self, run_id: str, pictures: Mapping[str, bytes], *, step: int) -> None:
        """Show pictures in MLflow's image grid, where those of one name stand side by side over runs and steps.

        Args:
            run_id: of a trial.
            pictures: files as bytes, by name: letters, digits, `_`, `-`, `.`, `/` and blanks.
            step: the epoch, counted from 1.
        """
        with self._connection.client() as client:
            for name, content in pictures.items():
                image = Image.fromarray(decode_image(content, name=name))
                image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
                client.log_image(run_id, image, key=name, step=step)

    def log_json(self, run_id: str, content: Mapping[str, object], artifact_path: str) -> None:
        """Keep JSON values as a file of the run."""
        with self._connection.client() as client:
            client.log_dict(run_id, redact_all(content), artifact_path)

    def log_text(self, run_id: str, text: str, artifact_path: str) -> None:
        """Keep a text as a file of the run."""
        with self._connection.client() as client:
            client.log_text(run_id, redact(text), artifact_path)

    def own_places(self, run_ids: Iterable[str]) -> list[str]:
        """Where the files of runs and of their models lie, in the embedded mode; none where a server keeps them."""
        root = self._connection.artifact_root
        if not root:
            return []
        with self._connection.client() as client:
            kept = {run_id: client.get_run(run_id).data.tags.get(names.MODEL, "") for run_id in run_ids}
        return [f"{root}/{run_id}" for run_id in kept] + [f"{root}/models/{model}" for model in kept.values() if model]

    def download(self, run_id: str, artifact_path: str, folder: Path) -> Path:
        """Fetch a file or folder of a run into a local folder.

        Raises:
            BackendError: the run has none there.
        """
        found = self.find_files(run_id, artifact_path, folder)
        if found is None:
            raise BackendError(f"MLflow run {run_id} at {self.uri} has no files at `{artifact_path}`.")
        return found

    def find_files(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        """The same; None where the run has none."""
        return self._connection.read(lambda runs: runs.fetch(run_id, artifact_path, folder))

    def read_json(self, run_id: str, artifact_path: str) -> JsonDict:
        """A JSON file of a run; empty where the run has none."""
        return self._connection.read(lambda runs: reading.load_json(runs, run_id, artifact_path))

    # Reading

    def latest_sweep(self, name: str, *, other_than: str = "") -> SweepRecord:
        """The sweep of a name that was started last; not that of the fingerprint `other_than`.

        Raises:
            BackendError: there is no sweep of this name.
        """
        return self._connection.read(
            lambda runs: reading.latest_sweep(runs, name, where=self.uri, other_than=other_than)
        )

    def find_sweep(self, name: str, fingerprint: str) -> SweepRecord | None:
        """The sweep of a fingerprint, if it was started before."""
        return self._connection.read(lambda runs: reading.find_sweep(runs, name, fingerprint))

    def sweep(self, run_id: str) -> SweepRecord:
        """The sweep of a parent run."""
        return self._connection.read(lambda runs: reading.sweep(runs, runs.run(run_id)))

    def trials(self, parent_run_id: str, metric: str = "") -> list[TrialRecord]:
        """The trials of a sweep, each once, best first; those without a score come last, in order of their start.

        Args:
            parent_run_id: of the sweep.
            metric: what to sort by; "" takes the sweep's search metric.
        """
        return self._connection.read(lambda runs: reading.trials(runs, parent_run_id, metric))

    def trial(self, run_id: str) -> tuple[TrialRecord, SweepRecord]:
        """One trial, and the sweep it belongs to.

        Raises:
            BackendError: there is no such run, or it is no trial of a sweep.
        """
        return self._connection.read(lambda runs: reading.trial(runs, run_id, where=self.uri))

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) in order; of a step that was repeated after a crash, the last value."""
        points = self._connection.read(lambda runs: runs.history(run_id, key(metric)))
        return sorted({p.step: p.value for p in sorted(points, key=lambda p: p.timestamp)}.items())

    def run_of(self, model: str) -> str:
        """The run that `NAME@ALIAS`, `NAME@VERSION`, `SWEEP#TRIAL` or a run id names.

        Raises:
            BackendError: it names nothing.
        """
        sweep, is_trial, number = model.partition("#")
        if is_trial:
            known = {str(t.number): t.run_id for t in self.trials(self.latest_sweep(sweep).run_id)}
            if number not in known:
                raise BackendError(f"The sweep `{sweep}` has no trial `{number}`. It has {', '.join(sorted(known))}.")
            return known[number]
        return model if names.is_run_id(model) else self.run_of_model(model)

    def parent_of(self, run_id: str) -> str:
        """The run of the sweep that a trial belongs to."""
        return self._connection.read(lambda runs: runs.run(run_id).tags.get(names.PARENT, run_id))

    # The registry

    def kept_models(self, model: str) -> str:
        """Where a run, named as `run_of` has it, keeps the models of `train.keep_every`; "" for nowhere.

        Raises:
            BackendError: there is no such model.
        """
        run_id = self.run_of(model)
        return self._connection.read(lambda runs: runs.run(run_id).tags.get(names.KEPT, ""))

    def register_champion(self, name: str, run_id: str) -> int:
        """Make the model of a run a version of a registered model, with alias `champion`; the same stays one version.

        Returns:
            The version number.
        """
        with self._connection.writing() as client:
            return registry.register_champion(client, name, run_id, where=self._connection.uri)

    def register(self, name: str, run_id: str) -> int:
        """The same without the alias."""
        with self._connection.writing() as client:
            return registry.register(client, name, run_id, where=self._connection.uri)

    def champion_run(self, name: str) -> str:
        """The run that `NAME@champion` came from; "" where there is no such model or it has no champion."""
        with self._connection.client() as client:
            return registry.champion_run(client, name)

    def run_of_model(self, model: str) -> str:
        """The run that `NAME@ALIAS` or `NAME@VERSION` came from.

        Raises:
            BackendError: there is no such model, alias or version.
        """
        with self._connection.client() as client:
            return str(registry.find_version(client, model, where=self.uri).run_id)

    def model_files(self, model: str, folder: Path) -> Path:
        """Fetch the files of `NAME@ALIAS` or `NAME@VERSION` into a local folder.

        Raises:
            BackendError: there is no such model, alias or version.
        """
        with self._connection.client() as client:
            return registry.model_files(client, model, folder, where=self.uri)

    # Helpers

    def __getstate__(self) -> dict[str, object]:
        """What another process needs; sweeps are looked up again there."""
        return {**self.__dict__, "_parents": {}}

    def _experiment(self, client: "MlflowClient", name: str, question: str) -> str:
        note = tag_text(notes.of_experiment(name, question))
        tags = {names.EXPERIMENT_KIND: names.TRAINING, names.NOTE: note}
        with self._connection.exclusive():
            found = client.get_experiment_by_name(name)
            if found is None:
                root = self._connection.artifact_root or None
                return str(client.create_experiment(name, artifact_location=root, tags=tags))
            if found.lifecycle_stage == "active":
                for tag, value in tags.items():
                    if found.tags.get(tag) != value:
                        client.set_experiment_tag(found.experiment_id, tag, value)
        if found.lifecycle_stage != "active":
            raise BackendError(
                f"The MLflow experiment `{name}` was deleted. Restore it (mlflow experiments restore "
                f"--experiment-id {found.experiment_id}), remove it for good (mlflow gc), or set another `name`."
            )
        return str(found.experiment_id)

    def _find_or_create(
        self, client: "MlflowClient", experiment_id: str, same: Mapping[str, str], *, run_name: str
    ) -> tuple["Run", bool]:
        """The first run with these tags, marked as running, or a new one; and whether it is new."""
        condition = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in same.items())
        oldest_first = ["attributes.start_time ASC"]
        with self._connection.exclusive():
            found = client.search_runs([experiment_id], condition, max_results=1, order_by=oldest_first)
            if not found:
                made = client.create_run(experiment_id, tags=dict(same), run_name=run_name)
                if not self.is_served:
                    return made, True
                # Where an answer did not come, MLflow's client has asked a second time: everybody takes the first run.
                first, *others = client.search_runs([experiment_id], condition, order_by=oldest_first) or [made]
                for other in others:
                    client.delete_run(other.info.run_id)
                return first, True
        client.update_run(found[0].info.run_id, status="RUNNING", name=run_name)
        return found[0], False

    def _describe(
        self,
        client: "MlflowClient",
        run_id: str,
        marks: Mapping[str, object],
        params: Mapping[str, object],
        *,
        is_new: bool,
    ) -> None:
        """Tags are set anew, parameters once: MLflow refuses to change one, and a resumed run keeps its own."""
        from mlflow.entities import Param

        new = {key(name): param_text(value) for name, value in flatten(redact_all(params)).items()}
        with self._connection.exclusive():  # another driver may be describing the same run
            known = {} if is_new else client.get_run(run_id).data.params
            missing = [Param(name, text) for name, text in new.items() if name not in known]
            client.log_batch(run_id, params=missing[:_PARAMS_PER_CALL], tags=_tags(marks))
            for start in range(_PARAMS_PER_CALL, len(missing), _PARAMS_PER_CALL):
                client.log_batch(run_id, params=missing[start : start + _PARAMS_PER_CALL])

    def _log_inputs(self, client: "MlflowClient", run_id: str, inputs: "list[DatasetInput]") -> None:
        """MLflow looks for a data set and then adds it; of two drivers that add one at once, it refuses the second.

        With SQLite nobody comes between. With a server the second call finds what the other driver has added.
        """
        from mlflow.exceptions import MlflowException

        with self._connection.exclusive():
            try:
                client.log_inputs(run_id, datasets=inputs)
            except MlflowException:
                client.log_inputs(run_id, datasets=inputs)

    def _log(self, run_id: str, points: "Sequence[Metric]") -> None:
        with self._connection.writing() as client:
            for start in range(0, len(points), _METRICS_PER_CALL):
                client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_CALL])


def _points(values: Mapping[str, float], *, step: int, at: float) -> "list[Metric]":
    """As MLflow takes them; a time of 0 is now."""
    from mlflow.entities import Metric

    moment = round(1000 * (at or time.time()))
    return [Metric(key(name), value, moment, step) for name, value in values.items()]


def _tags(marks: Mapping[str, object]) -> "list[RunTag]":
    from mlflow.entities import RunTag

    return [RunTag(key(name), tag_text(value)) for name, value in marks.items()]


def _artifacts_beside(storage: str) -> str:
    if "://" in storage:
        return f"{storage.rstrip('/')}/mlartifacts"
    return (Path(storage).expanduser().absolute() / "mlartifacts").as_uri()
