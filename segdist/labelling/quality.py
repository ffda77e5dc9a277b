"""How good labels are where the truth is known: sums over objects, so that shards add up."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from segdist import masks
from segdist.labelling.consensus import Opinion, surest
from segdist.metrics.matching import band_iou
from segdist.records import Instance, Rle, Sample, Verdict

FINAL, ACCEPTED = "label", "accepted"
"""Rows of the quality beside the strategies: every object's label whatever its verdict; those accepted alone."""
BOUNDARY = 0.02
"""Width of the band of boundary IoU, as a share of the image diagonal (Cheng et al. 2021)."""
MEASURES = ("iou", "boundary_iou", "box_fill_iou")
Sums = list[float]


class Tally:
    """Counts of verdicts, and for each class and strategy the number of objects and the sums of `MEASURES`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(labelled=0, review=0, rejected=0, kept=0)
        self.per_class: dict[str, Counter[str]] = {}
        self.sums: dict[str, dict[str, Sums]] = {}

    def add(
        self, truth: Sample, made: Sample, indices: Sequence[int], opinions: Sequence[Sequence[Opinion]] = ()
    ) -> None:
        """Count one image; instances whose hidden mask is known are compared with it.

        Args:
            truth: the sample with what is known about it.
            made: its labels, instance by instance.
            indices: of the instances that were asked for.
            opinions: what the teacher said about each of them.
        """
        self.counts["kept"] += sum(i.mask is not None and i.evidence is None for i in made.instances)
        for n, index in enumerate(indices):
            true, guess = truth.instances[index], made.instances[index]
            self._count(guess)
            if true.mask is not None:
                self._measure(true, guess, opinions[n] if opinions else ())

    def notes(self) -> dict[str, Any]:
        """JSON values for a shard."""
        return {
            "counts": dict(self.counts),
            "verdicts": {label: dict(counts) for label, counts in self.per_class.items()},
            "quality": self.sums,
        }

    def _count(self, guess: Instance) -> None:
        verdict = guess.evidence.verdict if guess.evidence else Verdict.ACCEPT
        name = {Verdict.ACCEPT: "labelled", Verdict.REVIEW: "review", Verdict.REJECT: "rejected"}[verdict]
        self.counts[name] += 1
        self.per_class.setdefault(guess.label, Counter())[name] += 1

    def _measure(self, true: Instance, guess: Instance, opinions: Sequence[Opinion]) -> None:
        assert true.mask is not None
        box = masks.from_box(true.box_xyxy, size_hw=true.mask.size_hw)
        fill = masks.iou(true.mask, box)
        of_class = self.sums.setdefault(true.label, {})
        _add(of_class, FINAL, true.mask, proposed(guess), fill)
        if guess.mask is not None:
            _add(of_class, ACCEPTED, true.mask, guess.mask, fill)
        for strategy in sorted({o.strategy for o in opinions}):
            best = surest([o for o in opinions if o.strategy == strategy])
            _add(of_class, strategy, true.mask, best.mask, fill)


def proposed(guess: Instance) -> Rle | None:
    """The mask of a label whatever its verdict."""
    return guess.mask or (guess.evidence.proposed if guess.evidence else None)


def summarise(notes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of all shards; means over objects of the labels' IoU with the hidden truth.

    `quality` is null where no truth is known. In it, `iou`, `boundary_iou` and `box_fill_iou` are those of all labels
    whatever their verdict, `accepted` those of the accepted ones alone, and `strategies` those of the surest mask of
    each prompt strategy, before consensus and cleaning; `per_class` has the same for each class.
    """
    counts: Counter[str] = Counter()
    verdicts: dict[str, Counter[str]] = {}
    sums: dict[str, dict[str, Sums]] = {}
    for note in notes:
        counts.update(note.get("counts", {}))
        for label, of_class in note.get("verdicts", {}).items():
            verdicts.setdefault(label, Counter()).update(of_class)
        for label, rows in note.get("quality", {}).items():
            for row, values in rows.items():
                of_row = sums.setdefault(label, {}).setdefault(row, [0.0] * len(values))
                of_row[:] = [a + b for a, b in zip(of_row, values, strict=True)]
    whole = _over_classes(sums.values())
    per_class = {label: {**_means(rows), "verdicts": verdicts.get(label, {})} for label, rows in sorted(sums.items())}
    return {
        **counts,
        "verdicts": {label: dict(of_class) for label, of_class in sorted(verdicts.items())},
        "quality": {**_means(whole), "per_class": per_class} if whole else None,
    }


def _add(rows: dict[str, Sums], row: str, true: Rle, guess: Rle | None, fill: float) -> None:
    sums = rows.setdefault(row, [0.0] * (1 + len(MEASURES)))
    overlap = masks.iou(true, guess) if guess else 0.0
    width = max(1, round(BOUNDARY * float(np.hypot(*true.size_hw))))
    boundary = band_iou(true, guess, pixels=width) if guess else 0.0
    for k, value in enumerate((1.0, overlap, boundary, fill)):
        sums[k] += value


def _over_classes(parts: Iterable[Mapping[str, Sums]]) -> dict[str, Sums]:
    whole: dict[str, Sums] = {}
    for rows in parts:
        for row, values in rows.items():
            whole[row] = [a + b for a, b in zip(whole.get(row, [0.0] * len(values)), values, strict=True)]
    return whole


def _means(rows: Mapping[str, Sums]) -> dict[str, Any]:
    strategies = {row: _mean(values) for row, values in sorted(rows.items()) if row not in (FINAL, ACCEPTED)}
    accepted = _mean(rows[ACCEPTED]) if ACCEPTED in rows else None
    return {**_mean(rows[FINAL]), "accepted": accepted, "strategies": strategies}


def _mean(sums: Sums) -> dict[str, Any]:
    return {"objects": int(sums[0])} | {name: total / sums[0] for name, total in zip(MEASURES, sums[1:], strict=True)}
