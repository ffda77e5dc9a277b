"""Metrics on separate objects: their boxes, and panoptic quality."""

import numpy as np
from numpy.typing import NDArray

from segdist.metrics.counting import Numbers, counter, divide, metric
from segdist.metrics.matching import box_matrix, overlap_matrix
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Shown


@counter(3)
def boxes(pair: Pair, label: str) -> tuple[float, float, int]:
    """Sums of IoU and Dice of matched boxes, and number of boxes: matched, missed and invented."""
    truths = [i for i in pair.truths if i.label == label]
    true = [i for i in truths if not i.is_crowd]
    crowds = [i for i in truths if i.is_crowd]
    found = pair.guessed(label)
    overlaps = box_matrix(found, true)
    matched = one_to_one(overlaps, at_least=1e-9)
    alone = [i for k, i in enumerate(found) if k not in {d for d, _ in matched}]
    in_crowd = (box_matrix(alone, crowds, [True] * len(crowds)) > 0.5).any(axis=1).sum() if crowds else 0
    count = len(true) + len(found) - len(matched) - int(in_crowd)
    ious = np.array([overlaps[d, g] for d, g in matched], np.float64)
    return float(ious.sum()), float((2 * ious / (1 + ious)).sum()), count


@metric(boxes, shown=Shown("box IoU", places=("spread",)))
def box_iou(overlap: Numbers, dice: Numbers, count: Numbers) -> Numbers:  # noqa: ARG001
    """Mean IoU of true and found boxes, matched one to one; a box that is missed or invented counts 0.

    Found boxes that lie in a crowd by more than a half, and match no object, do not count.
    """
    return divide(overlap, count)


@metric(boxes, shown=Shown("box Dice", places=("spread",)))
def box_dice(overlap: Numbers, dice: Numbers, count: Numbers) -> Numbers:  # noqa: ARG001
    """Mean Dice of true and found boxes, matched and counted as for `box_iou`."""
    return divide(dice, count)


@counter(4)
def segments(pair: Pair, label: str) -> tuple[float, int, int, int]:
    """Sum of the overlaps of matched segments; matched, invented and missed ones."""
    true = [i.mask for i in pair.known(label) if i.mask is not None]
    found = [i.mask for i in pair.guessed(label) if i.mask is not None]
    void = np.array([pair.void_area(rle) for rle in found], np.float64)
    found_area, true_area = (np.array([r.area for r in rles], np.float64) for rles in (found, true))
    plain = overlap_matrix(found, true)
    common = plain / (1 + plain) * (found_area[:, None] + true_area[None])
    overlaps = divide(common, found_area[:, None] - void[:, None] + true_area[None] - common)
    matched = one_to_one(np.nan_to_num(overlaps), at_least=0.5 + 1e-9)
    alone = np.ones(len(found), np.bool_)
    alone[[d for d, _ in matched]] = False
    invented = int((alone & ~(void > 0.5 * found_area)).sum())
    return float(sum(overlaps[d, g] for d, g in matched)), len(matched), invented, len(true) - len(matched)


@metric(segments, shown=Shown("PQ", places=("leaderboard", "classes", "images")))
def panoptic_quality(overlap: Numbers, matched: Numbers, invented: Numbers, missed: Numbers) -> Numbers:
    """Panoptic quality (Kirillov et al. 2019): segments match above IoU 0.5.

    Equal to the paper's wherever segments do not overlap each other, as it asks for; where they do, the best pairs
    match first. Unknown pixels do not count, and a found segment that lies in them by more than a half is not invented.
    """
    return divide(overlap, matched + 0.5 * invented + 0.5 * missed)


@metric(segments)
def segmentation_quality(overlap: Numbers, matched: Numbers, *_: Numbers) -> Numbers:
    """Mean IoU of the matched segments: the first factor of panoptic quality."""
    return divide(overlap, matched)


@metric(segments)
def recognition_quality(overlap: Numbers, matched: Numbers, invented: Numbers, missed: Numbers) -> Numbers:  # noqa: ARG001
    """F1 of finding segments: the second factor of panoptic quality."""
    return divide(matched, matched + 0.5 * invented + 0.5 * missed)


def one_to_one(overlaps: NDArray[np.float64], *, at_least: float) -> list[tuple[int, int]]:
    """(found, true) pairs, the best overlap first, each row and column once."""
    rows, columns = np.nonzero(overlaps >= at_least)
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    pairs: list[tuple[int, int]] = []
    seen_rows: set[int] = set()
    seen_columns: set[int] = set()
    for k in order:
        d, g = int(rows[k]), int(columns[k])
        if d not in seen_rows and g not in seen_columns:
            pairs.append((d, g))
            seen_rows.add(d)
            seen_columns.add(g)
    return pairs
