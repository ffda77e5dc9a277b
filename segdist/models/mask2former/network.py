"""The torch side of Mask2Former: transformers' network, targets and predictions of our own.

transformers' processor is not used: labels are built from an `Example` at the network's scale, one image at a time, and
its loss counts ignored pixels as background (see `set_criterion`).

Shapes: B images, S side of the padded square, Q queries, C classes, N objects, H W the image's own size.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Instance
from segdist.models.mask2former import SWIN, Options
from segdist.models.mask2former.architecture import load
from segdist.nets import timm_features
from segdist.nets.bounded import BoundedLayers
from segdist.nets.collate import ChannelValues, stack_images
from segdist.nets.queries import instances_of_queries, object_targets, without_empty
from segdist.nets.segmenter import Divisor, Traceable
from segdist.nets.set_criterion import Layer, MaskFormerCriterion, Targets


class Mask2Former(Traceable):
    """Learns from masks, finds instances; a class of "stuff" is an instance like any other.

    Every trained parameter gets a gradient in every batch, also without objects, so that data-parallel training needs
    no search for unused parameters; the one layer that never gets one is frozen here.
    """

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        self.model = load(options, num_classes=len(classes))
        self.model.criterion = None  # ours below knows ignored pixels; theirs would only add a buffer to the weights
        config = self.model.config
        self.criterion = MaskFormerCriterion(
            # A predicted mask has a sixteenth of the pixels; more points than 4 to each of those say nothing new.
            num_points=min(config.train_num_points, options.image_size**2 // 4),
            no_object_weight=config.no_object_weight,
        )
        encoder = self.model.model.pixel_level_module.encoder
        self._colours = super().colours if options.backbone == SWIN else timm_features.colours(encoder._backbone)
        if options.backbone == SWIN:
            # Swin's last norm feeds the pooled output, which nothing reads.
            encoder.swin.layernorm.requires_grad_(requires_grad=False)
        self._bounded = BoundedLayers(self.model.model.pixel_level_module.decoder.encoder.layers)

    @property
    def colours(self) -> tuple[ChannelValues, ChannelValues]:
        """Those that a backbone of timm was trained with, otherwise those of ImageNet."""
        return self._colours

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's
        """Training mode, but for layers that would look at their values then."""
        super().train(mode)
        self._bounded.train(is_training=mode)
        return self

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pixels normalised by `colours` (B, 3, S, S), and for each image its objects' labels and masks (N, S, S)."""
        size, (mean, std) = self.options.image_size, self.colours
        shown = [without_empty(e) for e in examples]
        return {
            "pixels_B3SS": stack_images([e.image_HWC for e in shown], size, mean=mean, std=std),
            **object_targets(shown, size, self.objective.noise),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms `class`, `mask` and `dice`, each a mean over the decoder's layers and the guess before them."""
        layers = [Layer(*logits) for logits in self._layers(batch["pixels_B3SS"])]
        with torch.autocast(batch["pixels_B3SS"].device.type, enabled=False):  # sums over thousands of points
            return self.criterion(layers, Targets.of(batch))

    def answered(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """`outputs`, of which trainings of one pack compute at once what they can."""
        return self._layers(pixels_B3SS)[-1]

    def _layers(self, pixels_B3SS: Tensor) -> list[tuple[Tensor, Tensor]]:
        """`layers`; those of several trainings at once, unless each has a pixel decoder of its own.

        Its convolutions and samples take longer at once than one after the other (measured on a CPU: twice as long).
        """
        features = self.computed("features", pixels_B3SS)
        decoder = self.model.model.pixel_level_module.decoder
        if any(parameter.requires_grad for parameter in decoder.parameters()):
            return self.layers(features)
        found: list[tuple[Tensor, Tensor]] = self.computed("layers", features)
        return found

    def features(self, pixels_B3SS: Tensor) -> tuple[Tensor, ...]:
        """What the encoder makes of images, the finest first."""
        return tuple(self.model.model.pixel_level_module.encoder(pixels_B3SS).feature_maps)

    def layers(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Logits of classes and masks after each layer of the decoder, the guess before them first; in float32."""
        inner = self.model.model
        pixels = inner.pixel_level_module.decoder(features)
        decoded = inner.transformer_module(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            output_hidden_states=True,
            output_attentions=False,
        )
        hidden = zip(decoded.intermediate_hidden_states, decoded.masks_queries_logits, strict=True)
        return [(self.model.class_predictor(h.transpose(0, 1)).float(), masks.float()) for h, masks in hidden]

    def divisors(self, batch: Batch) -> dict[str, Divisor]:
        """Those of the criterion."""
        return self.criterion.divisors(Targets.of(batch), num_queries=self.model.config.num_queries)

    def outputs(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the last layer: classes with "no object" last (B, Q, C + 1), and masks (B, Q, h, w)."""
        return self.layers(self.features(pixels_B3SS))[-1]

    def found(self, outputs: Sequence[Tensor], images: Sequence[ImageHWC]) -> list[tuple[Instance, ...]]:
        """Instances of each image, best first."""
        return [
            self._instances(classes_QC, masks_Qhw, (image.shape[0], image.shape[1]))
            for image, classes_QC, masks_Qhw in zip(images, *outputs, strict=True)
        ]

    def take_counts(self) -> dict[str, float]:
        """What could not be used in training since the last call: see `matching.Matcher`."""
        return self.criterion.matcher.take_counts()

    def _instances(self, classes_QC: Tensor, masks_Qhw: Tensor, size_hw: tuple[int, int]) -> tuple[Instance, ...]:
        return instances_of_queries(
            classes_QC.softmax(-1)[:, :-1],
            masks_Qhw,
            classes=self.classes,
            size_hw=size_hw,
            image_size=self.options.image_size,
            weigh_by_mask=True,
        )


def build(options: Options, classes: tuple[str, ...]) -> Mask2Former:
    """The network with its base weights.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    return Mask2Former(options, classes)
