"""From encoded bytes and a sample to what a network learns from, and back to the image's own size.

One geometry for every family, the one of SAM (Kirillov et al. 2023): the longest side becomes `image_size`, the rest is
padded on the right and below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from segdist.augment import Augmentation, Donor
from segdist.core import masks
from segdist.core.errors import DataError
from segdist.core.masks import Mask
from segdist.core.plugins import Example, ImageHWC
from segdist.core.records import HUMAN, Instance, Sample
from segdist.reading import images

if TYPE_CHECKING:
    import torch


def decode_image(image_bytes: bytes, *, longest: int | None = None, name: str = "image") -> ImageHWC:
    """The RGB pixels of an encoded image, upright; see `reading.images` for what becomes of other pixels.

    Args:
        image_bytes: in any format that `reading.images` reads.
        longest: when the longest side is needed at this many pixels only, a JPEG is decoded at the nearest eighth
            above it, which is several times quicker; the result may be larger than asked, never smaller.
        name: what the error message calls the image.

    Raises:
        DataError: the bytes are no image, are truncated, or claim too many pixels.
    """
    return images.decode(image_bytes, longest=longest, name=name).image_HWC


def camera_of(image_bytes: bytes) -> str:
    """The camera's make and model from the image's metadata (EXIF); "" where it does not say."""
    try:
        with images.opened(image_bytes) as image:
            exif = image.getexif()
    except DataError:
        return ""
    make, model = (str(exif.get(tag) or "").strip(" \0") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    return model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()


def scaled_size(size_hw: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Height and width after scaling so that the longest side is `image_size`, rounded as segment-anything does."""
    scale = image_size / max(size_hw)
    return max(int(size_hw[0] * scale + 0.5), 1), max(int(size_hw[1] * scale + 0.5), 1)


def letterbox(image_HWC: ImageHWC, image_size: int) -> ImageHWC:
    """The image scaled so that its longest side is `image_size` (antialiased bilinear, as SAM), not yet padded."""
    height, width = scaled_size(image_HWC.shape[:2], image_size)
    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BILINEAR))


def scale_boxes(boxes_xyxy: NDArray[np.float32], size_hw: tuple[int, int], image_size: int) -> NDArray[np.float32]:
    """(N, 4) boxes in pixels of an image of `size_hw`, in pixels of that image after `letterbox`."""
    height, width = scaled_size(size_hw, image_size)
    factor = np.array([width / size_hw[1], height / size_hw[0]] * 2, np.float32)
    return np.asarray(boxes_xyxy, np.float32).reshape(-1, 4) * factor


def pad(array_HW: NDArray[np.generic], image_size: int, *, value: float = 0) -> NDArray[np.generic]:
    """An (H, W) or (H, W, C) array padded right and below to `image_size` x `image_size`."""
    below, right = image_size - array_HW.shape[0], image_size - array_HW.shape[1]
    return np.pad(array_HW, ((0, below), (0, right), *((0, 0),) * (array_HW.ndim - 2)), constant_values=value)


def restore(logits_CHW: torch.Tensor, *, size_hw: tuple[int, int], image_size: int) -> torch.Tensor:
    """Network output over the padded square, brought to the image's own size: (C, *size_hw).

    Args:
        logits_CHW: logits or probabilities over the whole padded square, at any resolution.
        size_hw: the image's own height and width in pixels.
        image_size: side of the square in pixels, as the network saw it.
    """
    from torch.nn.functional import interpolate

    height, width = scaled_size(size_hw, image_size)
    square_1CHW = logits_CHW.float()[None]
    if square_1CHW.shape[-1] != image_size:
        square_1CHW = interpolate(square_1CHW, (image_size, image_size), mode="bilinear", align_corners=False)
    return interpolate(square_1CHW[..., :height, :width], size_hw, mode="bilinear", align_corners=False)[0]


def most_likely(
    scores_Khw: torch.Tensor, *, size_hw: tuple[int, int], image_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pixel's most likely class, as `restore` and a maximum over K would have it, and its score: `size_hw` each.

    One class after the other: all of them at the size of a large image are gigabytes.
    """
    import torch

    best_HW = restore(scores_Khw[:1], size_hw=size_hw, image_size=image_size)[0]
    class_HW = torch.zeros_like(best_HW, dtype=torch.int16)
    for k in range(1, len(scores_Khw)):
        score_HW = restore(scores_Khw[k : k + 1], size_hw=size_hw, image_size=image_size)[0]
        class_HW.masked_fill_(score_HW > best_HW, k)
        best_HW.clamp_(min=score_HW)
    return class_HW, best_HW


def make_example(
    sample: Sample,
    image_bytes: bytes,
    *,
    classes: Sequence[str],
    image_size: int,
    augment: Sequence[Augmentation] = (),
    rng: np.random.Generator,
    donor: Donor | None = None,
    ignore_band: int = 0,
    soft_band: bool = False,
) -> Example:
    """One training image at the network's scale.

    Instances of a label outside `classes` are background. The pixels of crowds and of instances without a mask
    are ignored, except where another instance's mask says what they are.

    Args:
        sample: the truth, in pixels of the image at its own size.
        image_bytes: the encoded image.
        classes: the class names in order.
        image_size: longest side in pixels that the network sees.
        augment: applied in this order.
        rng: what the augmentations draw from.
        donor: gives another image, for augmentations that paste; without it they do nothing.
        ignore_band: pixels at the network's scale on both sides of the mask edges of a pseudo-labelled image that
            are ignored.
        soft_band: what the prompts of a consensus disagreed on is drawn to one side or the other instead of ignored.

    Raises:
        DataError: the image cannot be decoded.
    """
    image_HWC = letterbox(decode_image(image_bytes, longest=image_size, name=sample.image_id), image_size)
    size_hw = image_HWC.shape[:2]
    index = {label: i for i, label in enumerate(classes)}
    known = [i for i in sample.instances if i.label in index]
    learned = [i for i in known if i.mask is not None and not i.is_crowd]
    masks_NHW = [_scaled_mask(i, sample.size_hw, size_hw) for i in learned]
    unknown = [_scaled_mask(i, sample.size_hw, size_hw) for i in known if i.mask is None or i.is_crowd]
    stack_NHW = np.stack(masks_NHW) if masks_NHW else np.zeros((0, *size_hw), np.bool_)
    ignore_HW = np.any(unknown, axis=0) & ~stack_NHW.any(axis=0) if unknown else np.zeros(size_hw, np.bool_)
    for n, instance in enumerate(learned):
        if instance.evidence and instance.evidence.unsure:
            unsure_HW = masks.decode_resized(instance.evidence.unsure, size_hw)
            if soft_band:
                stack_NHW[n] = _drawn(stack_NHW[n], unsure_HW, rng)
            else:
                ignore_HW |= unsure_HW
    if ignore_band and sample.source != HUMAN:
        for mask_HW in masks_NHW:
            ignore_HW |= masks.edge_band(mask_HW, ignore_band)
    boxes_xyxy = np.array([i.box_xyxy for i in learned], np.float32).reshape(-1, 4)
    example = Example(
        image_id=sample.image_id,
        image_HWC=image_HWC,
        labels=np.array([index[i.label] for i in learned], np.int64),
        masks_NHW=stack_NHW,
        boxes_xyxy=scale_boxes(boxes_xyxy, sample.size_hw, image_size),
        scores=np.array([i.score for i in learned], np.float32),
        ignore_HW=ignore_HW,
    )
    for function in augment:
        example = function(example, rng, donor)
    return example


def _drawn(mask_HW: Mask, unsure_HW: Mask, rng: np.random.Generator) -> Mask:
    """The mask without its uncertain edge, as it is, or with all of it: on average the edge is 1/3 outside, 2/3 inside.

    The levels hold each other, as the sets of pixels do that have at least a share of the votes; a loss that is linear
    in its target, such as cross-entropy, expects what the soft label would give it.
    """
    level = int(rng.integers(3))
    if level == 0:
        core_HW = mask_HW & ~unsure_HW
        return core_HW if core_HW.any() else mask_HW
    return mask_HW | unsure_HW if level == 2 else mask_HW


def _scaled_mask(instance: Instance, own_hw: tuple[int, int], size_hw: tuple[int, int]) -> masks.Mask:
    rle = instance.mask or masks.from_box(instance.box_xyxy, size_hw=own_hw)
    return masks.decode_resized(rle, size_hw)
