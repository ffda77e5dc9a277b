"""A look at every model that one training kept: loss and decoding part ways when it overfits, so both are measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segdist.commands.evaluate import evaluate
from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.records import LabelledImage
from segdist.tracking import Tracker, names

if TYPE_CHECKING:
    from segdist.nets.segmenter import Segmenter

_MODEL = "model.json"


def study_checkpoints(model: str, data: str, **settings: Any) -> list[dict[str, Any]]:
    """What `evaluate` says about each kept model, with the `loss`, in the order of steps.

    The one of the highest mIoU, the first of equals, has `is_best`.

    Args:
        model: a run id, `SWEEP#TRIAL`, `NAME@champion`, `NAME@VERSION`, or the folder of the kept models.
        data: see `evaluate`.
        **settings: of `evaluate`.

    Raises:
        DataError: the run kept no models.
    """
    from segdist.engine import checkpoint
    from segdist.engine.validation_loss import mean_loss

    folder = model if storage.exists(model) else _kept(model, settings)
    places = _places(folder)
    if not places:
        raise DataError(
            f"{model} kept no models during training{f' in {folder}' if folder else ''}. Set `train.keep_every: 100` "
            "in the sweep file, train again, and every hundredth step can be evaluated."
        )
    found = []
    for step, place in sorted(places.items()):
        with checkpoint.fetched(place) as local:
            family = checkpoint.describe(local).model.family

        def loss(network: "Segmenter", rows: Sequence[LabelledImage], family: str = family) -> dict[str, float]:
            return mean_loss(network, rows, family=family, batch_size=2)

        scored = evaluate(place, data, **settings, further=loss)
        found.append({"step": step, **scored, "model": place})
    best = max(found, key=lambda one: one["metrics"].get("iou", -1.0))
    return [{**one, "is_best": one is best} for one in found]


def is_sweep(model: str) -> bool:
    """Whether a name is that of a sweep, and not of a run, a registered model or a folder."""
    return not (names.names_model(model) or storage.exists(model))


def _kept(model: str, settings: dict[str, Any]) -> str:
    return Tracker.at(settings["storage"], settings["tracking"]).kept_models(model)


def _places(folder: str) -> dict[int, str]:
    """The complete models in a folder, by step."""
    found: dict[int, str] = {}
    for entry in storage.find(folder, suffix=_MODEL) if folder else ():
        place = entry.uri.removesuffix(f"/{_MODEL}")
        name, dash, step = place.rpartition("/")[2].partition("-")
        if (name, dash) == ("step", "-") and step.isdigit():
            found[int(step)] = place
    return found
