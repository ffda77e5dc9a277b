"""Which teacher labels a class: the one nearest to people's masks or, where there are few, the one that was named.

How far teachers agree does not tell who is right: on potholes, where SAM is, and on hairline cracks, where it is not,
they agree alike, for large masks overlap by chance. So agreement decides only where nobody agrees with the one named
beyond chance, by Cohen's kappa (1960) over the pixels of the box. It is 0 for masks that know nothing of each other, as
a filled box and any other.
"""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.records import Evidence, Instance, Rle
from segdist.labelling.consensus import CandidateMask
from segdist.labelling.foretelling import FOLDS, Floats, foretold, learned, signs
from segdist.metrics.matching import overlap_matrix

ENOUGH = 5
"""Objects of a class with a human mask from which on these decide; fewer do with those of other classes."""
SURE = 10
"""Objects of all classes with a human mask from which on these tell how far each sign of a good mask is to be believed,
and so which teacher's mask of an object is the best."""
EACH = "the surest for each object"
"""In place of a teacher's name: of each object the mask that is foretold to be the nearest to the truth."""
_WORTH_IT = 0.01
"""IoU that choosing for each object must add to what the best teacher alone gives; less may be an accident."""
_BY_CHANCE = 0.05
"""Kappa up to which two teachers agree by chance."""


class Known(TypedDict):
    """One object that has a human mask: its class, and for each teacher the IoU with it and the signs of its mask."""

    label: str
    iou: dict[str, float]
    signs: dict[str, list[float]]


Pairs = dict[str, dict[str, dict[str, list[float]]]]
"""By class, by teacher, and by teacher it is compared with, itself too: objects, and sums of IoUs and of kappas."""


class PollContent(TypedDict):
    """What a poll has counted, and what is known of some objects."""

    pairs: Pairs
    known: list[Known]


@dataclass(frozen=True)
class Choice:
    """Who labels a class, and why.

    Attributes:
        teacher: the name, or `EACH`.
        by: `masks` of people, or without them its `name` in the sweep file, or the teachers' `agreement`.
        objects: of the class, on how many it rests.
        would_give: for each teacher the mean IoU with these masks, as if five more objects were as all classes are on
            average, so that a few do not decide alone; or with the other teachers' answers. For `EACH` as measured on
            objects from which nothing was learned.
        foretells: for each teacher the weights by which the signs of its masks foretell their IoU; none where too few
            human masks are there.
    """

    teacher: str
    by: str
    objects: int
    would_give: Mapping[str, float]
    foretells: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Poll:
    """What teachers say about objects: how far they agree and, where people's masks are there, who is right when."""

    def __init__(self) -> None:
        self._pairs: Pairs = {}
        self._known: list[Known] = []

    def add(self, asked: Instance, candidates: Sequence[CandidateMask], truth: Rle | None) -> None:
        """Count what the teachers said of one object.

        Args:
            asked: its class and box.
            candidates: one of each teacher, as `consensus.CandidateMask.strategy` names it; further ones are left out.
            truth: a person's mask, where there is one.
        """
        answers = firsts(candidates)
        size_hw = next((i.mask.size_hw for i in answers.values() if i.mask), (1, 1))
        rles = [i.mask or masks.empty(size_hw) for i in answers.values()]
        overlaps = np.nan_to_num(overlap_matrix(rles, rles))
        kappas = _kappas(overlaps, [rle.area for rle in rles], asked)
        sums = np.stack([np.ones_like(kappas), overlaps, kappas], axis=-1).tolist()
        compared = {name: dict(zip(answers, row, strict=True)) for name, row in zip(answers, sums, strict=True)}
        self._add_pairs({asked.label: compared})
        if truth is not None:
            iou = {name: masks.iou(truth, i.mask) if i.mask else 0.0 for name, i in answers.items()}
            of_masks = {name: list(values) for name, values in signs(answers, asked).items()}
            self._known.append({"label": asked.label, "iou": iou, "signs": of_masks})

    def add_content(self, content: PollContent) -> None:
        """Add what another poll has counted."""
        self._add_pairs(content["pairs"])
        self._known += content["known"]

    def _add_pairs(self, pairs: Pairs) -> None:
        for label, of_class in pairs.items():
            for name, others in of_class.items():
                own = self._pairs.setdefault(label, {}).setdefault(name, {})
                for other, sums in others.items():
                    own[other] = [a + b for a, b in zip(own.get(other, [0.0] * len(sums)), sums, strict=True)]

    @property
    def content(self) -> PollContent:
        """What was counted so far, to be added to another poll."""
        return {"pairs": self._pairs, "known": self._known}

    def choices(self, preferred: str = "", floor: str = "") -> dict[str, Choice]:
        """Who labels each class that was asked about; of equals the first.

        Args:
            preferred: who labels where human masks decide and nobody is better by more than the standard error of the
                difference (the rule of one standard error, Breiman et al. 1984): of many that are tried on a few
                objects the best is the luckiest, too. Without human masks, where another agrees with it beyond chance.
            floor: who must not be better than the one preferred, by any difference, and has no say of its own.
        """
        labels = sorted(self._pairs)
        lessons = _Lessons(labels, self._known) if len(self._known) >= SURE else None
        return {label: self._choice(label, lessons, preferred, floor) for label in labels}

    def _choice(self, label: str, lessons: "_Lessons | None", preferred: str, floor: str) -> Choice:
        known = [one for one in self._known if one["label"] == label]
        if lessons is None and len(known) < ENOUGH:
            of_class = self._pairs[label]
            means = {name: _mean_of_others(name, others) for name, others in of_class.items()}
            objects = int(max(others[name][0] for name, others in of_class.items()))
            if preferred in means and _is_not_alone(of_class[preferred], {preferred, floor}):
                return Choice(preferred, "name", objects, means)
            return Choice(_best(means), "agreement", objects, means)
        usual = _mean_of_classes(self._known)
        means = {
            name: (sum(one["iou"][name] for one in known) + ENOUGH * mean) / (len(known) + ENOUGH)
            for name, mean in usual.items()
        }
        best = _best(means)
        if preferred in means and means[preferred] >= means.get(floor, 0.0):
            of_whom = known if len(known) >= ENOUGH else self._known
            best = best if _is_clearly_better(best, preferred, of_whom) else preferred
        if lessons and len(known) >= ENOUGH:
            own = float(np.mean([one["iou"][best] for one in known]))
            means[EACH] = means[best] + lessons.held_out[label] - own
            best = EACH if lessons.held_out[label] >= own + _WORTH_IT else best
        return Choice(best, "masks", len(known), means, lessons.weights(label) if lessons else {})


def _mean_of_others(name: str, compared: Mapping[str, Sequence[float]]) -> float:
    """The mean IoU of a teacher's masks with those of the others; 0 where there are none."""
    ious = [iou / objects for other, (objects, iou, _) in compared.items() if other != name]
    return float(np.mean(ious)) if ious else 0.0


def _is_not_alone(compared: Mapping[str, Sequence[float]], but: Container[str]) -> bool:
    """Whether another teacher agrees beyond chance, or there is none that could."""
    kappas = [kappa / objects for other, (objects, _, kappa) in compared.items() if other not in but]
    return not kappas or max(kappas) > _BY_CHANCE


def _kappas(overlaps_MM: Floats, areas: Sequence[int], asked: Instance) -> Floats:
    """(M, M) Cohen's kappa of two masks over the pixels of the annotated box; 0 where one is empty or fills it.

    Args:
        overlaps_MM: IoU of every two.
        areas: of each, in pixels.
        asked: with the box; masks may be cut a little larger.
    """
    area_M = np.asarray(areas, np.float64)
    sums_MM, products_MM = area_M[:, None] + area_M, area_M[:, None] * area_M
    common_MM = overlaps_MM * sums_MM / (1 + overlaps_MM)
    x1, y1, x2, y2 = asked.box_xyxy
    pixels = max((x2 - x1) * (y2 - y1), float((sums_MM - common_MM).max(initial=1.0)))
    spread_MM = pixels * sums_MM - 2 * products_MM
    informed = (spread_MM > 0) & (products_MM > 0)
    return np.where(informed, 2 * (pixels * common_MM - products_MM) / np.where(informed, spread_MM, 1.0), 0.0)


def _is_clearly_better(one: str, other: str, known: Sequence[Known]) -> bool:
    """Whether the mean difference of IoUs is larger than its standard error."""
    differences = np.array([of["iou"][one] - of["iou"][other] for of in known])
    return bool(differences.mean() > differences.std(ddof=1) / np.sqrt(len(differences)))


def _mean_of_classes(known: Sequence[Known]) -> dict[str, float]:
    """By teacher, the mean IoU over classes, each of which counts the same."""
    of_class: dict[str, list[dict[str, float]]] = defaultdict(list)
    for one in known:
        of_class[one["label"]].append(one["iou"])
    return {
        name: float(np.mean([np.mean([iou[name] for iou in ious]) for ious in of_class.values()]))
        for name in known[0]["iou"]
    }


class _Lessons:
    """What people's masks teach about every teacher.

    Attributes:
        held_out: for each class the mean IoU where each object has the mask that is foretold to be the best, by what
            the objects of other folds teach.
    """

    def __init__(self, labels: Sequence[str], known: Sequence[Known]) -> None:
        self._labels = labels
        self._names = sorted(known[0]["iou"])
        self._classes_KC = np.array([[float(one["label"] == label) for label in labels] for one in known])
        self._iou = {name: np.array([one["iou"][name] for one in known]) for name in self._names}
        self._signs = {name: np.array([one["signs"][name] for one in known]) for name in self._names}
        every = np.ones(len(known), np.bool_)
        self._weights = {name: self._learned(name, every) for name in self._names}
        reached_K = self._by_folds(len(known))
        counts_C = np.maximum(self._classes_KC.sum(axis=0), 1)
        self.held_out = dict(zip(labels, (reached_K @ self._classes_KC / counts_C).tolist(), strict=True))

    def weights(self, label: str) -> dict[str, list[float]]:
        """By teacher, those of a class."""
        return {name: of[self._labels.index(label)].tolist() for name, of in self._weights.items()}

    def _learned(self, name: str, some_K: NDArray[np.bool_]) -> Floats:
        return learned(self._signs[name][some_K], self._classes_KC[some_K], self._iou[name][some_K])

    def _by_folds(self, count: int) -> Floats:
        """The IoU of each object's best mask; objects of an image are neighbours, and so mostly of one fold."""
        reached_K = np.zeros(count)
        for fold in np.array_split(np.arange(count), FOLDS):
            others = np.ones(count, np.bool_)
            others[fold] = False
            weights = {name: self._learned(name, others) for name in self._names}
            for k in fold.tolist():
                row = int(self._classes_KC[k].argmax())
                best = max(self._names, key=lambda n: foretold(weights[n][row], self._signs[n][k]))
                reached_K[k] = self._iou[best][k]
        return reached_K


def firsts(candidates: Sequence[CandidateMask]) -> dict[str, Instance]:
    """The first answer of each teacher."""
    return {c.strategy: c.instance for c in reversed(candidates)}


def elected(asked: Instance, candidates: Sequence[CandidateMask], choice: Choice | None) -> list[CandidateMask]:
    """The answer of who labels the class, or the best one, with the IoU that it may have; all where nobody was chosen.

    Where too few human masks tell what to believe, the score is the agreement with the nearest other teacher.
    """
    answers = firsts(candidates)
    if choice is None or (choice.teacher != EACH and choice.teacher not in answers):
        return list(candidates)
    values = _foretold(answers, asked, choice)
    name = max(values, key=lambda n: values[n]) if choice.teacher == EACH and values else choice.teacher
    if name not in answers:
        return list(candidates)
    own, mask = answers[name], answers[name].mask
    others = [i.mask for teacher, i in answers.items() if teacher != name]
    if mask is None or not others:
        return [CandidateMask(name, own)]
    agreement = max(masks.iou(mask, other) if other else 0.0 for other in others)
    said = replace(own.evidence or Evidence(), agreement=agreement)
    return [CandidateMask(name, replace(own, score=values.get(name, agreement), evidence=said))]


def _foretold(answers: Mapping[str, Instance], asked: Instance, choice: Choice) -> dict[str, float]:
    if not choice.foretells or set(answers) != set(choice.foretells):
        return {}
    of_masks = signs(answers, asked)
    return {name: foretold(choice.foretells[name], of_masks[name]) for name in sorted(answers)}


def _best(means: Mapping[str, float]) -> str:
    return max(means, key=lambda name: means[name])
