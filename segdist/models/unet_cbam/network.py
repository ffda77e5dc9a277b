"""The U-Net (Ronneberger et al. 2015) on residual blocks (He et al. 2016) with CBAM (Woo et al. 2018).

Shapes: B images, C channels, K classes with background, H and W pixels.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from segdist import losses
from segdist.data.collate import class_maps, ignored, stack_images
from segdist.data.examples import letterbox, restore
from segdist.masks import instances_from_classes
from segdist.models.unet_cbam import Options
from segdist.plugins import Batch, Example, ImageHWC
from segdist.records import Instance, Prompt


def build(options: Options, classes: tuple[str, ...]) -> "UnetCbam":
    """The network with random weights."""
    return UnetCbam(options, classes)


class UnetCbam(nn.Module):
    """One class, or background, for each pixel."""

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.options, self.classes = options, classes
        channels = [options.width * 2**level for level in range(options.depth + 1)]
        self.encoder = _Encoder(channels)
        self.decoder = _Decoder(channels)
        self.head = nn.Conv2d(channels[0], len(classes) + 1, kernel_size=1)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Images, class maps and ignored pixels."""
        size = self.options.image_size
        return {
            "images": stack_images([e.image_HWC for e in examples], size),
            "target": class_maps(examples, size),
            "ignore": ignored(examples, size),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of a batch."""
        logits_BKHW = self.logits(batch["images"])
        target_BHW, ignore_BHW = batch["target"], batch["ignore"]
        return {
            "cross_entropy": losses.cross_entropy(logits_BKHW, target_BHW, ignore_BHW=ignore_BHW),
            "dice": losses.class_dice(logits_BKHW, target_BHW, ignore_BHW=ignore_BHW),
            "focal": losses.focal(logits_BKHW, target_BHW, ignore_BHW=ignore_BHW),
        }

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """(B, K, H, W), background first."""
        logits_BKHW: Tensor = self.head(self.decoder(self.encoder(images_BCHW)))
        return logits_BKHW

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:  # noqa: ARG002
        """One instance a class and image; prompts tell it nothing."""
        size = self.options.image_size
        square_BCHW = stack_images([letterbox(i, size) for i in images], size)
        scores_BKHW = self.logits(square_BCHW.to(self.head.weight.device)).softmax(1)
        return [
            self._instances(restore(scores_KHW, size_hw=image.shape[:2], image_size=size))
            for scores_KHW, image in zip(scores_BKHW, images, strict=True)
        ]

    def _instances(self, scores_KHW: Tensor) -> tuple[Instance, ...]:
        classes_HW = scores_KHW.argmax(0).cpu().numpy()
        return instances_from_classes(classes_HW, scores_KHW[1:].float().cpu().numpy(), classes=self.classes)


class _Encoder(nn.Module):
    """Features at every level, the finest first."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.stem = _Block(3, channels[0])
        self.levels = nn.ModuleList(_Block(a, b, stride=2) for a, b in pairwise(channels))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        features = [self.stem(images_BCHW)]
        for level in self.levels:
            features.append(level(features[-1]))
        return features


class _Decoder(nn.Module):
    """From the coarsest level back up, joined at each with the encoder's features."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_Block(fine + coarse, fine) for fine, coarse in reversed(list(pairwise(channels))))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *finer, x_BCHW = features
        for level, skip_BCHW in zip(self.levels, reversed(finer), strict=True):
            larger_BCHW = interpolate(x_BCHW, skip_BCHW.shape[2:], mode="bilinear", align_corners=False)
            x_BCHW = level(torch.cat([skip_BCHW, larger_BCHW], dim=1))
        return x_BCHW


class _Block(nn.Module):
    """Two 3 x 3 convolutions with attention, around a shortcut."""

    def __init__(self, before: int, after: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, after)
        self.attention = _Cbam(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = relu(self.norm1(self.conv1(x_BCHW)))
        y_BCHW = self.attention(self.norm2(self.conv2(y_BCHW)))
        return relu(y_BCHW + self.shortcut(x_BCHW))


class _Cbam(nn.Module):
    """Convolutional Block Attention Module (Woo et al. 2018): first which channels count, then where."""

    def __init__(self, channels: int, *, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.where = nn.Conv2d(2, 1, kernel_size=7, padding=3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean_BC, peak_BC = x_BCHW.mean((2, 3)), x_BCHW.amax((2, 3))
        channel_BC = torch.sigmoid(sum(self.excite(relu(self.squeeze(v_BC))) for v_BC in (mean_BC, peak_BC)))
        x_BCHW = x_BCHW * channel_BC[:, :, None, None]
        spatial_B2HW = torch.cat([x_BCHW.mean(1, keepdim=True), x_BCHW.amax(1, keepdim=True)], dim=1)
        return x_BCHW * torch.sigmoid(self.where(spatial_B2HW))
