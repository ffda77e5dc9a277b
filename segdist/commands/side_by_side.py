"""The page that shows the trials of a sweep beside each other, made of what their evaluations left."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from segdist.commands.recalled import Recalled, dataset_of, recall, rows_of_sweep
from segdist.core import storage
from segdist.core.errors import DataError, SegdistError
from segdist.core.records import Sample
from segdist.core.spec import EvaluateSpec
from segdist.core.text import counted
from segdist.datasets.cache import Rows
from segdist.datasets.shards import Dataset
from segdist.metrics import Evaluator, evaluator_of, formulas, lower_is_better
from segdist.metrics.contributions import Contributions, contributions
from segdist.pages import Leaderboard, write_html
from segdist.pages.side_by_side import (
    FOLDER,
    PAGE,
    Column,
    LabelMap,
    ShownImages,
    Written,
    found_map,
    write_side_by_side,
)
from segdist.tracking import Tracker, TrialRecord


def write_pages(tracker: Tracker, board: Leaderboard, folder: Path) -> dict[str, str]:
    """Write the report of a sweep and the page of its trials beside each other, which link to each other.

    Args:
        tracker: where the sweep is recorded.
        board: the sweep.
        folder: made where it is not there.

    Returns:
        Where they lie, by what they show.
    """
    images = write_images(tracker, board, storage.join(str(folder), FOLDER))
    report = write_html(
        tracker,
        board.sweep.name,
        folder / "report.html",
        parent_run_id=board.sweep.run_id,
        images=f"{FOLDER}/{PAGE}" if images else "",
    )
    return {"report": str(report)} | ({"images": images.uri} if images else {})


def write_images(
    tracker: Tracker, board: Leaderboard, folder: str, *, dataset: Dataset | None = None
) -> Written | None:
    """Write the page of a sweep beside its report; what is missing of an old sweep is said on it.

    It shows `evaluate.images_side_by_side` images; of more, those whose scores differ most between trials.

    Args:
        tracker: where the sweep is recorded.
        board: the sweep.
        folder: of the page's own, below that of the report.
        dataset: of the sweep, where it is at hand.

    Returns:
        What was written; None where the sweep wants no such page.
    """
    most = EvaluateSpec.model_validate(board.sweep.spec.get("evaluate", {})).images_side_by_side
    if not most:
        return None
    metric = board.metric.partition("/")[2]
    metric = metric if metric in formulas() else "iou"
    write = partial(write_side_by_side, folder, board, metric=metric, report="../report.html")
    try:
        rows, classes = _rows(board, dataset)
    except SegdistError as error:
        said = [f"The validation images of this sweep cannot be shown. {error}"]
        return write((), ShownImages((), (), ()), notes=said)
    samples = [rows.sample(k) for k in range(len(rows))]
    scored, notes = _scored(tracker, board, classes, samples, metric)
    places = _most_different([c for _, c in scored], most, is_lower_better=lower_is_better(metric))
    shown = [samples[k] for k in places]
    columns = [Column(trial, c, _maps(tracker, trial, shown)) for trial, c in scored]
    if columns and len(places) < len(rows):
        those = counted(len(places), "image is", "images are")
        notes.append(f"Of {len(rows):,} validation images, the {those} shown whose scores differ most between trials.")
    return write(columns, ShownImages(rows, places, classes), notes=notes)


def _rows(board: Leaderboard, dataset: Dataset | None) -> tuple[Rows, tuple[str, ...]]:
    """The validation images with what is true of them, and the class names.

    Raises:
        DataError: they are not what the sweep was run on.
    """
    dataset = dataset or dataset_of(board.sweep)
    seen = board.sweep.dataset.digest if board.sweep.dataset else ""
    if seen and seen != dataset.manifest.content_hash[: len(seen)]:
        raise DataError(
            f"The data of its sources have changed since it was run: content hash {dataset.manifest.content_hash}, "
            f"not {seen}. Bring back the data of then, or run the sweep again."
        )
    return rows_of_sweep(board.sweep, dataset, "val"), dataset.manifest.classes


def _scored(
    tracker: Tracker, board: Leaderboard, classes: tuple[str, ...], samples: Sequence[Sample], metric: str
) -> tuple[list[tuple[TrialRecord, Contributions]], list[str]]:
    """The trials that left predictions of these classes, the winner first; and which others did not, in sentences.

    The predictions of one trial are in memory at a time.
    """
    first = [t for t in (board.winner,) if t is not None and t.repeats]
    found: list[tuple[TrialRecord, Contributions]] = []
    without: list[int] = []
    others: list[int] = []
    for trial in (*first, *board.trials, *(t for t in board.repeats if t not in first)):
        left = recall(tracker, trial.run_id, "val")
        if left is None:
            without.append(trial.number)
        elif left.classes != classes:
            others.append(trial.number)
        else:
            found.append((trial, contributions(_filled(left, samples, metric), metric=metric)))
    notes = []
    if without:
        notes.append(f"{_which(without)} kept no predictions: failed, not evaluated yet, or of an older segdist.")
    if others:
        notes.append(f"{_which(others)} learned other classes.")
    return found, notes


def _which(numbers: Sequence[int]) -> str:
    return f"Trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"


def _filled(left: Recalled, samples: Sequence[Sample], metric: str) -> Evaluator:
    evaluator = evaluator_of(left.classes, left.evaluate, [metric])
    for sample in samples:
        evaluator.add(sample, left.predictions.get(sample.image_id))
    return evaluator


def _maps(tracker: Tracker, trial: TrialRecord, samples: Sequence[Sample]) -> list[LabelMap]:
    """What counts as found in each image."""
    left = recall(tracker, trial.run_id, "val")
    assert left is not None
    maps = []
    for sample in samples:
        prediction = left.predictions.get(sample.image_id)
        found = [i for i in (prediction.instances if prediction else ()) if left.evaluate.accepts(i.label, i.score)]
        maps.append(found_map(found, sample.size_hw, left.classes))
    return maps


def _most_different(scored: Sequence[Contributions], most: int, *, is_lower_better: bool) -> list[int]:
    """Places of the images whose scores differ most between trials, in the order of the images.

    Where nothing is to be found and nothing was, no score is defined, and the trial is right.
    """
    if not scored:
        return []
    right = 0.0 if is_lower_better else 1.0
    singles_TN = np.stack([c.single_N for c in scored])
    spread_N = np.where(np.isnan(singles_TN), right, singles_TN).std(axis=0)
    return sorted(np.argsort(-spread_N, kind="stable")[:most].tolist())
