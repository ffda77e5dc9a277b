"""What is counted while labels are made: verdicts, and errors where the truth is known; sums, so that shards add up."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from segdist.core import masks
from segdist.core.json_values import JsonDict
from segdist.core.records import Instance, Rle, Sample, Verdict
from segdist.labelling.consensus import CandidateMask, most_confident
from segdist.metrics.calibration import outcomes
from segdist.metrics.counting import Numbers
from segdist.metrics.matching import band_iou

FINAL, ACCEPTED = "label", "accepted"
"""Rows of the quality beside the strategies: every object's label whatever its verdict; those accepted alone."""
BOUNDARY = 0.02
"""Width of the band of boundary IoU, as a share of the image diagonal (Cheng et al. 2021)."""
MEASURES = ("iou", "boundary_iou", "box_fill_iou", "score_error")
"""Means over objects; `score_error` is the distance of a label's score to its IoU, which it is meant to foretell."""
HIT_IOU = 0.5
"""From this IoU on a label is right, where scores are looked at as chances of being right."""
MOMENTS = 6
"""Sums at the end of `foretold` from which the correlation follows."""
Sums = list[float]


class Tally:
    """Counts of verdicts, sums of `MEASURES` for each class and strategy, and what accepted labels teach."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(labelled=0, review=0, rejected=0, kept=0)
        self.per_class: dict[str, Counter[str]] = {}
        self.sums: dict[str, dict[str, Sums]] = {}
        self.outcomes: dict[str, list[tuple[float, float]]] = {}
        self.taught: dict[str, Sums] = {}

    def add(
        self, truth: Sample, made: Sample, indices: Sequence[int], candidates: Sequence[Sequence[CandidateMask]] = ()
    ) -> None:
        """Count one image; instances whose hidden mask is known are compared with it.

        Args:
            truth: the sample with what is known about it.
            made: its labels, instance by instance.
            indices: of the instances that were asked for.
            candidates: what the teacher said about each of them.
        """
        self.counts["kept"] += sum(i.mask is not None and i.evidence is None for i in made.instances)
        for n, index in enumerate(indices):
            true, guess = truth.instances[index], made.instances[index]
            self._count(guess)
            if true.mask is not None:
                self._measure(true, guess, candidates[n] if candidates else ())
        for label in sorted({truth.instances[index].label for index in indices}):
            self._count_learned(label, truth, made)

    def notes(self) -> JsonDict:
        """JSON values for a shard."""
        return {
            "counts": dict(self.counts),
            "verdicts": {label: dict(counts) for label, counts in self.per_class.items()},
            "quality": self.sums,
            "reliability": {label: _reliability(np.array(of)) for label, of in self.outcomes.items()},
            "foretold": {label: _foretold(np.array(of)) for label, of in self.outcomes.items()},
            "taught": self.taught,
        }

    def _count(self, guess: Instance) -> None:
        verdict = guess.evidence.verdict if guess.evidence else Verdict.ACCEPT
        name = {Verdict.ACCEPT: "labelled", Verdict.REVIEW: "review", Verdict.REJECT: "rejected"}[verdict]
        self.counts[name] += 1
        self.per_class.setdefault(guess.label, Counter())[name] += 1

    def _measure(self, true: Instance, guess: Instance, candidates: Sequence[CandidateMask]) -> None:
        assert true.mask is not None
        box = masks.from_box(true.box_xyxy, size_hw=true.mask.size_hw)
        fill = masks.iou(true.mask, box)
        of_class = self.sums.setdefault(true.label, {})
        reached = _add(of_class, FINAL, true.mask, proposed(guess), fill, guess.score)
        self.outcomes.setdefault(true.label, []).append((guess.score, reached))
        if guess.mask is not None:
            _add(of_class, ACCEPTED, true.mask, guess.mask, fill, guess.score)
        for strategy in sorted({o.strategy for o in candidates}):
            best = most_confident([o for o in candidates if o.strategy == strategy])
            _add(of_class, strategy, true.mask, best.mask, fill, best.score)

    def _count_learned(self, label: str, truth: Sample, made: Sample) -> None:
        """Intersection and union of a class's truth with what its labels teach, without ignored pixels."""
        true = [i for i in truth.instances if i.label == label and not i.is_crowd]
        if any(i.mask is None for i in true):
            return
        size_hw = truth.size_hw
        true_rle = masks.union([i.mask for i in true if i.mask], size_hw=size_hw)
        made_rle = masks.union([i.mask for i in made.instances if i.label == label and i.mask], size_hw=size_hw)
        unknown = masks.union(list(_ignored(made)), size_hw=size_hw)
        common, either = masks.intersection(true_rle, made_rle), masks.union([true_rle, made_rle], size_hw=size_hw)
        sums = self.taught.setdefault(label, [0.0, 0.0])
        for k, pixels in enumerate((common, either)):
            sums[k] += pixels.area - masks.intersection_area(pixels, unknown)


def _reliability(outcomes_K2: Numbers) -> Sums:
    """Of scores and IoUs, what `calibration_error` and `brier` need for scores taken as chances of a hit."""
    return outcomes(outcomes_K2[:, 0], (outcomes_K2[:, 1] >= HIT_IOU).astype(np.float64)).tolist()


def _foretold(outcomes_K2: Numbers) -> Sums:
    """What `calibration_error` needs for scores taken as the IoU itself; then sums of both, of squares and products."""
    scores, ious = outcomes_K2.T
    moments = [len(scores), scores.sum(), ious.sum(), (scores**2).sum(), (ious**2).sum(), (scores * ious).sum()]
    return [*outcomes(scores, ious).tolist(), *map(float, moments)]


def _ignored(made: Sample) -> Iterator[Rle]:
    """What training ignores: crowds, boxes without a mask, and pixels on which prompts disagree."""
    for instance in made.instances:
        if instance.mask is None:
            yield masks.from_box(instance.box_xyxy, size_hw=made.size_hw)
        elif instance.is_crowd:
            yield instance.mask
        elif instance.evidence and instance.evidence.unsure:
            yield instance.evidence.unsure


def proposed(guess: Instance) -> Rle | None:
    """The mask of a label whatever its verdict."""
    return guess.mask or (guess.evidence.proposed if guess.evidence else None)


def _add(rows: dict[str, Sums], row: str, true: Rle, guess: Rle | None, fill: float, score: float) -> float:
    """Add one object to a row; its IoU with the truth."""
    sums = rows.setdefault(row, [0.0] * (1 + len(MEASURES)))
    overlap = masks.iou(true, guess) if guess else 0.0
    width = max(1, round(BOUNDARY * float(np.hypot(*true.size_hw))))
    boundary = band_iou(true, guess, pixels=width) if guess else 0.0
    for k, value in enumerate((1.0, overlap, boundary, fill, abs(score - overlap))):
        sums[k] += value
    return overlap
