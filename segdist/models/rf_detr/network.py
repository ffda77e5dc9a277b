"""The torch side of RF-DETR-Seg: transformers' network, targets, loss and predictions of our own.

transformers' loss fails without objects (its masks' terms are no scalars then), draws its points from all pixels,
ignored ones too, and takes the logarithm of scores that may be zero. Its layers are called one by one, because the
inner layers' masks, which the loss needs, are not among its outputs.

Shapes: B images, S side of the padded square, Q queries of all groups, L decoder layers, C classes, N objects.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.models.rf_detr import Options
from segdist.models.rf_detr.architecture import load
from segdist.models.rf_detr.criterion import DetrCriterion
from segdist.nets.collate import centred_boxes, stack_images
from segdist.nets.queries import instances_of_queries, object_targets, without_empty
from segdist.nets.segmenter import Divisor, Segmenter
from segdist.nets.set_criterion import Layer, Targets
from segdist.reading.examples import letterbox


class RfDetr(Segmenter):
    """Learns from boxes and masks, finds instances; a class of "stuff" is an instance like any other."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        self.model = load(options, num_classes=len(classes))
        config = self.model.config
        self.criterion = DetrCriterion(num_queries=config.num_queries, points_ratio=config.mask_point_sample_ratio)
        mask_token = self.model.model.model.backbone.backbone.embeddings.mask_token
        if mask_token is not None:  # of DINOv2's own training; no image here has hidden patches
            mask_token.requires_grad_(requires_grad=False)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pixels normalised as ImageNet's (B, 3, S, S), and for each image its labels, boxes in 0..1 and masks."""
        size = self.options.image_size
        shown = [without_empty(e) for e in examples]
        return {
            "pixels_B3SS": stack_images([e.image_HWC for e in shown], size),
            **object_targets(shown, size, self.objective.noise),
            "boxes_cxcywh": [centred_boxes(e, size) for e in shown],
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms `class`, `box`, `giou`, `mask` and `dice`, each a mean over the layers and the encoder's guess."""
        layers = self._layers(batch["pixels_B3SS"])
        with torch.autocast(batch["pixels_B3SS"].device.type, enabled=False):  # sums over thousands of points
            return self.criterion(layers, Targets.of(batch))

    def divisors(self, batch: Batch) -> dict[str, Divisor]:
        """Those of the criterion."""
        return self.criterion.divisors(Targets.of(batch), num_queries=self.model.config.num_queries)

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:  # noqa: ARG002 - understands none
        """Instances of each image, best first: at most 100, each scored at least 0.05."""
        if not images:
            return []
        size = self.options.image_size
        pixels_B3SS = stack_images([letterbox(image, size) for image in images], size)
        output = self.model(pixels_B3SS.to(self.model.device))
        return [
            instances_of_queries(
                classes_QC.float().sigmoid(),
                masks_Qhw.float(),
                classes=self.classes,
                size_hw=(image.shape[0], image.shape[1]),
                image_size=size,
                weigh_by_mask=False,
            )
            for image, classes_QC, masks_Qhw in zip(images, output.logits, output.pred_masks, strict=True)
        ]

    def take_counts(self) -> dict[str, float]:
        """What could not be used in training since the last call: see `matching.Matcher`."""
        return self.criterion.matcher.take_counts()

    def _layers(self, pixels_B3SS: Tensor) -> list[Layer]:
        """The encoder's proposals first, then every decoder layer; in training the queries of all groups."""
        detector, size_hw = self.model.model, pixels_B3SS.shape[-2:]
        output = detector.model(pixels_B3SS)
        features_BCHW, hidden_LBQC = output.backbone_features, output.intermediate_hidden_states
        proposals = Layer(
            detector.predict_encoder_class_logits(output.enc_outputs_class).float(),
            self.model.segmentation_head(features_BCHW, output.enc_outputs_class, size_hw, skip_blocks=True).float(),
            output.enc_outputs_coord_logits.float(),
        )
        classes_LBQC, boxes_LBQ4 = detector.predict_class_and_boxes(hidden_LBQC, output.intermediate_reference_points)
        masks = self.model.segmentation_head(features_BCHW, hidden_LBQC, size_hw)
        decoded = zip(classes_LBQC, boxes_LBQ4, masks, strict=True)
        return [proposals, *(Layer(c.float(), m.float(), b.float()) for c, b, m in decoded)]


def build(options: Options, classes: tuple[str, ...]) -> RfDetr:
    """The network with its base weights.

    Raises:
        SpecError: there are more queries than places in the image.
        WeightsError: the weights are missing or do not fit.
    """
    return RfDetr(options, classes)
