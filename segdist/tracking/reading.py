"""MLflow's runs as records: what was written by `tracker`, typed again, best first."""

import json
import math
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from segdist.core import renamed_keys
from segdist.core.errors import BackendError, did_you_mean
from segdist.core.json_values import JsonDict
from segdist.datasets.shards import Manifest
from segdist.metrics import is_minimised
from segdist.tracking import names
from segdist.tracking.encoding import clip, name_of, param_value
from segdist.tracking.values import DatasetInfo, SweepRecord, TrialRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

_PAGE = 1000
_OVERFLOW = 1e308  # SQL stores keep infinity as the largest double


def latest_sweep(client: "MlflowClient", name: str, *, where: str, other_than: str = "") -> SweepRecord:
    """The sweep of a name that was started or resumed last; a single trial only where nothing was searched."""
    known = _sweep_runs(client, name)
    runs = [run for run in known if not other_than or run.data.tags[names.FINGERPRINT] != other_than]
    if known and not runs:
        raise BackendError(f"There is no sweep `{name}` in MLflow at {where} but this very one. Name an earlier one.")
    if not runs:
        raise BackendError(f"There is no sweep `{name}` in MLflow at {where}. {_known_sweeps(client, name)}")
    searches = [run for run in runs if run.data.tags.get(names.KIND) == "sweep"]
    return sweep(client, max(searches or runs, key=lambda run: int(run.data.tags.get(names.STARTED, 0))))


def find_sweep(client: "MlflowClient", name: str, fingerprint: str) -> SweepRecord | None:
    """The sweep of a name with a fingerprint; None where it was never started."""
    runs = [run for run in _sweep_runs(client, name) if run.data.tags.get(names.FINGERPRINT) == fingerprint]
    return sweep(client, runs[0]) if runs else None


def sweep(client: "MlflowClient", run: "Run") -> SweepRecord:
    """The record of a parent run."""
    marks = run.data.tags
    with tempfile.TemporaryDirectory() as folder:
        files = fetch(client, run.info.run_id, "sweep", Path(folder))
        texts = {f.name: f.read_text("utf-8") for f in files.iterdir()} if files else {}
    spec = renamed_keys.current(json.loads(texts.get("spec.json", "{}")))
    return SweepRecord(
        run_id=run.info.run_id,
        name=run.info.run_name,
        fingerprint=marks.get(names.FINGERPRINT, ""),
        status=run.info.status,
        metric=marks.get(names.METRIC, "val/iou"),
        question=marks.get(names.QUESTION, spec.get("question", "")),
        spec=spec,
        file_name=marks.get("mlflow.source.name", ""),
        file_text=texts.get("file.yaml", ""),
        environment=json.loads(texts.get("environment.json", "{}")),
        dataset=_dataset(run),
        params=_params(run),
        metrics=_finite(run.data.metrics.items()),
        tags={name_of(key): value for key, value in marks.items()},
        started=run.info.start_time,
        seconds=_seconds(run),
    )


def running_sweeps(client: "MlflowClient") -> list["Run"]:
    """The parent runs, of all experiments, that are marked RUNNING."""
    condition = f"attributes.status = 'RUNNING' and tags.`{names.FINGERPRINT}` LIKE '%'"
    return [run for e in client.search_experiments() for run in _search(client, e.experiment_id, condition)]


def children(client: "MlflowClient", parent_run_id: str) -> list["Run"]:
    """All runs of the trials of a sweep, in order of their start."""
    experiment_id = client.get_run(parent_run_id).info.experiment_id
    return _search(client, experiment_id, f"tags.`{names.PARENT}` = '{parent_run_id}'")


def trials(client: "MlflowClient", parent_run_id: str, metric: str = "") -> list[TrialRecord]:
    """The trials of a sweep, each once, best first."""
    metric = metric or client.get_run(parent_run_id).data.tags.get(names.METRIC, "val/iou")
    first: dict[str, TrialRecord] = {}
    for run in children(client, parent_run_id):
        record = _trial(run)
        first.setdefault(record.trial_key, record)
    sign = 1 if is_minimised(metric) else -1
    return sorted(first.values(), key=lambda t: sign * t.metrics.get(metric, sign * math.inf))


def trial(client: "MlflowClient", run_id: str, *, where: str) -> tuple[TrialRecord, SweepRecord]:
    """The record of a trial's run, and of its parent."""
    run = client.get_run(run_id)
    parent = run.data.tags.get(names.PARENT)
    if not parent:
        raise BackendError(
            f"MLflow run {run_id} at {where} is no trial of a sweep. Name a trial's run, or NAME@champion."
        )
    return _trial(run), sweep(client, client.get_run(parent))


def fetch(client: "MlflowClient", run_id: str, artifact_path: str, folder: Path) -> Path | None:
    """Copy a file or folder of a run; None where there is none."""
    parent = str(PurePosixPath(artifact_path).parent)
    found = client.list_artifacts(run_id, None if parent == "." else parent)
    if artifact_path not in {item.path for item in found}:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run_id, artifact_path, str(folder)))


def load_json(client: "MlflowClient", run_id: str, artifact_path: str) -> dict[str, object]:
    """A JSON file of a run; empty where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        file = fetch(client, run_id, artifact_path, Path(folder))
        return dict(json.loads(file.read_text("utf-8"))) if file else {}


def dataset_input(name: str, dataset: Manifest) -> "DatasetInput":
    """The data set as an MLflow input of context "training"; the digest is the content hash."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(
        name=clip(name, 500),
        digest=dataset.content_hash[:36],  # MLflow's limit
        source_type="segdist",
        source="{}",
        profile=dataset.model_dump_json(exclude={"shards"}),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def _search(client: "MlflowClient", experiment_id: str, condition: str) -> list["Run"]:
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], condition, 1, _PAGE, ["attributes.start_time ASC"], token)
        runs += page
        token = page.token
        if not token:
            return runs


def _sweep_runs(client: "MlflowClient", name: str) -> list["Run"]:
    experiment = client.get_experiment_by_name(name)
    return _search(client, experiment.experiment_id, f"tags.`{names.FINGERPRINT}` LIKE '%'") if experiment else []


def _params(run: "Run") -> JsonDict:
    """Under the names of today; where a run was resumed under new ones, those it has from then."""
    params = {name_of(key): param_value(text) for key, text in run.data.params.items()}
    old = {key: value for key, value in params.items() if renamed_keys.current_key(key, [value]) != key}
    new = {key: value for key, value in params.items() if key not in old}
    return renamed_keys.current_values(old) | renamed_keys.current_values(new)


def _trial(run: "Run") -> TrialRecord:
    marks, measured = run.data.tags, _finite(run.data.metrics.items())
    best = {name.removeprefix(names.BEST): v for name, v in measured.items() if name.startswith(names.BEST)}
    last = {name: v for name, v in measured.items() if not name.startswith(names.BEST)}
    best_epoch = int(best.pop("epoch", 0))
    return TrialRecord(
        run_id=run.info.run_id,
        trial_key=marks.get(names.TRIAL, run.info.run_id),
        number=int(marks.get(names.NUMBER, 0)),
        is_baseline=marks.get(names.BASELINE, "").lower() == "true",
        status=run.info.status,
        reason=marks.get(names.END, ""),
        params=_params(run),
        metrics=last | best,
        epochs=int(last.get("epoch", 0)),
        best_epoch=best_epoch,
        seconds=last.get(names.TOTAL_SECONDS) or _seconds(run),
        started=run.info.start_time,
        broken=json.loads(marks.get(names.BROKEN, "{}")),
        repeats=marks.get(names.REPEATS, ""),
        micro_batch=int(marks.get(names.MICRO_BATCH, "0")),
    )


def _dataset(run: "Run") -> DatasetInfo | None:
    for item in run.inputs.dataset_inputs if run.inputs else ():
        return DatasetInfo(item.dataset.name, item.dataset.digest, json.loads(item.dataset.profile or "{}"))
    return None


def _finite(metrics: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {name_of(key): value for key, value in metrics if abs(value) < _OVERFLOW}  # NaN compares false too


def _seconds(run: "Run") -> float:
    running = run.info.status == "RUNNING" or not run.info.end_time
    end = time.time() * 1000 if running else run.info.end_time
    return float(max(end - run.info.start_time, 0) / 1000)


def _known_sweeps(client: "MlflowClient", name: str) -> str:
    known = [e.name for e in client.search_experiments() if e.name != "Default"]
    return did_you_mean(name, known) if known else "None was run there yet: segdist run SWEEP.yaml"
