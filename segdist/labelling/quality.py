"""How good a set of labels is: the sums of its shards as means, calibration and an oracle upper bound for students."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from segdist.core.json_values import JsonDict, JsonObject
from segdist.labelling.tally import ACCEPTED, FINAL, MEASURES, MOMENTS, Sums
from segdist.metrics.calibration import brier, calibration_error


def summarise(notes: Iterable[JsonObject]) -> JsonDict:
    """Counts of all shards; means over objects of the labels' IoU with the hidden truth.

    `quality` is null where no truth is known. In it, `iou`, `boundary_iou` and `box_fill_iou` are those of all labels
    whatever their verdict, `accepted` those of the accepted ones alone, and `strategies` those of the surest mask of
    each prompt strategy, before consensus and cleaning; `per_class` has the same for each class. A score is
    meant to be the label's IoU: `score_error` is the mean distance of the two, `calibration_error` that of their means
    in bins of the score (LaACE and LaECE of Kuzucu et al. 2024, with 15 equal bins), `score_correlation` Pearson's.
    `hit_calibration_error` and `brier` take it for the chance of an IoU of at least 0.5. `oracle_iou` is what a student
    scores that draws exactly what the labels teach: the IoU of each class's summed pixels, without ignored ones, and
    its mean over classes. A student that averages out unsystematic errors may pass it.
    """
    counts: Counter[str] = Counter()
    classes: dict[str, _OfClass] = {}
    for note in notes:
        counts.update(note.get("counts", {}))
        for label in {*note.get("verdicts", {}), *note.get("quality", {})}:
            classes.setdefault(label, _OfClass()).add(note, label)
    known = {label: of for label, of in sorted(classes.items()) if of.rows}
    per_class = {label: {**_quality([of]), "verdicts": dict(of.verdicts)} for label, of in known.items()}
    return {
        **counts,
        "verdicts": {label: dict(of.verdicts) for label, of in sorted(classes.items())},
        "quality": {**_quality(list(known.values())), "per_class": per_class} if known else None,
    }


class _OfClass:
    """The sums of one class over shards."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.rows: dict[str, Sums] = {}
        self.reliability: Sums = []
        self.foretold: Sums = []
        self.taught: Sums = []

    def add(self, note: JsonObject, label: str) -> None:
        self.verdicts.update(note.get("verdicts", {}).get(label, {}))
        self.rows = _rows_added(self.rows, note.get("quality", {}).get(label, {}))
        self.reliability = _added(self.reliability, note.get("reliability", {}).get(label, []))
        self.foretold = _added(self.foretold, note.get("foretold", {}).get(label, []))
        self.taught = _added(self.taught, note.get("taught", {}).get(label, []))


def _quality(classes: Sequence[_OfClass]) -> dict[str, object]:
    """The quality over some classes."""
    rows: dict[str, Sums] = {}
    for of in classes:
        rows = _rows_added(rows, of.rows)
    strategies = {row: _mean(values) for row, values in sorted(rows.items()) if row not in (FINAL, ACCEPTED)}
    return {
        **_mean(rows[FINAL]),
        **_as_iou([of.foretold for of in classes if of.foretold]),
        **_as_chance([of.reliability for of in classes if of.reliability]),
        "oracle_iou": _oracle_iou([of.taught for of in classes if of.taught]),
        "accepted": _mean(rows[ACCEPTED]) if ACCEPTED in rows else None,
        "strategies": strategies,
    }


def _rows_added(rows: Mapping[str, Sums], more: Mapping[str, Sums]) -> dict[str, Sums]:
    return {row: _added(rows.get(row, []), more.get(row, [])) for row in (*rows, *(r for r in more if r not in rows))}


def _added(a: Sums, b: Sums) -> Sums:
    return [x + y for x, y in zip(a, b, strict=True)] if a and b else a or b


def _as_iou(parts: Sequence[Sums]) -> dict[str, float | None]:
    """How well scores foretell IoUs, over the sums of some classes; no correlation where either never differs."""
    if not parts:
        return {"calibration_error": None, "score_correlation": None}
    sums = np.sum(parts, axis=0)
    count, scores, ious, squared_scores, squared_ious, products = sums[-MOMENTS:]
    spread = (count * squared_scores - scores**2) * (count * squared_ious - ious**2)
    return {
        "calibration_error": float(calibration_error(*sums[:-MOMENTS, None])[0]),
        "score_correlation": float((count * products - scores * ious) / np.sqrt(spread)) if spread > 1e-12 else None,
    }


def _as_chance(parts: Sequence[Sums]) -> dict[str, float | None]:
    """How well scores foretell hits."""
    if not parts:
        return {"hit_calibration_error": None, "brier": None}
    columns = np.sum(parts, axis=0)[:, None]  # one "class", pooled
    return {"hit_calibration_error": float(calibration_error(*columns)[0]), "brier": float(brier(*columns)[0])}


def _oracle_iou(parts: Sequence[Sums]) -> float | None:
    """Mean over classes of the IoU with the truth of what is learned."""
    values = [common / whole for common, whole in parts if whole]
    return float(np.mean(values)) if values else None


def _mean(sums: Sums) -> dict[str, object]:
    return {"objects": int(sums[0])} | {name: total / sums[0] for name, total in zip(MEASURES, sums[1:], strict=True)}
