"""Masks that a teacher found on its own, and the boxes that asked for one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from segdist.core import masks
from segdist.core.records import Instance
from segdist.metrics.matching import box_matrix, overlap_matrix

LEAST_BOX_IOU = 0.3
"""A found object whose box overlaps an annotated one less is another object."""


def distinct(found: Sequence[Instance], *, max_overlap: float) -> list[Instance]:
    """The found objects, best first, without those that overlap a better one by a mask IoU above `max_overlap`."""
    order = sorted((i for i in found if i.mask is not None and i.mask.area), key=lambda i: -i.score)
    rles = [i.mask for i in order if i.mask is not None]
    overlaps = overlap_matrix(rles, rles)
    kept: list[int] = []
    for k in range(len(order)):
        if not kept or overlaps[k, kept].max() <= max_overlap:
            kept.append(k)
    return [order[k] for k in kept]


def assigned(asked: Sequence[Instance], found: Sequence[Instance]) -> list[Instance]:
    """For each instance asked for the found object whose box fits best, each given once; no mask where none fits.

    Pairs are made in order of their box IoU, the best first; below `LEAST_BOX_IOU` none is.
    """
    with_mask = [i for i in found if i.mask is not None]
    tight = [replace(i, box_xyxy=i.mask.box_xyxy) for i in with_mask if i.mask is not None]
    overlaps = box_matrix(tight, asked)
    answers = [nothing(i) for i in asked]
    given: set[int] = set()
    filled: set[int] = set()
    for flat in np.argsort(-overlaps, axis=None, kind="stable").tolist():
        d, g = divmod(flat, len(asked))
        if overlaps[d, g] < LEAST_BOX_IOU:
            break
        if d not in given and g not in filled:
            given.add(d)
            filled.add(g)
            answers[g] = replace(with_mask[d], label=asked[g].label, box_xyxy=asked[g].box_xyxy)
    return answers


def assigned_by_label(
    asked: Sequence[Instance], answers: Sequence[Sequence[Instance]], *, max_overlap: float
) -> list[Sequence[Instance]]:
    """For each instance asked for, what fits it best of the answers to the question for its label.

    Args:
        asked: the instances.
        answers: what was found for each of their labels, in alphabetical order.
        max_overlap: of two found objects of a label with a larger IoU the one of the lower score is left out.
    """
    given = list(asked)
    for label, found in zip(sorted({i.label for i in asked}), answers, strict=True):
        places = [k for k, i in enumerate(asked) if i.label == label]
        taken = assigned([asked[k] for k in places], distinct(found, max_overlap=max_overlap))
        for k, instance in zip(places, taken, strict=True):
            given[k] = instance
    return [given] if asked else []


def inside_box(instance: Instance, asked: Instance, *, margin: float = 0.0) -> Instance:
    """What of a found object lies in the box that was asked for, widened by a share of its sides."""
    if instance.mask is None:
        return instance
    x1, y1, x2, y2 = asked.box_xyxy
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    box = masks.from_box((x1 - dx, y1 - dy, x2 + dx, y2 + dy), size_hw=instance.mask.size_hw)
    return Instance(
        asked.label, masks.intersection(instance.mask, box), asked.box_xyxy, instance.score, evidence=instance.evidence
    )


def nothing(asked: Instance) -> Instance:
    """The answer of a teacher that found nothing."""
    return Instance(asked.label, None, asked.box_xyxy, score=0.0)
