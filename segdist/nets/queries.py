"""What families that predict by queries share: objects to targets, and queries to instances at an image's own size.

Shapes: Q queries, C classes without "no object", N instances, h w of the predicted masks, H W the image's own size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from segdist.core import masks
from segdist.core.plugins import Batch, Example
from segdist.core.records import Instance, Rle
from segdist.core.spec import NoiseSpec
from segdist.nets.collate import crowds, ignored, instance_smoothing, instance_weights, padded_masks
from segdist.reading.examples import restore

MOST_INSTANCES = 100
"""Instances kept of one image, the best (Cheng et al. 2022, appendix; COCO scores no more)."""
LEAST_SCORE = 0.05
"""Instances scored lower are left out, as Mask R-CNN does: most queries find nothing."""
_PIXELS_AT_ONCE = 2**24
"""Pixels of masks brought to an image's own size at once: 100 masks of a 12-megapixel photo would take 5 GB."""


def instances_of_queries(
    scores_QC: Tensor,
    masks_Qhw: Tensor,
    *,
    classes: Sequence[str],
    size_hw: tuple[int, int],
    image_size: int,
    weigh_by_mask: bool,
) -> tuple[Instance, ...]:
    """Pairs of query and class, best first: at most 100, each scored at least 0.05, none with an empty mask.

    Args:
        scores_QC: probability of each class, "no object" left out.
        masks_Qhw: mask logits over the padded square.
        classes: the class names.
        size_hw: the image's own height and width.
        image_size: side of the padded square in pixels.
        weigh_by_mask: multiply each score by the mean probability inside the mask (Mask2Former, section 4.1).
    """
    scores, chosen = scores_QC.flatten().topk(min(MOST_INSTANCES, scores_QC.numel()))
    likely = scores >= LEAST_SCORE
    queries, labels = chosen[likely] // len(classes), chosen[likely] % len(classes)
    found = dict(_masks(masks_Qhw, sorted(set(queries.tolist())), size_hw, image_size))
    instances = []
    for query, label, score in zip(queries.tolist(), labels.tolist(), scores[likely].tolist(), strict=True):
        mask, certainty = found[query]
        total = score * certainty if weigh_by_mask else score
        if mask.area and total >= LEAST_SCORE:
            instances.append(Instance(classes[label], mask, mask.box_xyxy, total))
    return tuple(sorted(instances, key=lambda i: -i.score))


def without_empty(example: Example) -> Example:
    """The example without objects of which augmentation or scaling left no pixel; an empty mask would teach a class."""
    kept = np.any(example.masks_NHW, axis=(1, 2))
    if kept.all():
        return example
    return replace(
        example,
        labels=example.labels[kept],
        masks_NHW=example.masks_NHW[kept],
        boxes_xyxy=example.boxes_xyxy[kept],
        scores=example.scores[kept],
    )


def object_targets(examples: Sequence[Example], image_size: int, noise: NoiseSpec) -> Batch:
    """What a batch teaches about its objects, one by one.

    Returns:
        For each image its objects' `labels` (N,), `masks` (N, S, S), `weights` (N,) and `smoothing` (N,); for all
        images the pixels `ignored_BSS` and `crowd_BSS`.
    """
    return {
        "labels": [torch.from_numpy(e.labels) for e in examples],
        "masks": [padded_masks(e, image_size) for e in examples],
        "weights": [instance_weights(e, noise) for e in examples],
        "smoothing": [instance_smoothing(e, noise) for e in examples],
        "ignored_BSS": ignored(examples, image_size),
        "crowd_BSS": crowds(examples, image_size),
    }


def _masks(
    masks_Qhw: Tensor, queries: Sequence[int], size_hw: tuple[int, int], image_size: int
) -> Iterator[tuple[int, tuple[Rle, float]]]:
    """Each query's mask at the image's own size, and the mean probability inside it."""
    at_once = max(_PIXELS_AT_ONCE // (size_hw[0] * size_hw[1]), 1)
    for start in range(0, len(queries), at_once):
        some = list(queries[start : start + at_once])
        logits_NHW = restore(masks_Qhw[some], size_hw=size_hw, image_size=image_size)
        inside_NHW = logits_NHW > 0
        certainty_N = (logits_NHW.sigmoid() * inside_NHW).sum((1, 2)) / inside_NHW.sum((1, 2)).clamp(min=1)
        rles = masks.encode_many(inside_NHW.cpu().numpy())
        yield from zip(some, zip(rles, certainty_N.tolist(), strict=True), strict=True)
