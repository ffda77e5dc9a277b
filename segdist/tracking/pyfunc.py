"""A model as an MLflow pyfunc: a folder with the weights, what runs them and the libraries that takes.

One that is handed on brings segdist's code, and loads without Ray, Optuna, peft or anything else of training. The model
of a trial, of which there are many, asks for an installed segdist instead.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from segdist.core import registry
from segdist.core.plugins import declaration

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

FILES = "data/model"
"""Where a pyfunc that asks for segdist keeps the model folder."""
_OF_TRAINING = {
    "albumentations", "hydra-core", "imagehash", "jinja2", "nvidia-ml-py", "omegaconf", "optuna", "psutil", "ray",
    "rich", "typer",
}  # fmt: skip
"""What prediction does not import, of the core's dependencies."""
_CODE = Path(__file__).with_name("pyfunc_model.py")


def save(model: Path, folder: Path, *, family: str, name: str, metadata: dict[str, object]) -> None:
    """Write the pyfunc.

    Args:
        model: an exported model folder, which holds all weights.
        folder: must not be there yet.
        family: of the model; what brings it and its libraries is required.
        name: what people call the model.
        metadata: JSON values kept in the pyfunc's description.
    """
    with TemporaryDirectory(prefix="segdist-") as scratch, _quiet():
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(_CODE),
            artifacts={"model": str(model)},
            code_paths=[str(_package(Path(scratch)))],
            pip_requirements=requirements(family),
            signature=_signature(),
            metadata={"name": name, **metadata},
        )


def save_beside(model: Path, folder: Path, *, model_id: str, family: str, example: bytes = b"") -> None:
    """Write the pyfunc of a trial's model, as it was trained: it loads where segdist is installed.

    Args:
        model: the model folder, called `model`.
        folder: must not be there yet.
        model_id: under which MLflow will keep it.
        family: of the model.
        example: a picture as bytes, to try it with; empty for none.
    """
    with _quiet():
        import mlflow.pyfunc
        import pandas as pd
        from mlflow.models import Model

        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module="segdist.tracking.pyfunc_loader",
            data_path=str(model),
            mlflow_model=Model(model_id=model_id),
            pip_requirements=_with_segdist(family),
            signature=_signature(),
            input_example=pd.DataFrame({"image": [example]}) if example else None,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's hints on type annotations and on its own deprecations."""
    logger = logging.getLogger("mlflow")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(max(before, logging.ERROR))
        try:
            yield
        finally:
            logger.setLevel(before)


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.string, "prompt", required=False)]),
        outputs=Schema([ColSpec(DataType.string, "predictions")]),
    )


def requirements(family: str) -> list[str]:
    """What has to be installed to load a model of a family, as `name==version` of what is installed here."""
    extra, plugin = declaration(family).extra, _plugin(family)
    named = [Requirement(text) for text in requires("segdist") or ()]
    needed = [r for r in named if r.marker is None or (extra and r.marker.evaluate({"extra": extra}))]
    names = sorted({r.name for r in needed} - _OF_TRAINING | ({plugin} if plugin else set()))
    return [f"{name}=={version(name)}" for name in names]


def _with_segdist(family: str) -> list[str]:
    extra, plugin = declaration(family).extra, _plugin(family)
    needed = {"segdist": f"segdist[{extra}]" if extra else "segdist", **({plugin: plugin} if plugin else {})}
    return [f"{name}=={version(distribution)}" for distribution, name in needed.items()]


def _plugin(family: str) -> str:
    """The distribution that brings a family; "" for ours."""
    return registry.distribution("models", family)[0]


def _package(scratch: Path) -> Path:
    """A copy of segdist's code without the weights that come with it: an exported model has its own."""
    source = Path(__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.pyc")
    return Path(shutil.copytree(source, scratch / "segdist", ignore=ignored))
