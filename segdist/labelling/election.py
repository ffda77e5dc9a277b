"""Which teacher labels a class: the one nearest to people's masks or, where there are few, to the other teachers'."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segdist.core import masks
from segdist.core.records import Evidence, Instance, Rle
from segdist.labelling.consensus import CandidateMask
from segdist.metrics.matching import overlap_matrix

PollSums = Mapping[str, Mapping[str, Sequence[float]]]
"""By class and teacher: objects with a human mask, the sum of IoU with it, all objects, the sum of agreement."""
ENOUGH = 5
"""Objects of a class with a human mask from which on these decide."""


@dataclass(frozen=True)
class Choice:
    """Who labels a class, and why.

    Attributes:
        teacher: the name.
        by: `masks` of people, or the teachers' `agreement`.
        objects: on how many it rests.
        would_give: for each teacher the mean IoU with these masks, or with the other teachers' answers.
    """

    teacher: str
    by: str
    objects: int
    would_give: Mapping[str, float]


class Poll:
    """Sums over objects, for each class and teacher: IoU with human masks, and with the other teachers' answers."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, list[float]]] = defaultdict(dict)

    def add(self, label: str, candidates: Sequence[CandidateMask], truth: Rle | None) -> None:
        """Count what the teachers said of one object.

        Args:
            label: its class.
            candidates: one of each teacher, as `consensus.CandidateMask.strategy` names it; further ones are left out.
            truth: a person's mask, where there is one.
        """
        firsts = {c.strategy: c.instance.mask for c in reversed(candidates)}
        size_hw = next((m.size_hw for m in (truth, *firsts.values()) if m is not None), (1, 1))
        rles = [mask or masks.empty(size_hw) for mask in firsts.values()]
        overlaps = np.nan_to_num(overlap_matrix(rles, rles))
        others = max(len(rles) - 1, 1)
        for n, (name, rle) in enumerate(zip(firsts, rles, strict=True)):
            sums = self._sums[label].setdefault(name, [0.0, 0.0, 0.0, 0.0])
            agreement = float(overlaps[n].sum() - overlaps[n, n]) / others
            known = [1.0, masks.iou(truth, rle)] if truth is not None else [0.0, 0.0]
            for k, value in enumerate([*known, 1.0, agreement]):
                sums[k] += value

    def add_sums(self, sums: PollSums) -> None:
        """Add another poll's sums."""
        for label, of_class in sums.items():
            for name, values in of_class.items():
                own = self._sums[label].setdefault(name, [0.0] * len(values))
                self._sums[label][name] = [a + b for a, b in zip(own, values, strict=True)]

    @property
    def sums(self) -> PollSums:
        """What was counted so far, to be added to another poll's."""
        return self._sums

    def choices(self) -> dict[str, Choice]:
        """Who labels each class that was asked about; of equals the first."""
        return {label: _choice(of_class) for label, of_class in sorted(self._sums.items())}


def elected(candidates: Sequence[CandidateMask], choice: Choice | None) -> list[CandidateMask]:
    """The answer of who labels the class, scored by how well the others agree with it; all where nobody was chosen."""
    own = next((c.instance for c in candidates if choice and c.strategy == choice.teacher), None)
    if own is None or choice is None:
        return list(candidates)
    others = [c.instance.mask for c in candidates if c.strategy != choice.teacher]
    if own.mask is None or not others:
        return [CandidateMask(choice.teacher, own)]
    return [CandidateMask(choice.teacher, _scored(own, own.mask, others, choice))]


def _scored(own: Instance, mask: Rle, others: Sequence[Rle | None], choice: Choice) -> Instance:
    """With the agreement of the nearest other teacher as evidence, and as a score where people's masks bear it out."""
    agreement = max(masks.iou(mask, other) if other else 0.0 for other in others)
    said = replace(own.evidence or Evidence(), agreement=agreement)
    usual = choice.would_give[choice.teacher]
    return replace(own, score=(agreement + usual) / 2 if choice.by == "masks" else agreement, evidence=said)


def _choice(of_class: Mapping[str, Sequence[float]]) -> Choice:
    by_masks = all(sums[0] >= ENOUGH for sums in of_class.values())
    count, total = (0, 1) if by_masks else (2, 3)
    means = {name: sums[total] / sums[count] if sums[count] else 0.0 for name, sums in of_class.items()}
    best = max(means, key=lambda name: means[name])
    objects = int(next(iter(of_class.values()))[count])
    return Choice(best, "masks" if by_masks else "agreement", objects, means)
