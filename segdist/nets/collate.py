"""Examples to tensors: what every family's `collate` has in common.

Shapes: B images of S x S pixels, C channels, N masks of one image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.spec import NoiseSpec
from segdist.reading.examples import pad

ChannelValues = tuple[float, float, float]
IMAGENET_MEAN: ChannelValues = (123.675, 116.28, 103.53)
IMAGENET_STD: ChannelValues = (58.395, 57.12, 57.375)


def stack_images(
    images: Sequence[ImageHWC],
    image_size: int,
    *,
    mean: ChannelValues = IMAGENET_MEAN,
    std: ChannelValues = IMAGENET_STD,
) -> Tensor:
    """(B, 3, S, S) images at the network's scale, normalised, then padded with zeros right and below, as SAM does.

    Args:
        images: RGB, 0..255, with sides of at most `image_size`: examples, or images after `letterbox`.
        image_size: S, the side of the square.
        mean: of each channel, in 0..255.
        std: of each channel, in 0..255.
    """
    shift, factor = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    batch_BHWC = np.zeros((len(images), image_size, image_size, 3), np.float32)
    for square_HWC, image_HWC in zip(batch_BHWC, images, strict=True):
        height, width = image_HWC.shape[:2]
        square_HWC[:height, :width] = (image_HWC - shift) / factor
    return torch.from_numpy(np.ascontiguousarray(batch_BHWC.transpose(0, 3, 1, 2)))


def ignored(examples: Sequence[Example], image_size: int) -> Tensor:
    """(B, S, S) True where a pixel is ignored: unknown regions, and the padding."""
    return torch.from_numpy(np.stack([pad(e.ignore_HW, image_size, value=True) for e in examples]))


def crowds(examples: Sequence[Example], image_size: int) -> Tensor:
    """(B, S, S) True where the image is unknown: crowds, boxes without a mask; the padding is not."""
    return torch.from_numpy(np.stack([pad(e.ignore_HW, image_size) for e in examples]))


def centred_boxes(example: Example, image_size: int) -> Tensor:
    """(N, 4) boxes as centre and sides, as shares of the square's side."""
    from torchvision.ops import box_convert  # takes a second to import, and few families ask for boxes

    boxes: Tensor = box_convert(torch.from_numpy(example.boxes_xyxy / image_size).float(), "xyxy", "cxcywh")
    return boxes


def padded_masks(example: Example, image_size: int) -> Tensor:
    """(N, S, S) the masks of one image, False in the padding."""
    padded_NHW = np.zeros((len(example.masks_NHW), image_size, image_size), np.bool_)
    height, width = example.ignore_HW.shape
    padded_NHW[:, :height, :width] = example.masks_NHW
    return torch.from_numpy(padded_NHW)


def class_maps(examples: Sequence[Example], image_size: int) -> Tensor:
    """(B, S, S) class index of each pixel, 0 background, k the class `k - 1`; the smallest of overlapping masks."""
    maps_BHW = np.zeros((len(examples), image_size, image_size), np.int64)
    for map_HW, example in zip(maps_BHW, examples, strict=True):
        _paint(map_HW, example, example.labels + 1)
    return torch.from_numpy(maps_BHW)


def score_maps(examples: Sequence[Example], image_size: int) -> Tensor:
    """(B, S, S) the score of the instance that `class_maps` shows at each pixel; 1 on background."""
    maps_BHW = np.ones((len(examples), image_size, image_size), np.float32)
    for map_HW, example in zip(maps_BHW, examples, strict=True):
        _paint(map_HW, example, example.scores)
    return torch.from_numpy(maps_BHW)


def certainty(examples: Sequence[Example], image_size: int, noise: NoiseSpec) -> dict[str, Tensor]:
    """How sure the labels of a class map are, for losses by pixel; only what the options ask for.

    Returns:
        `weight`: (B, S, S) how much each pixel counts, `weight_BHW` of the losses. `smoothing`: (B, S, S) the share of
        its truth that is spread over all classes, `smoothing_BHW`.
    """
    found: dict[str, Tensor] = {}
    score_BHW = score_maps(examples, image_size)
    if noise.score_power:
        found["weight"] = score_BHW**noise.score_power
    if noise.soft_targets:
        found["smoothing"] = (1 - score_BHW).clamp(min=noise.label_smoothing)
    elif noise.label_smoothing:
        found["smoothing"] = torch.full_like(score_BHW, noise.label_smoothing)
    return found


def instance_smoothing(example: Example, noise: NoiseSpec) -> Tensor:
    """(N,) the share of each instance's truth that is spread: what is less sure than the options allow."""
    unsure_N = 1 - torch.from_numpy(example.scores) if noise.soft_targets else torch.zeros(len(example.scores))
    return unsure_N.clamp(min=noise.label_smoothing)


def instance_weights(example: Example, noise: NoiseSpec) -> Tensor:
    """(N,) how much each instance counts, for losses by mask: `weights_N` of `losses.mean_or_zero`."""
    return torch.from_numpy(example.scores) ** noise.score_power


def _paint(map_HW: NDArray[np.generic], example: Example, values: NDArray[Any]) -> None:
    """Write one value an instance into a map, small ones over large ones."""
    height, width = example.ignore_HW.shape
    for n in np.argsort(-example.masks_NHW.sum(axis=(1, 2)), kind="stable"):
        map_HW[:height, :width][example.masks_NHW[n]] = values[n]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors, and those in lists, tuples and mappings inside it, on the device."""

    def move(value: object) -> object:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, dict):
            return {name: move(one) for name, one in value.items()}
        if not isinstance(value, list | tuple):
            return value
        make: Callable[..., object] = type(value)
        is_named = hasattr(value, "_make")
        return make(*map(move, value)) if is_named else make(map(move, value))

    return {name: move(value) for name, value in batch.items()}
