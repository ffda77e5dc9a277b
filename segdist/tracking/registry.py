"""The model registry: a sweep's winner under the alias `champion`, and models by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segdist.core.errors import BackendError, did_you_mean
from segdist.engine.parts import MODEL
from segdist.tracking import models, names
from segdist.tracking.runs import ClientRuns

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION = "champion"
_FILES = "segdist.artifact_path"
"""On versions whose files are a run's own, as in earlier versions of segdist."""


def register_champion(client: "MlflowClient", name: str, run_id: str, *, where: str) -> int:
    """A version of the registered model for the model of a run, found or created, with the alias `champion`."""
    version = register(client, name, run_id, where=where)
    client.set_registered_model_alias(name, CHAMPION, str(version))
    return version


def register(client: "MlflowClient", name: str, run_id: str, *, where: str) -> int:
    """A version of the registered model for the model of a run, found or created."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    run = client.get_run(run_id)
    model_id = run.data.tags.get(names.MODEL, "")
    source = f"models:/{model_id}" if model_id else f"{run.info.artifact_uri}/{MODEL}"
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    same = [v for v in versions if (v.source == source if model_id else v.tags.get(_FILES) == MODEL)]
    if same:
        return int(same[0].version)
    if not model_id:
        return int(client.create_model_version(name, source, run_id, tags={_FILES: MODEL}).version)
    with _tracking(where):
        return int(client.create_model_version(name, source, run_id, model_id=model_id).version)


def model_files(client: "MlflowClient", model: str, folder: Path, *, where: str) -> Path:
    """Copy the files of `NAME@ALIAS` or `NAME@VERSION`."""
    version = find_version(client, model, where=where)
    if version.source and version.source.startswith(models.source("m-")):
        return models.download(client, where, version.source.removeprefix(models.source("")), folder)
    files = ClientRuns(client).fetch(str(version.run_id), version.tags.get(_FILES, ""), folder)
    if files is None:
        raise BackendError(f"The files of model {model} are gone from MLflow run {version.run_id} at {where}.")
    return files


@contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """MLflow looks for the model of a new version where its global address points, whatever the client's own is."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def champion_run(client: "MlflowClient", name: str) -> str:
    """The run of the version with the alias `champion`; "" where there is none."""
    for model in client.search_registered_models(f"name = '{name}'"):
        if CHAMPION in model.aliases:
            return str(client.get_model_version(name, str(model.aliases[CHAMPION])).run_id)
    return ""


def find_version(client: "MlflowClient", model: str, *, where: str) -> "ModelVersion":
    """The version that `NAME@ALIAS` or `NAME@VERSION` names."""
    name, at, which = model.partition("@")
    if not (at and which):
        raise BackendError(
            f"A model is named NAME@ALIAS, NAME@VERSION, SWEEP#TRIAL or by its run id, but got `{model}`. "
            + ("There is no such folder, or MLflow must know it." if "/" in name else f"Try `{name}@{CHAMPION}`.")
        )
    return _version(client, _registered(client, name, where=where), which)


def _registered(client: "MlflowClient", name: str, *, where: str) -> "RegisteredModel":
    known = {model.name: model for model in client.search_registered_models(max_results=1000)}
    if name in known:
        return known[name]
    hint = (
        did_you_mean(name, known) if known else "None is registered yet: segdist run SWEEP.yaml registers its winner."
    )
    raise BackendError(f"There is no model `{name}` in MLflow at {where}. {hint}")


def _version(client: "MlflowClient", model: "RegisteredModel", which: str) -> "ModelVersion":
    versions = {str(v.version): v for v in client.search_model_versions(f"name = '{model.name}'")}
    number = str(model.aliases.get(which, which))
    if number not in versions:
        known = did_you_mean(which, [*model.aliases, *versions])
        raise BackendError(f"Model `{model.name}` has no alias or version `{which}`. {known}")
    return versions[number]
