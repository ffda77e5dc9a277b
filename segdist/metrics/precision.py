"""Average precision and recall over objects, as COCO defines them: masks, boxes and boundaries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from segdist.metrics.gathered import Kept, register
from segdist.metrics.matching import AREAS, THRESHOLDS, OverlapKind, RankedMatches, matches
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Place, Shown

RECALLS = np.linspace(0.0, 1.0, 101)
MOST_FOUND = (1, 10, 100)
"""Found objects of an image and class that recall is measured with."""


@dataclass(frozen=True)
class AveragePrecision:
    """One family of values: `mask_ap`, `mask_ap_50`, `mask_ar_100`, ..., each also as `mask_ap/<class>`.

    A class that is nowhere in the truth is NaN and left out of the mean, whatever was found: COCO's definition, in
    which only pixel metrics and `box_iou` count what is invented of such a class.
    """

    kind: OverlapKind

    @property
    def name(self) -> str:
        """Under which it is asked for."""
        return f"{self.kind}_ap"

    @property
    def shown(self) -> Mapping[str, Shown]:
        """Its values over all classes."""
        return {
            f"{self.kind}_{name}": Shown(
                f"{self.kind} {name[:2].upper()}{name[2:].replace('_', ' ')}",
                places=_PLACES.get((self.kind, name), ()),
            )
            for name in _SUMMARIES
        }

    def of(self, pair: Pair) -> Kept:
        """What one image adds: the matches of each class."""
        return {label: matches(pair, label, self.kind) for label in pair.labels}

    def values(self, images: Sequence[Kept], classes: Sequence[str]) -> dict[str, float]:
        """From the matches of each image, in the images' order, to the values."""
        tables = {label: _accumulate([image[label] for image in images if label in image]) for label in classes}
        values = {}
        for name, take in _SUMMARIES.items():
            per_class = {label: take(*table) for label, table in tables.items()}
            defined = [v for v in per_class.values() if not np.isnan(v)]
            values[f"{self.kind}_{name}"] = float(np.mean(defined)) if defined else float("nan")
            values |= {f"{self.kind}_{name}/{label}": v for label, v in per_class.items() if name in _PER_CLASS}
        return values


def average_precision(precision_TRA: NDArray[np.float64], *, area: str, threshold: float | None) -> float:
    """Precision at 101 recalls, mean over them and over the IoU thresholds or at one of them."""
    chosen = precision_TRA[..., list(AREAS).index(area)]
    return _mean(chosen if threshold is None else chosen[np.isclose(THRESHOLDS, threshold)])


def average_recall(recall_TAM: NDArray[np.float64], *, area: str, most: int) -> float:
    """Recall with at most this many found objects, mean over the IoU thresholds."""
    return _mean(recall_TAM[:, list(AREAS).index(area), MOST_FOUND.index(most)])


_Take = Callable[[NDArray[np.float64], NDArray[np.float64]], float]
_SUMMARIES: dict[str, _Take] = {
    "ap": lambda p, _: average_precision(p, area="all", threshold=None),
    "ap_50": lambda p, _: average_precision(p, area="all", threshold=0.5),
    "ap_75": lambda p, _: average_precision(p, area="all", threshold=0.75),
    "ap_small": lambda p, _: average_precision(p, area="small", threshold=None),
    "ap_medium": lambda p, _: average_precision(p, area="medium", threshold=None),
    "ap_large": lambda p, _: average_precision(p, area="large", threshold=None),
    "ar_1": lambda _, r: average_recall(r, area="all", most=1),
    "ar_10": lambda _, r: average_recall(r, area="all", most=10),
    "ar_100": lambda _, r: average_recall(r, area="all", most=100),
    "ar_small": lambda _, r: average_recall(r, area="small", most=100),
    "ar_medium": lambda _, r: average_recall(r, area="medium", most=100),
    "ar_large": lambda _, r: average_recall(r, area="large", most=100),
}
_PER_CLASS = ("ap", "ap_50", "ap_75", "ar_100")
_PLACES: Mapping[tuple[OverlapKind, str], tuple[Place, ...]] = {
    ("mask", "ap"): ("leaderboard", "card", "classes", "study"),
    ("mask", "ap_50"): ("card",),
    ("box", "ap"): ("classes",),
}


def _accumulate(images: Sequence[RankedMatches]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(thresholds, recalls, areas) precision and (thresholds, areas, most) recall of one class; NaN without truth."""
    precision_TRA = np.full((len(THRESHOLDS), len(RECALLS), len(AREAS)), np.nan)
    recall_TAM = np.full((len(THRESHOLDS), len(AREAS), len(MOST_FOUND)), np.nan)
    true = sum((image.true for image in images), np.zeros(len(AREAS), np.int64))
    for m, most in enumerate(MOST_FOUND):
        scores = np.concatenate([np.zeros(0), *(image.scores[:most] for image in images)])
        order = np.argsort(-scores, kind="mergesort")
        for a in np.nonzero(true)[0]:
            shape = len(THRESHOLDS), 0
            hit = np.concatenate([np.zeros(shape, np.bool_), *(i.hit[a, :, :most] for i in images)], axis=1)[:, order]
            out = np.concatenate([np.zeros(shape, np.bool_), *(i.ignored[a, :, :most] for i in images)], axis=1)
            right, wrong = np.cumsum(hit, axis=1), np.cumsum(~hit & ~out[:, order], axis=1)
            recall_TAM[:, a, m] = right[:, -1] / true[a] if right.shape[1] else 0.0
            if most == MOST_FOUND[-1]:
                precision_TRA[..., a] = _interpolated(right / true[a], right / np.maximum(right + wrong, 1))
    return precision_TRA, recall_TAM


def _interpolated(recall_TD: NDArray[np.float64], precision_TD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Precision at each of the 101 recalls: the highest at this recall or a higher one; 0 where it is not reached."""
    highest = np.maximum.accumulate(precision_TD[:, ::-1], axis=1)[:, ::-1]
    values = np.zeros((len(recall_TD), len(RECALLS)))
    for row, recall, precision in zip(values, recall_TD, highest, strict=True):
        places = np.searchsorted(recall, RECALLS, side="left")
        reached = places < len(precision)
        row[reached] = precision[places[reached]]
    return values


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


for _kind in get_args(OverlapKind):
    register(AveragePrecision(_kind))
