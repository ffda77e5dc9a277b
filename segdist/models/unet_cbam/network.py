"""The U-Net (Ronneberger et al. 2015) on residual blocks (He et al. 2016) with CBAM (Woo et al. 2018).

Shapes: B images, C channels, K classes with background, H and W pixels.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from segdist.models.unet_cbam import SCRATCH, Options
from segdist.models.unet_cbam.backbone import Backbone
from segdist.nets.collate import ChannelValues
from segdist.nets.semantic import SemanticSegmenter


def build(options: Options, classes: tuple[str, ...]) -> "UnetCbam":
    """The network, with random weights but for a pretrained backbone.

    Raises:
        SpecError: timm is not installed.
        WeightsError: the backbone or its weights cannot be had.
    """
    return UnetCbam(options, classes)


class UnetCbam(SemanticSegmenter):
    """One class, or background, for each pixel."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        self.encoder: nn.Module
        self.stem: nn.Module | None = None
        if options.backbone == SCRATCH:
            channels = [options.width * 2**level for level in range(options.depth + 1)]
            self.encoder = _Encoder(channels)
        else:
            self.encoder = backbone = Backbone(options)
            channels = backbone.channels
            if options.full_resolution:
                self.stem = _Block(3, options.width)
                channels = [options.width, *channels]
        self.decoder = _Decoder(channels)
        self.head = nn.Conv2d(channels[0], len(classes) + 1, kernel_size=1)
        if isinstance(self.encoder, Backbone):
            self.to(memory_format=self.encoder.layout)  # type: ignore[call-overload]  # torch's stubs lack it

    @property
    def colours(self) -> tuple[ChannelValues, ChannelValues]:
        """Those that the backbone was trained with, otherwise those of ImageNet."""
        return (self.encoder.mean, self.encoder.std) if isinstance(self.encoder, Backbone) else super().colours

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """(B, K, H / s, W / s), background first; the stride s is 1 but without features at full resolution."""
        if isinstance(self.encoder, Backbone):
            images_BCHW = images_BCHW.contiguous(memory_format=self.encoder.layout)
        features = self.encoder(images_BCHW)
        if self.stem is not None:
            features = [self.stem(images_BCHW), *features]
        logits_BKHW: Tensor = self.head(self.decoder(features))
        return logits_BKHW


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
        # The gradient of `max` goes to one place; that of `amax` is shared among equals: a sixth of a training step.
        mean_BC, peak_BC = x_BCHW.mean((2, 3)), x_BCHW.flatten(2).max(2).values
        channel_BC = torch.sigmoid(sum(self.excite(relu(self.squeeze(v_BC))) for v_BC in (mean_BC, peak_BC)))
        x_BCHW = x_BCHW * channel_BC[:, :, None, None]
        spatial_B2HW = torch.cat([x_BCHW.mean(1, keepdim=True), x_BCHW.max(1, keepdim=True).values], dim=1)
        return x_BCHW * torch.sigmoid(self.where(spatial_B2HW))
