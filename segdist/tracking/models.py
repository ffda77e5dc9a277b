"""A trial's model as MLflow keeps models: listed and compared on a page of its own, loaded by `mlflow.pyfunc`.

The files are there once, among the artifacts of the model: its run names it, and so does a version of the registry.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdist.core.errors import BackendError
from segdist.engine.parts import MODEL
from segdist.tracking import names, pyfunc
from segdist.tracking.encoding import key, tag_text
from segdist.tracking.reading import load_json
from segdist.tracking.runs import ClientRuns

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel, Metric, Run

TYPE = "image-segmentation"
_NOT_IN_NAMES = str.maketrans(dict.fromkeys("/:.%\"'", "_"))


def keep(
    client: "MlflowClient",
    run_id: str,
    files: Path,
    *,
    epoch: int,
    family: str,
    example: bytes,
    metrics: "Sequence[Metric]",
) -> None:
    """Make the files of a trial's model, of the epoch it is taken from, the model of the trial's run; once.

    Whatever was done of it before, also by a driver that was killed half-way, is found and gone on with. A model of
    another epoch, that the trial had before it went on, gives way, unless it is registered.

    Args:
        client: of MLflow.
        run_id: of the trial.
        files: the model folder, called `model`.
        epoch: that the model is taken from.
        family: of the model.
        example: a picture as bytes, to try it with; empty for none.
        metrics: of that epoch, as the run has them.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    known = _of_run(client, run)
    same = [model for model in known if model.tags.get(names.EPOCH) == str(epoch)]
    if not same:
        _create(client, run, epoch, family)
        # Where an answer did not come, MLflow's client has asked a second time: the first model counts.
        known = _of_run(client, run)
        same = [model for model in known if model.tags.get(names.EPOCH) == str(epoch)]
    model = same[0]
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory(prefix="segdist-") as scratch:
            folder = Path(scratch, "pyfunc")
            pyfunc.save_beside(files, folder, model_id=model.model_id, family=family, example=example)
            client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
    for other in known:
        if other.model_id != model.model_id and not _is_registered(client, run_id, other.model_id):
            client.delete_logged_model(other.model_id)
    shown = [output.model_id for output in run.outputs.model_outputs] if run.outputs else []
    if model.model_id not in shown:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, epoch)])
    client.set_tag(run_id, names.MODEL, model.model_id)
    link(client, run_id, metrics)


def link(client: "MlflowClient", run_id: str, metrics: "Sequence[Metric]") -> None:
    """Record measurements of a run as those of its model, too: on which data set, and on which split of it.

    Args:
        client: of MLflow.
        run_id: of the trial.
        metrics: named `val/...`, `test/...`, or as what concerns no split. Those that the run has already stay one.
    """
    from mlflow.entities import Metric

    run = client.get_run(run_id)
    model_id = run.data.tags.get(names.MODEL) or None
    inputs = run.inputs.dataset_inputs if run.inputs else []
    data = inputs[0].dataset if inputs else None
    linked = []
    for one in metrics:
        split = one.key.partition("/")[0]
        of = (f"{data.name}/{split}", data.digest) if data and split in _CONTEXTS else (None, None)
        linked.append(Metric(one.key, one.value, one.timestamp, one.step, model_id, *of))
    if model_id and data:
        _show_splits(client, run_id, inputs, {one.key.partition("/")[0] for one in metrics} & _CONTEXTS.keys())
    for start in range(0, len(linked), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=linked[start : start + _METRICS_PER_CALL])


_CONTEXTS = {"val": "validation", "test": "test"}
"""What MLflow calls the use of a data set, by the split that metrics are named after."""
_METRICS_PER_CALL = 1000


def _show_splits(client: "MlflowClient", run_id: str, inputs: "Sequence[DatasetInput]", splits: set[str]) -> None:
    """Name the splits that a model was measured on among the data sets of its run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data, there = inputs[0].dataset, {one.dataset.name for one in inputs}
    new = [
        DatasetInput(
            Dataset(f"{data.name}/{split}", data.digest, data.source_type, data.source, profile=data.profile),
            [InputTag("mlflow.data.context", _CONTEXTS[split])],
        )
        for split in sorted(splits)
        if f"{data.name}/{split}" not in there
    ]
    if new:
        client.log_inputs(run_id, datasets=new)


def fetch(client: "MlflowClient", uri: str, run_id: str, folder: Path) -> Path | None:
    """Copy the files of a run's model; None where it has none. Runs of earlier versions have them among their own."""
    model_id = client.get_run(run_id).data.tags.get(names.MODEL, "")
    return download(client, uri, model_id, folder) if model_id else ClientRuns(client).fetch(run_id, MODEL, folder)


def download(client: "MlflowClient", uri: str, model_id: str, folder: Path) -> Path:
    """Copy the files of a model.

    Raises:
        BackendError: they are gone.
    """
    found = _copied(client, uri, model_id, pyfunc.FILES, folder)
    if not found.is_dir() or not any(found.iterdir()):
        raise BackendError(f"The files of the model {model_id} are gone from MLflow at {uri}.")
    return found


def _copied(client: "MlflowClient", uri: str, model_id: str, path: str, folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    place = f"{client.get_logged_model(model_id).artifact_location}/{path}"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(download_artifacts(artifact_uri=place, dst_path=str(folder), tracking_uri=uri))


def read_json(client: "MlflowClient", uri: str, run_id: str, name: str) -> dict[str, object]:
    """A JSON file of a run's model, without its weights; empty where there is none."""
    model_id = client.get_run(run_id).data.tags.get(names.MODEL, "")
    if not model_id:
        return load_json(ClientRuns(client), run_id, f"{MODEL}/{name}")
    with tempfile.TemporaryDirectory(prefix="segdist-") as scratch:
        return dict(json.loads(_copied(client, uri, model_id, f"{pyfunc.FILES}/{name}", Path(scratch)).read_text()))


def exists(client: "MlflowClient", run_id: str) -> bool:
    """Whether a run has a model."""
    if client.get_run(run_id).data.tags.get(names.MODEL):
        return True
    return MODEL in {item.path for item in client.list_artifacts(run_id)}


def change(client: "MlflowClient", run_id: str, folder: Path) -> None:
    """Replace files of a run's model by those of a folder."""
    if model_id := client.get_run(run_id).data.tags.get(names.MODEL, ""):
        with tempfile.TemporaryDirectory(prefix="segdist-") as scratch:
            shutil.copytree(folder, Path(scratch, pyfunc.FILES))
            client.log_model_artifacts(model_id, scratch)
    else:
        client.log_artifacts(run_id, str(folder), MODEL)


def delete(client: "MlflowClient", run_id: str) -> None:
    """Delete the models of a run that is deleted."""
    for model in _of_run(client, client.get_run(run_id)):
        client.delete_logged_model(model.model_id)


def _of_run(client: "MlflowClient", run: "Run") -> "list[LoggedModel]":
    """The models of a run, the oldest first."""
    condition = f"source_run_id = '{run.info.run_id}'"
    found = client.search_logged_models([run.info.experiment_id], condition)
    return sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))


def _create(client: "MlflowClient", run: "Run", epoch: int, family: str) -> None:
    marks = {name: run.data.tags[name] for name in (names.NUMBER, names.TRIAL) if name in run.data.tags}
    client.create_logged_model(
        run.info.experiment_id,
        name=run.info.run_name.partition(" ")[0].translate(_NOT_IN_NAMES),
        source_run_id=run.info.run_id,
        tags={**marks, names.EPOCH: str(epoch), key("model.family"): tag_text(family)},
        params=dict(run.data.params),
        model_type=TYPE,
    )


def _is_registered(client: "MlflowClient", run_id: str, model_id: str) -> bool:
    return any(v.source == source(model_id) for v in client.search_model_versions(f"run_id = '{run_id}'"))


def source(model_id: str) -> str:
    """The address under which MLflow loads a model, and from which a version of the registry is made."""
    return f"models:/{model_id}"
