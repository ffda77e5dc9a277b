"""segdist: images and a question in, the best fine-tuned segmentation model out.

What is named here is what programs may import; it is loaded when it is first used, so that `import segdist` is instant:

- `run` takes a sweep file to a compared winner, `compare` shows its leaderboard as a table of pandas.
- `load_model` gives a trained `Model`, whose `predict` gives a `Prediction` of each image; `draw` shows it.
- `read_dataset` reads annotated images in any format, `evaluate` scores a model on them.
- What a user can mend is a `SegdistError`, with the messages of the command line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segdist.commands.compare import compare
    from segdist.commands.evaluate import evaluate
    from segdist.commands.model import Model, draw, load_model
    from segdist.commands.read import AnnotatedImages, read_dataset
    from segdist.core.errors import (
        BackendError,
        DataError,
        ExportError,
        PromotionError,
        SegdistError,
        SpecError,
        StorageError,
        WeightsError,
    )
    from segdist.core.records import Finding, Instance, Prediction, Prompt, Rle, Sample
    from segdist.pipeline.run import run

_HOMES = {
    "commands.compare": ("compare",),
    "commands.evaluate": ("evaluate",),
    "commands.model": ("Model", "draw", "load_model"),
    "commands.read": ("AnnotatedImages", "read_dataset"),
    "core.errors": (
        "BackendError", "DataError", "ExportError", "PromotionError", "SegdistError", "SpecError", "StorageError",
        "WeightsError",
    ),
    "core.records": ("Finding", "Instance", "Prediction", "Prompt", "Rle", "Sample"),
    "pipeline.run": ("run",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AnnotatedImages",
    "BackendError",
    "DataError",
    "ExportError",
    "Finding",
    "Instance",
    "Model",
    "Prediction",
    "PromotionError",
    "Prompt",
    "Rle",
    "Sample",
    "SegdistError",
    "SpecError",
    "StorageError",
    "WeightsError",
    "compare",
    "draw",
    "evaluate",
    "load_model",
    "read_dataset",
    "run",
]


if not TYPE_CHECKING:  # who checks types must not think that every name is there

    def __getattr__(name: str) -> Any:
        """Import what is asked for (PEP 562), and keep it."""
        if name not in _HOME_OF:
            raise AttributeError(f"module `segdist` has no attribute `{name}`. It offers: {', '.join(__all__)}.")
        value = globals()[name] = getattr(import_module(f"segdist.{_HOME_OF[name]}"), name)
        return value


def __dir__() -> list[str]:
    return __all__
