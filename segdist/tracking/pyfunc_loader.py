"""What MLflow calls to load the model of a trial, where segdist is installed."""

from pathlib import Path
from typing import TYPE_CHECKING

from segdist.tracking.pyfunc_model import SegdistModel

if TYPE_CHECKING:
    import pandas as pd


class Loaded:
    """A model that answers, as `pyfunc_model` describes.

    Args:
        folder: of the model. It may name base weights outside of it: who loads a pyfunc lets it run code of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._model = SegdistModel()
        self._model.load(folder, trusted=True)

    def predict(self, model_input: "pd.DataFrame", params: dict[str, object] | None = None) -> "pd.DataFrame":
        """One row for each picture."""
        return self._model.predict(None, model_input, params)


def _load_pyfunc(path: str) -> Loaded:
    """The name that MLflow knows."""
    return Loaded(Path(path))
