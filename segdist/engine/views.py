"""Test-time augmentation: several views of an image are predicted, and what is found in them votes.

A view is undone on the masks it gave. What the views found of a region, or of a box of the prompt, belongs together by
its class or number; objects by their overlap. A pixel belongs to an object if views with at least half of the members'
scores say so; the object's score is the mean over all views, those that missed it counting 0.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.core.spec import TtaView
from segdist.metrics.matching import overlap_matrix
from segdist.metrics.objects import one_to_one

PredictImages = Callable[[Sequence[ImageHWC], Sequence[Prompt]], list[tuple[Instance, ...]]]
SAME = 0.5
"""IoU from which on objects of two views are the same one."""
DARKER, BRIGHTER = 1.5, 1 / 1.5
"""Gamma of the views of another brightness."""


@dataclass(frozen=True)
class TtaTransform:
    """How a view is made, and undone: mirrored along the image's axes, with a gamma."""

    down: bool = False
    across: bool = False
    gamma: float = 1.0

    def image(self, image_HWC: ImageHWC) -> ImageHWC:
        """The image as this view shows it."""
        step_y, step_x = (-1 if flipped else 1 for flipped in (self.down, self.across))
        mirrored_HWC = np.ascontiguousarray(image_HWC[::step_y, ::step_x])
        if self.gamma == 1.0:
            return mirrored_HWC
        table = np.round(255 * (np.arange(256) / 255) ** self.gamma).astype(np.uint8)
        return np.asarray(table[mirrored_HWC])

    def mask(self, mask_HW: Mask) -> Mask:
        """Mirroring undoes itself."""
        return mask_HW[:: -1 if self.down else 1, :: -1 if self.across else 1]

    def prompt(self, prompt: Prompt, size_hw: tuple[int, int]) -> Prompt:
        """The prompt where this view shows it; `size_hw` is the image's."""
        height, width = size_hw
        boxes = []
        for x1, y1, x2, y2 in prompt.boxes_xyxy:
            xs = (width - x2, width - x1) if self.across else (x1, x2)
            ys = (height - y2, height - y1) if self.down else (y1, y2)
            boxes.append((xs[0], ys[0], xs[1], ys[1]))
        points = tuple(
            tuple((width - x if self.across else x, height - y if self.down else y) for x, y in of_one)
            for of_one in prompt.points_xy
        )
        return replace(prompt, boxes_xyxy=tuple(boxes), points_xy=points)


_TRANSFORMS: Mapping[TtaView, TtaTransform] = {
    "flip": TtaTransform(across=True),
    "flip_vertical": TtaTransform(down=True),
    "rotate_180": TtaTransform(down=True, across=True),
    "darker": TtaTransform(gamma=DARKER),
    "brighter": TtaTransform(gamma=BRIGHTER),
}


def predict_views(
    predict: PredictImages, views: Sequence[TtaView], *, region_classes: Collection[str] = ()
) -> PredictImages:
    """`predict` with test-time augmentation around it.

    Args:
        predict: of a network.
        views: beside the image itself.
        region_classes: classes of which there is one region an image.
    """
    transforms = [TtaTransform(), *(_TRANSFORMS[view] for view in views)]

    def voted(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        found: list[list[tuple[Instance, ...]]] = [[] for _ in images]
        for transform in transforms:
            shown = [transform.prompt(prompt, size_hw) for prompt, size_hw in zip(prompts, sizes, strict=True)]
            for of_image, instances in zip(found, predict([transform.image(i) for i in images], shown), strict=True):
                of_image.append(tuple(_undone(instance, transform) for instance in instances))
        return [
            _merged(of_image, region_classes, size_hw=size_hw, by_number=bool(prompt.boxes_xyxy or prompt.points_xy))
            for of_image, size_hw, prompt in zip(found, sizes, prompts, strict=True)
        ]

    return voted


def _undone(instance: Instance, transform: TtaTransform) -> Instance:
    assert instance.mask is not None
    if not (transform.down or transform.across):
        return instance
    rle = masks.encode(transform.mask(masks.decode(instance.mask)))
    return replace(instance, mask=rle, box_xyxy=rle.box_xyxy)


def _merged(
    views: Sequence[Sequence[Instance]], region_classes: Collection[str], *, size_hw: tuple[int, int], by_number: bool
) -> tuple[Instance, ...]:
    """One image's instances from those of its views."""
    if by_number:
        return tuple(_vote(members, len(views), size_hw)[0] for members in zip(*views, strict=True))
    regions = [_vote(members, len(views), size_hw) for members in _by_class(views, region_classes)]
    objects = [_vote(members, len(views), size_hw)[0] for members in _by_overlap(views, region_classes)]
    merged = [*objects, *_without_overlaps(regions)]
    return tuple(sorted((i for i in merged if i.mask and i.mask.area), key=lambda i: -i.score))


def _vote(members: Sequence[Instance], views: int, size_hw: tuple[int, int]) -> tuple[Instance, np.ndarray]:
    """The instance that the views agree on, and each pixel's share of the votes."""
    votes_HW = np.zeros(size_hw, np.float32)
    for member in members:
        assert member.mask is not None
        votes_HW += masks.decode(member.mask) * np.float32(max(member.score, 1e-6))
    votes_HW /= sum(max(m.score, 1e-6) for m in members)
    rle = masks.encode(votes_HW >= 0.5 - 1e-6)
    score = sum(m.score for m in members) / views
    box_xyxy = rle.box_xyxy if rle.area else members[0].box_xyxy
    return replace(members[0], mask=rle, box_xyxy=box_xyxy, score=score), votes_HW * np.float32(score)


def _without_overlaps(regions: Sequence[tuple[Instance, np.ndarray]]) -> list[Instance]:
    """Each pixel that several regions claim goes to the one with the most votes; the first among equals."""
    if len(regions) < 2:
        return [instance for instance, _ in regions]
    winner_HW = np.argmax(np.stack([votes_HW for _, votes_HW in regions]), axis=0)
    kept = []
    for number, (instance, _) in enumerate(regions):
        assert instance.mask is not None
        rle = masks.encode(masks.decode(instance.mask) & (winner_HW == number))
        kept.append(replace(instance, mask=rle, box_xyxy=rle.box_xyxy))
    return kept


def _by_class(views: Sequence[Sequence[Instance]], region_classes: Collection[str]) -> list[list[Instance]]:
    groups: dict[str, list[Instance]] = {}
    for instance in (i for found in views for i in found if i.label in region_classes):
        groups.setdefault(instance.label, []).append(instance)
    return list(groups.values())


def _by_overlap(views: Sequence[Sequence[Instance]], region_classes: Collection[str]) -> list[list[Instance]]:
    """Objects of one label that overlap; each view adds at most one member to an object."""
    groups: list[list[Instance]] = []
    for found in views:
        objects = [i for i in found if i.label not in region_classes]
        for label in dict.fromkeys(i.label for i in objects):
            new = [i for i in objects if i.label == label]
            known = [group for group in groups if group[0].label == label]
            overlaps = overlap_matrix(
                [i.mask for i in new if i.mask is not None], [g[0].mask for g in known if g[0].mask is not None]
            )
            pairs = dict(one_to_one(overlaps, at_least=SAME))
            for number, instance in enumerate(new):
                if number in pairs:
                    known[pairs[number]].append(instance)
                else:
                    groups.append([instance])
    return groups
