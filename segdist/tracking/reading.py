"""MLflow's runs as records: what was written by `tracker`, typed again, best first."""

import json
import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from segdist.core import renamed_keys
from segdist.core.errors import BackendError, did_you_mean
from segdist.core.json_values import JsonDict
from segdist.datasets.shards import Manifest
from segdist.metrics import is_minimised
from segdist.tracking import names
from segdist.tracking.encoding import clip, name_of, param_value
from segdist.tracking.runs import Run, Runs, texts_of
from segdist.tracking.values import DatasetInfo, SweepRecord, TrialRecord

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_OVERFLOW = 1e308  # SQL stores keep infinity as the largest double


def latest_sweep(runs: Runs, name: str, *, where: str, other_than: str = "") -> SweepRecord:
    """The sweep of a name that was started or resumed last; a single trial only where nothing was searched."""
    known = _sweep_runs(runs, name)
    wanted = [run for run in known if not other_than or run.tags[names.FINGERPRINT] != other_than]
    if known and not wanted:
        raise BackendError(f"There is no sweep `{name}` in MLflow at {where} but this very one. Name an earlier one.")
    if not wanted:
        raise BackendError(f"There is no sweep `{name}` in MLflow at {where}. {_known_sweeps(runs, name)}")
    searches = [run for run in wanted if run.tags.get(names.KIND) == "sweep"]
    return sweep(runs, max(searches or wanted, key=lambda run: int(run.tags.get(names.STARTED, 0))))


def find_sweep(runs: Runs, name: str, fingerprint: str) -> SweepRecord | None:
    """The sweep of a name with a fingerprint; None where it was never started."""
    found = _sweep_runs(runs, name, fingerprint)
    return sweep(runs, found[0]) if found else None


def sweep(runs: Runs, run: Run) -> SweepRecord:
    """The record of a parent run."""
    marks, texts = run.tags, texts_of(runs, run.run_id, "sweep")
    spec = renamed_keys.current(json.loads(texts.get("spec.json", "{}")))
    return SweepRecord(
        run_id=run.run_id,
        name=run.name,
        fingerprint=marks.get(names.FINGERPRINT, ""),
        status=run.status,
        metric=marks.get(names.METRIC, "val/iou"),
        question=marks.get(names.QUESTION, spec.get("question", "")),
        spec=spec,
        file_name=marks.get("mlflow.source.name", ""),
        file_text=texts.get("file.yaml", ""),
        environment=json.loads(texts.get("environment.json", "{}")),
        dataset=_dataset(run),
        params=_params(run),
        metrics=_finite(run.metrics.items()),
        tags={name_of(key): value for key, value in marks.items()},
        started=run.start_time,
        seconds=_seconds(run),
    )


def running_sweeps(runs: Runs) -> list[Run]:
    """The parent runs, of all experiments, that are marked RUNNING."""
    return [run for e in runs.active_experiments() for run in runs.tagged(e, names.FINGERPRINT, status="RUNNING")]


def children(runs: Runs, parent: Run) -> list[Run]:
    """All runs of the trials of a sweep, in order of their start."""
    return runs.tagged(parent.experiment_id, names.PARENT, parent.run_id)


def trials(runs: Runs, parent_run_id: str, metric: str = "") -> list[TrialRecord]:
    """The trials of a sweep, each once, best first."""
    parent = runs.run(parent_run_id)
    metric = metric or parent.tags.get(names.METRIC, "val/iou")
    first: dict[str, TrialRecord] = {}
    for run in children(runs, parent):
        record = _trial(run)
        first.setdefault(record.trial_key, record)
    sign = 1 if is_minimised(metric) else -1
    return sorted(first.values(), key=lambda t: sign * t.metrics.get(metric, sign * math.inf))


def trial(runs: Runs, run_id: str, *, where: str) -> tuple[TrialRecord, SweepRecord]:
    """The record of a trial's run, and of its parent."""
    run = runs.run(run_id)
    parent = run.tags.get(names.PARENT)
    if not parent:
        raise BackendError(
            f"MLflow run {run_id} at {where} is no trial of a sweep. Name a trial's run, or NAME@champion."
        )
    return _trial(run), sweep(runs, runs.run(parent))


def load_json(runs: Runs, run_id: str, artifact_path: str) -> JsonDict:
    """A JSON file of a run; empty where there is none."""
    return next((dict(json.loads(text)) for text in texts_of(runs, run_id, artifact_path).values()), {})


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


def _sweep_runs(runs: Runs, name: str, fingerprint: str = "") -> list[Run]:
    experiment = runs.experiment(name)
    return runs.tagged(experiment, names.FINGERPRINT, fingerprint) if experiment else []


def _params(run: Run) -> JsonDict:
    """Under the names of today; where a run was resumed under new ones, those it has from then."""
    params = {name_of(key): param_value(text) for key, text in run.params.items()}
    old = {key: value for key, value in params.items() if renamed_keys.current_key(key, [value]) != key}
    new = {key: value for key, value in params.items() if key not in old}
    return renamed_keys.current_values(old) | renamed_keys.current_values(new)


def _trial(run: Run) -> TrialRecord:
    marks, measured = run.tags, _finite(run.metrics.items())
    best = {name.removeprefix(names.BEST): v for name, v in measured.items() if name.startswith(names.BEST)}
    last = {name: v for name, v in measured.items() if not name.startswith(names.BEST)}
    best_epoch = int(best.pop("epoch", 0))
    return TrialRecord(
        run_id=run.run_id,
        trial_key=marks.get(names.TRIAL, run.run_id),
        number=int(marks.get(names.NUMBER, 0)),
        is_baseline=marks.get(names.BASELINE, "").lower() == "true",
        status=run.status,
        reason=marks.get(names.END, ""),
        params=_params(run),
        metrics=last | best,
        epochs=int(last.get("epoch", 0)),
        best_epoch=best_epoch,
        seconds=last.get(names.TOTAL_SECONDS) or _seconds(run),
        started=run.start_time,
        broken=json.loads(marks.get(names.BROKEN, "{}")),
        repeats=marks.get(names.REPEATS, ""),
        micro_batch=int(marks.get(names.MICRO_BATCH, "0")),
    )


def _dataset(run: Run) -> DatasetInfo | None:
    return next((DatasetInfo(one.name, one.digest, json.loads(one.profile)) for one in run.datasets), None)


def _finite(metrics: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {name_of(key): value for key, value in metrics if abs(value) < _OVERFLOW}  # NaN compares false too


def _seconds(run: Run) -> float:
    running = run.status == "RUNNING" or not run.end_time
    end = time.time() * 1000 if running else run.end_time
    return float(max(end - run.start_time, 0) / 1000)


def _known_sweeps(runs: Runs, name: str) -> str:
    known = [one for one in runs.experiment_names() if one != "Default"]
    return did_you_mean(name, known) if known else "None was run there yet: segdist run SWEEP.yaml"
