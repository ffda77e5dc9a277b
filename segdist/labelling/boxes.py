"""Boxes and points of prompts: moved, mirrored, joined."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.core.plugins import ImageHWC, Question
from segdist.core.records import Box, Instance, Prompt, Sample
from segdist.core.spec import View
from segdist.reading.geometry import clip_box


def random_for(sample: Sample, seed: int) -> np.random.Generator:
    """Random numbers that depend on the image and a seed, not on which process asks, nor when."""
    name = hashlib.sha256(f"{seed}:{sample.image_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(name[:8], "little"))


def has_size(box_xyxy: Sequence[float], size_hw: tuple[int, int]) -> bool:
    """Whether any of the box lies in the image, so that there is something to ask for."""
    x1, y1, x2, y2 = clip_box(box_xyxy, size_hw)
    return x2 > x1 and y2 > y1


def seen_from(question: Question, view: View) -> Question:
    """The question about the mirrored, turned or transposed image."""
    if view == "as_is":
        return question
    look = _VIEWS[view]
    height, width = question.sample.size_hw
    boxes = [look.box(i.box_xyxy, (height, width)) for i in question.sample.instances]
    instances = tuple(
        replace(i, box_xyxy=box, mask=None, evidence=None)
        for i, box in zip(question.sample.instances, boxes, strict=True)
    )
    image_HWC = np.ascontiguousarray(look.image(question.image_HWC))
    size_hw = image_HWC.shape[0], image_HWC.shape[1]
    return Question(replace(question.sample, size_hw=size_hw, instances=instances), question.indices, image_HWC)


def seen_back(instance: Instance, view: View, asked: Instance) -> Instance:
    """An answer about the mirrored image, as one about the image as it is; all views are their own inverse."""
    if view == "as_is" or instance.mask is None:
        return replace(instance, box_xyxy=asked.box_xyxy)
    back_HW = _VIEWS[view].mask(masks.decode(instance.mask))
    return replace(instance, mask=masks.encode(back_HW), box_xyxy=asked.box_xyxy)


@dataclass(frozen=True)
class _Look:
    image: Callable[[ImageHWC], ImageHWC]
    mask: Callable[[Mask], Mask]
    box: Callable[[Sequence[float], tuple[int, int]], Box]


def _mirrored(box: Sequence[float], size_hw: tuple[int, int]) -> Box:
    return size_hw[1] - box[2], box[1], size_hw[1] - box[0], box[3]


def _upside_down(box: Sequence[float], size_hw: tuple[int, int]) -> Box:
    return box[0], size_hw[0] - box[3], box[2], size_hw[0] - box[1]


_VIEWS: dict[str, _Look] = {
    "mirrored": _Look(lambda i: i[:, ::-1], lambda m: m[:, ::-1], _mirrored),
    "upside_down": _Look(lambda i: i[::-1], lambda m: m[::-1], _upside_down),
    "turned": _Look(lambda i: i[::-1, ::-1], lambda m: m[::-1, ::-1], lambda b, s: _mirrored(_upside_down(b, s), s)),
    "transposed": _Look(lambda i: i.transpose(1, 0, 2), lambda m: m.T, lambda b, _: (b[1], b[0], b[3], b[2])),
}


def joined(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts about one image as one, so that its image is encoded once; all have boxes, or none has."""
    if len(prompts) == 1:
        return prompts[0]
    with_points = any(p.points_xy for p in prompts)
    counts = [asked_of(p) for p in prompts]
    return Prompt(
        boxes_xyxy=tuple(b for p in prompts for b in p.boxes_xyxy),
        labels=tuple(label for p in prompts for label in p.labels),
        points_xy=_per_object([p.points_xy for p in prompts], counts) if with_points else (),
        point_is_object=_per_object([p.point_is_object for p in prompts], counts) if with_points else (),
    )


def asked_of(prompt: Prompt) -> int:
    """How many masks a prompt asks for; 0 where it asks for whatever there is."""
    return 0 if prompt.text else len(prompt.boxes_xyxy) or len(prompt.points_xy)


def part_of(prompt: Prompt, start: int, stop: int) -> Prompt:
    """The prompt for some of its objects only."""
    fields = ("boxes_xyxy", "labels", "points_xy", "point_is_object")
    return replace(prompt, **{f: getattr(prompt, f)[start:stop] for f in fields})


def _per_object(parts: Sequence[tuple], counts: Sequence[int]) -> tuple:  # type: ignore[type-arg]
    """The points of each object; none for the objects of a prompt without points."""
    return tuple(entry for part, count in zip(parts, counts, strict=True) for entry in (part or ((),) * count))
