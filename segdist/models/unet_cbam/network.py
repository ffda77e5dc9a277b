"""The U-Net (Ronneberger et al. 2015) on residual blocks (He et al. 2016) with CBAM (Woo et al. 2018).

Shapes: B images, C channels, K classes with background, H and W pixels.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from segdist import losses
from segdist.core.masks import instances_from_classes
from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.models.unet_cbam import SCRATCH, Options
from segdist.models.unet_cbam.backbone import Backbone
from segdist.nets.collate import IMAGENET_MEAN, IMAGENET_STD, certainty, class_maps, ignored, stack_images
from segdist.nets.segmenter import Traceable
from segdist.reading.examples import letterbox, most_likely

_ALWAYS = ("cross_entropy", "dice", "focal")
"""Terms that cost next to nothing: computed and reported also without a weight."""


def build(options: Options, classes: tuple[str, ...]) -> "UnetCbam":
    """The network, with random weights but for a pretrained backbone.

    Raises:
        SpecError: timm is not installed.
        WeightsError: the backbone or its weights cannot be had.
    """
    return UnetCbam(options, classes)


class UnetCbam(Traceable):
    """One class, or background, for each pixel."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        self.encoder: nn.Module
        self.stem: nn.Module | None = None
        self.colours = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        if options.backbone == SCRATCH:
            channels = [options.width * 2**level for level in range(options.depth + 1)]
            self.encoder = _Encoder(channels)
        else:
            self.encoder = backbone = Backbone(options)
            self.colours = {"mean": backbone.mean, "std": backbone.std}
            # The finest features of a backbone are half the size of the image or less; thin structures need all of it.
            self.stem = _Block(3, options.width)
            channels = [options.width, *backbone.channels]
        self.decoder = _Decoder(channels)
        self.head = nn.Conv2d(channels[0], len(classes) + 1, kernel_size=1)

    @property
    def region_classes(self) -> tuple[str, ...]:
        """All of them."""
        return self.classes

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Images, class maps, ignored pixels, how sure the labels are, and distances to edges where a loss needs them.

        Distances are computed here, because here the workers that decode images share the work.
        """
        size = self.options.image_size
        target_BHW = class_maps(examples, size)
        batch = {
            "images": stack_images([e.image_HWC for e in examples], size, **self.colours),
            "target": target_BHW,
            "ignore": ignored(examples, size),
            **certainty(examples, size, self.objective.noise),
        }
        if self.objective.wants("boundary") or self.objective.wants("edge"):
            of_class = [losses.signed_distance(target_BHW == k) for k in range(1, len(self.classes) + 1)]
            batch["distance"] = torch.stack(of_class, dim=1)
        return batch

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of a batch: those that have a weight, and those that cost next to nothing."""
        terms = self._terms(self.logits(batch["images"]), batch)
        return {name: term() for name, term in terms.items() if name in _ALWAYS or self.objective.wants(name)}

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """(B, K, H, W), background first."""
        features = self.encoder(images_BCHW)
        if self.stem is not None:
            features = [self.stem(images_BCHW), *features]
        logits_BKHW: Tensor = self.head(self.decoder(features))
        return logits_BKHW

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:  # noqa: ARG002
        """One instance a class and image; prompts tell it nothing."""
        return self.found(self.outputs(self.pixels(images).to(self.head.weight.device)), images)

    def pixels(self, images: Sequence[ImageHWC]) -> Tensor:
        """(B, 3, S, S) as the network sees them."""
        size = self.options.image_size
        return stack_images([letterbox(i, size) for i in images], size, **self.colours)

    def outputs(self, pixels_B3SS: Tensor) -> tuple[Tensor]:
        """Probabilities (B, K, S, S), background first."""
        return (self.logits(pixels_B3SS).softmax(1),)

    def found(self, outputs: Sequence[Tensor], images: Sequence[ImageHWC]) -> list[tuple[Instance, ...]]:
        """One instance a class and image."""
        return [self._instances(scores, image.shape[:2]) for scores, image in zip(outputs[0], images, strict=True)]

    def _terms(self, logits_BKHW: Tensor, batch: Batch) -> dict[str, Callable[[], Tensor]]:
        target_BHW, options = batch["target"], self.objective.options
        ignore: dict[str, Any] = {"ignore_BHW": batch["ignore"]}
        weighted = {**ignore, "weight_BHW": batch.get("weight")}
        balanced = {**weighted, "class_weights_K": self._class_weights(logits_BKHW)}
        edges: dict[str, Any] = {"edge_weight": options.edge_weight, "sigma": options.edge_sigma}
        tversky: dict[str, Any] = {"alpha": options.tversky_alpha, "beta": options.tversky_beta}
        smoothing = batch.get("smoothing")
        return {
            "cross_entropy": lambda: losses.cross_entropy(logits_BKHW, target_BHW, **balanced, smoothing_BHW=smoothing),
            "dice": lambda: losses.class_dice(logits_BKHW, target_BHW, **weighted),
            "focal": lambda: losses.focal(logits_BKHW, target_BHW, **balanced, gamma=options.focal_gamma),
            "tversky": lambda: losses.class_tversky(logits_BKHW, target_BHW, **weighted, **tversky),
            "lovasz": lambda: losses.class_lovasz(logits_BKHW, target_BHW, **ignore),
            "boundary": lambda: losses.class_boundary(logits_BKHW, batch["distance"], **ignore),
            "edge": lambda: losses.class_edge_bce(logits_BKHW, target_BHW, batch["distance"], **ignore, **edges),
        }

    def _class_weights(self, like: Tensor) -> Tensor | None:
        weights = self.objective.class_weights
        return torch.tensor(weights, device=like.device) if weights else None

    def _instances(self, scores_Khw: Tensor, size_hw: tuple[int, int]) -> tuple[Instance, ...]:
        class_HW, score_HW = most_likely(scores_Khw, size_hw=size_hw, image_size=self.options.image_size)
        scores_CHW = np.broadcast_to(score_HW.cpu().numpy(), (len(self.classes), *size_hw))
        return instances_from_classes(class_HW.cpu().numpy(), scores_CHW, classes=self.classes)


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
