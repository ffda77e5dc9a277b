"""A model as an MLflow pyfunc: a folder with the weights, the code that runs them and the libraries that takes.

It loads without Ray, Optuna, peft or anything else of training, and without segdist being installed.
"""

import logging
import shutil
import warnings
from importlib.metadata import requires, version
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from segdist.core import registry
from segdist.core.plugins import declaration

_OF_TRAINING = {
    "albumentations", "hydra-core", "imagehash", "jinja2", "omegaconf", "optuna", "psutil", "ray", "rich", "typer",
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import MLflow warns of its own type annotations
        import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.string, "prompt", required=False)]),
        outputs=Schema([ColSpec(DataType.string, "predictions")]),
    )
    with TemporaryDirectory(prefix="segdist-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints on type annotations and on its own deprecations
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(_CODE),
            artifacts={"model": str(model)},
            code_paths=[str(_package(Path(scratch)))],
            pip_requirements=requirements(family),
            signature=signature,
            metadata={"name": name, **metadata},
        )


def requirements(family: str) -> list[str]:
    """What has to be installed to load a model of a family, as `name==version` of what is installed here."""
    extra, (plugin, _) = declaration(family).extra, registry.distribution("models", family)
    named = [Requirement(text) for text in requires("segdist") or ()]
    needed = [r for r in named if r.marker is None or (extra and r.marker.evaluate({"extra": extra}))]
    names = sorted({r.name for r in needed} - _OF_TRAINING | ({plugin} if plugin else set()))
    return [f"{name}=={version(name)}" for name in names]


def _package(scratch: Path) -> Path:
    """A copy of segdist's code without the weights that come with it: an exported model has its own."""
    source = Path(__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.pyc")
    return Path(shutil.copytree(source, scratch / "segdist", ignore=ignored))
