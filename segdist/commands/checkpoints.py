"""`segdist evaluate --all-checkpoints`: each trial of a sweep, or each model that one training kept.

Loss and decoding part ways when a training overfits, so both are measured of what it kept.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segdist.commands.evaluate import evaluate
from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.json_values import JsonDict
from segdist.core.records import LabelledImage
from segdist.tracking import Tracker, names

if TYPE_CHECKING:
    from segdist.nets.segmenter import Segmenter

_MODEL = "model.json"


def evaluate_checkpoints(model: str, data: str, **settings: object) -> list[dict[str, object]]:
    """What `evaluate` says about each of several models.

    Of a sweep, each `trial` that kept a model, best first by the sweep's own metric. Of a run, each model that it kept,
    with the `loss`, in the order of `step`s; the one of the highest mIoU, the first of equals, has `is_best`.

    Args:
        model: a sweep; or a run id, `SWEEP#TRIAL`, `NAME@champion`, `NAME@VERSION`, or the folder of the kept models.
        data: see `evaluate`.
        **settings: of `evaluate`.

    Raises:
        DataError: no model was kept.
    """
    return (_trials_of if is_sweep(model) else _kept_by)(model, data, **settings)


def is_sweep(model: str) -> bool:
    """Whether a name is that of a sweep, and not of a run, a registered model or a folder."""
    return not (names.names_model(model) or storage.exists(model))


def _trials_of(sweep: str, data: str, **settings: Any) -> list[dict[str, object]]:
    tracker = Tracker.at(settings["storage"], settings["tracking"])
    record = tracker.latest_sweep(sweep)
    with_model = [trial for trial in tracker.trials(record.run_id) if tracker.has_model(trial.run_id)]
    found = [{"trial": trial.number, **evaluate(trial.run_id, data, **settings)} for trial in with_model]
    if not found:
        raise DataError(f"No trial of `{sweep}` kept a model. Run the sweep to its end first.")
    return found


def _kept_by(model: str, data: str, **settings: Any) -> list[JsonDict]:
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


def _kept(model: str, settings: JsonDict) -> str:
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
