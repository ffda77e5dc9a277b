"""The torch side of Mask2Former: transformers' network, targets and predictions of our own.

transformers' processor is not used: labels are built from an `Example` at the network's scale, one image at a time, and
its loss counts ignored pixels as background (see `criterion`).

Shapes: B images, S side of the padded square, Q queries, C classes, N objects, H W the image's own size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segdist import masks
from segdist.data.collate import ignored, padded_masks, stack_images
from segdist.data.examples import letterbox, pad, restore
from segdist.models.mask2former import Options
from segdist.models.mask2former.criterion import Criterion, Layer, Targets
from segdist.models.mask2former.weights import load
from segdist.plugins import Batch, Example, ImageHWC
from segdist.records import Instance, Prompt, Rle

_MOST_INSTANCES = 100
"""Instances kept of one image, the best (Cheng et al. 2022, appendix; COCO scores no more)."""
_LEAST_SCORE = 0.05
"""Instances scored lower are left out, as Mask R-CNN does: most queries find nothing."""
_PIXELS_AT_ONCE = 2**24
"""Pixels of masks brought to an image's own size at once: 100 masks of a 12-megapixel photo would take 5 GB."""


class Mask2Former(nn.Module):
    """Learns from masks, finds instances; a class of "stuff" is an instance like any other.

    Every trained parameter gets a gradient in every batch, also without objects, so that data-parallel training needs
    no search for unused parameters; the one layer that never gets one is frozen here.
    """

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.options = options
        self.classes = classes
        self.model = load(options, num_classes=len(classes))
        self.model.criterion = None  # ours below knows ignored pixels; theirs would only add a buffer to the weights
        config = self.model.config
        self.criterion = Criterion(
            # A predicted mask has a sixteenth of the pixels; more points than 4 to each of those say nothing new.
            num_points=min(config.train_num_points, options.image_size**2 // 4),
            no_object_weight=config.no_object_weight,
        )
        # Swin's last norm feeds the pooled output, which nothing reads.
        self.model.model.pixel_level_module.encoder.swin.layernorm.requires_grad_(requires_grad=False)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pixels normalised as ImageNet's (B, 3, S, S), and for each image its objects' labels and masks (N, S, S)."""
        size = self.options.image_size
        shown = [_visible(e) for e in examples]
        return {
            "pixels_B3SS": stack_images([e.image_HWC for e in shown], size),
            "labels": [torch.from_numpy(e.labels) for e in shown],
            "masks": [padded_masks(e, size) for e in shown],
            "ignored_BSS": ignored(shown, size),
            "crowd_BSS": torch.from_numpy(np.stack([pad(e.ignore_HW, size) for e in shown])),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms `class`, `mask` and `dice`, each a mean over the decoder's layers and the guess before them."""
        output = self.model(batch["pixels_B3SS"], output_auxiliary_logits=True)
        targets = Targets(batch["labels"], batch["masks"], ~batch["ignored_BSS"], batch["crowd_BSS"])
        layers = [_layer(auxiliary) for auxiliary in output.auxiliary_logits]
        with torch.autocast(batch["pixels_B3SS"].device.type, enabled=False):  # sums over thousands of points
            return self.criterion([*layers, _layer(output)], targets)

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:  # noqa: ARG002 - understands none
        """Instances of each image, best first: at most 100, each scored at least 0.05."""
        if not images:
            return []
        size = self.options.image_size
        pixels_B3SS = stack_images([letterbox(image, size) for image in images], size)
        layer = _layer(self.model(pixels_B3SS.to(self.model.device)))
        return [
            self._instances(classes_QC, masks_Qhw, (image.shape[0], image.shape[1]))
            for image, classes_QC, masks_Qhw in zip(images, layer.classes_BQC, layer.masks_BQhw, strict=True)
        ]

    def _instances(self, classes_QC: Tensor, masks_Qhw: Tensor, size_hw: tuple[int, int]) -> tuple[Instance, ...]:
        """Pairs of query and class by class score times mean mask probability (section 4.1, "evaluation")."""
        scores_QC = classes_QC.softmax(-1)[:, :-1]
        scores, chosen = scores_QC.flatten().topk(min(_MOST_INSTANCES, scores_QC.numel()))
        likely = scores >= _LEAST_SCORE
        queries, labels = chosen[likely] // len(self.classes), chosen[likely] % len(self.classes)
        found = dict(self._masks(masks_Qhw, sorted(set(queries.tolist())), size_hw))
        instances = []
        for query, label, score in zip(queries.tolist(), labels.tolist(), scores[likely].tolist(), strict=True):
            mask, certainty = found[query]
            if mask.area and score * certainty >= _LEAST_SCORE:
                instances.append(Instance(self.classes[label], mask, mask.box_xyxy, score * certainty))
        return tuple(sorted(instances, key=lambda i: -i.score))

    def _masks(
        self, masks_Qhw: Tensor, queries: Sequence[int], size_hw: tuple[int, int]
    ) -> Iterator[tuple[int, tuple[Rle, float]]]:
        """Each query's mask at the image's own size, and the mean probability inside it."""
        at_once = max(_PIXELS_AT_ONCE // (size_hw[0] * size_hw[1]), 1)
        for start in range(0, len(queries), at_once):
            some = list(queries[start : start + at_once])
            logits_NHW = restore(masks_Qhw[some], size_hw=size_hw, image_size=self.options.image_size)
            inside_NHW = logits_NHW > 0
            certainty_N = (logits_NHW.sigmoid() * inside_NHW).sum((1, 2)) / inside_NHW.sum((1, 2)).clamp(min=1)
            rles = masks.encode_many(inside_NHW.cpu().numpy())
            yield from zip(some, zip(rles, certainty_N.tolist(), strict=True), strict=True)


def build(options: Options, classes: tuple[str, ...]) -> Mask2Former:
    """The network with its base weights.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    return Mask2Former(options, classes)


def _visible(example: Example) -> Example:
    """The example without objects of which augmentation or scaling left no pixel; an empty mask would teach a class."""
    kept = np.any(example.masks_NHW, axis=(1, 2))
    return replace(example, labels=example.labels[kept], masks_NHW=example.masks_NHW[kept])


def _layer(output: Any) -> Layer:
    """One layer's logits in float32; transformers' outputs and its dictionaries of inner layers are read alike."""
    return Layer(output["class_queries_logits"].float(), output["masks_queries_logits"].float())
