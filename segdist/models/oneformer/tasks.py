"""The three tasks: what objects mean in each of them, and what is made of the queries' answers.

Shapes: Q queries, C classes, h w of the predicted masks, H W the image's own size.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from segdist.core import masks
from segdist.core.plugins import Example
from segdist.core.records import Instance
from segdist.nets.semantic import regions
from segdist.reading.examples import most_likely

_LEAST_LEFT = 0.5
"""Share of a mask that better ones must leave over, or it is dropped (Kirillov et al. 2019, panoptic segmentation)."""


def merged(example: Example, one_region: Sequence[int]) -> Example:
    """The example with the objects of each of these classes united to one; its score is the mean by area."""
    single = ~np.isin(example.labels, one_region)
    parts = [(example.masks_NHW[single], example.labels[single], example.boxes_xyxy[single], example.scores[single])]
    for label in sorted(set(example.labels[~single].tolist())):
        mine = example.labels == label
        areas = example.masks_NHW[mine].sum(axis=(1, 2)).astype(np.float32)
        boxes = example.boxes_xyxy[mine]
        hull = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        score = np.float32(np.average(example.scores[mine], weights=areas + 1e-6))
        parts.append(
            (example.masks_NHW[mine].any(axis=0)[None], np.array([label]), hull[None], np.array([score], np.float32))
        )
    masks_NHW, labels, boxes_xyxy, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return replace(example, masks_NHW=masks_NHW, labels=labels, boxes_xyxy=boxes_xyxy, scores=scores)


def semantic(
    scores_QC: Tensor, masks_Qhw: Tensor, *, classes: Sequence[str], size_hw: tuple[int, int], image_size: int
) -> tuple[Instance, ...]:
    """One region a class: each pixel's most likely class by the sum over queries of class and mask probability.

    That is MaskFormer's semantic inference (Cheng et al. 2021, section 3.4); a pixel whose most likely class has less
    than a half is background, which theirs does not have.
    """
    likely_Chw = torch.einsum("qc,qhw->chw", scores_QC, masks_Qhw.sigmoid())
    class_HW, best_HW = most_likely(likely_Chw, size_hw=size_hw, image_size=image_size)
    class_HW = torch.where(best_HW >= 0.5, class_HW + 1, 0)
    return regions(class_HW, best_HW.clamp(max=1), classes=classes)


def panoptic(instances: Sequence[Instance], *, stuff: Sequence[str]) -> tuple[Instance, ...]:
    """Instances, best first, without overlaps: a pixel belongs to the best that claims it; stuff is one region each."""
    taken: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None = None
    kept: list[Instance] = []
    for instance in instances:
        assert instance.mask is not None
        mask_HW = masks.decode(instance.mask)
        free_HW = mask_HW if taken is None else mask_HW & ~taken
        if free_HW.sum() < _LEAST_LEFT * mask_HW.sum():
            continue
        taken = mask_HW if taken is None else taken | mask_HW
        rle = masks.encode(free_HW)
        kept.append(replace(instance, mask=rle, box_xyxy=rle.box_xyxy))
    return tuple(_united(kept, stuff))


def _united(instances: Sequence[Instance], stuff: Sequence[str]) -> list[Instance]:
    """The same with one region for each class of stuff, scored as its best part."""
    found = [i for i in instances if i.label not in stuff]
    for label in stuff:
        parts = [i for i in instances if i.label == label]
        if parts:
            size_hw = parts[0].mask.size_hw  # type: ignore[union-attr]  # every part has a mask
            rle = masks.union([i.mask for i in parts if i.mask], size_hw=size_hw)
            found.append(Instance(label, rle, rle.box_xyxy, max(i.score for i in parts)))
    return sorted(found, key=lambda i: -i.score)
