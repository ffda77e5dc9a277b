"""What the trials of a sweep left when they were evaluated: the predictions of each kept model, without the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from segdist.core.records import Prediction
from segdist.core.spec import EvaluateSpec, SweepSpec
from segdist.core.storage import cache_dir
from segdist.datasets.build import on_all_cores
from segdist.datasets.cache import Rows
from segdist.datasets.ingest import find_or_build
from segdist.datasets.shards import Dataset, read_rows
from segdist.tracking import SweepRecord, Tracker, names


@dataclass(frozen=True)
class Recalled:
    """What one trial found in the images of a split.

    Attributes:
        classes: its model's class names in order.
        predictions: by image id; one that is missing is empty.
        evaluate: how it was scored.
    """

    classes: tuple[str, ...]
    predictions: Mapping[str, Prediction]
    evaluate: EvaluateSpec


def recall(tracker: Tracker, run_id: str, split: str) -> Recalled | None:
    """What a trial found in a split; None where its run kept no predictions of it.

    Args:
        tracker: where it was recorded.
        run_id: its run.
        split: "val", or "test", of which the winner alone has predictions.

    Raises:
        DataError: the file is damaged.
    """
    described = tracker.read_model_json(run_id, "model.json")
    with TemporaryDirectory(prefix="segdist-") as scratch:
        file = tracker.find_files(run_id, f"evaluation/{split}.parquet", Path(scratch))
        if file is None or not described:
            return None
        found = {s.image_id: Prediction(s.image_id, s.instances) for s, _ in read_rows(str(file))}
    return Recalled(tuple(described["classes"]), found, EvaluateSpec.model_validate(described["evaluate"]))


def dataset_of(sweep: SweepRecord) -> Dataset:
    """The data set of a sweep, made again where it is gone.

    Raises:
        DataError: its sources are gone too.
    """
    return find_or_build(SweepSpec.model_validate(sweep.spec), on_all_cores)


def rows_of_sweep(sweep: SweepRecord, dataset: Dataset, split: str) -> Rows:
    """The images of a split, with the truth that trials were scored against: pseudo-labels, where it has them.

    Args:
        sweep: whose trials.
        dataset: of the sweep.
        split: e.g. "val".
    """
    place = sweep.tags.get(names.LABELS_PLACE, "")
    if not place:
        return dataset.reader(split, cache_dir())
    hide_masks = split in sweep.spec.get("data", {}).get("boxes_only", ())
    return dataset.reader(split, cache_dir(), labels=Dataset.open(place), hide_masks=hide_masks)
