"""The torch side of YOLO: ultralytics' layers, batches and predictions of our own.

Shapes: B images, S side of the padded square, A anchors of all levels, C classes, P prototypes, N objects, h w of the
prototypes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d
from torchvision.ops import batched_nms

from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.models.yolo import Options
from segdist.models.yolo.architecture import load
from segdist.models.yolo.criterion import IGNORED, YoloCriterion, corners, inside
from segdist.nets.collate import (
    ChannelValues,
    centred_boxes,
    crowds,
    ignored,
    instance_smoothing,
    padded_masks,
    stack_images,
)
from segdist.nets.points import spread
from segdist.nets.queries import LEAST_SCORE, MOST_INSTANCES, instances_of_queries, without_empty
from segdist.nets.segmenter import Segmenter
from segdist.reading.examples import letterbox

_GREY, _RANGE = 114.0, 255.0
"""Ultralytics' colour of the padding, and what pixels are divided by."""
_COMPARED = 1000
"""Boxes of an image that NMS compares, the best."""
_OUTSIDE = -20.0
"""Mask logit outside an object's box."""


class Yolo(Segmenter):
    """Learns from boxes and masks, finds instances; a class of "stuff" is an instance like any other."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        network, size = load(options, num_classes=len(classes))
        self.options = options.model_copy(update={"size": size})
        layers, first = list(network.model), len(network.yaml["backbone"])
        self.encoder, self.neck = nn.ModuleList(layers[:first]), nn.ModuleList(layers[first:-1])
        self.head = layers[-1]
        self.head.dynamic = True  # it would keep anchors of a prediction, which no later training step may touch
        self._criterion: YoloCriterion | None = None

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pixels in 0..1 (B, 3, S, S), and the objects of all images: image, class, box in 0..1, mask."""
        size = self.options.image_size
        shown = [without_empty(e) for e in examples]
        ignored_BSS = ignored(shown, size)
        return {
            "pixels_B3SS": _pixels([e.image_HWC for e in shown], size),
            "batch_idx": torch.repeat_interleave(torch.tensor([len(e.labels) for e in shown])),
            "cls": torch.from_numpy(np.concatenate([e.labels for e in shown])).float(),
            "bboxes": torch.cat([centred_boxes(e, size) for e in shown]),
            "masks": torch.cat([self._target_mask(e, i) for e, i in zip(shown, ignored_BSS, strict=True)]),
            "crowd_BSS": crowds(shown, size),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms `box` (CIoU), `mask`, `class` and `distribution` (of the boxes' sides)."""
        output = self._raw(batch["pixels_B3SS"])
        raw = output[1] if isinstance(output, tuple) else output
        with torch.autocast(batch["pixels_B3SS"].device.type, enabled=False):
            whole = {name: [v.float() for v in x] if isinstance(x, list) else x.float() for name, x in raw.items()}
            return self._loss().terms(whole, batch, ~_on_anchors(batch["crowd_BSS"], raw["feats"]))

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:  # noqa: ARG002 - understands none
        """Instances of each image, best first: at most 100, each scored at least 0.05."""
        if not images:
            return []
        size = self.options.image_size
        pixels_B3SS = _pixels([letterbox(image, size) for image in images], size)
        (decoded_BDA, prototypes_BPhw), _ = self._raw(pixels_B3SS.to(next(self.parameters()).device))
        return [
            self._instances(decoded_DA.float(), prototypes_Phw.float(), (image.shape[0], image.shape[1]))
            for image, decoded_DA, prototypes_Phw in zip(images, decoded_BDA, prototypes_BPhw, strict=True)
        ]

    def _raw(self, x: object) -> Any:
        """What the head says; each layer names the layers that it reads, counted from the first or back from itself."""
        outputs: list[object] = []
        for layer in (*self.encoder, *self.neck, self.head):
            sources = layer.f if isinstance(layer.f, list) else [layer.f]
            read = [x if source == -1 else outputs[source] for source in sources]
            x = layer(read if isinstance(layer.f, list) else read[0])
            outputs.append(x)
        return x

    def _loss(self) -> YoloCriterion:
        """The criterion on the device where the network is."""
        device = next(self.parameters()).device
        if self._criterion is None or self._criterion.device != device:
            weights = self.objective.class_weights[1:]  # those of the classes; the background is no class here
            self._criterion = YoloCriterion(self.head, torch.tensor(weights, device=device) if weights else None)
        return self._criterion

    def _target_mask(self, example: Example, ignored_SS: Tensor) -> Tensor:
        """(N, h, w) the share of each object in each pixel of the prototypes; thin ones would vanish otherwise."""
        step = int(self.head.stride[0]) // 2
        shares_Nhw = avg_pool2d(padded_masks(example, self.options.image_size).float()[:, None], step)[:, 0]
        shares_Nhw = spread(shares_Nhw, instance_smoothing(example, self.objective.noise)[:, None, None])
        blind_1hw = max_pool2d(ignored_SS[None, None].float(), step)[0] > 0
        return shares_Nhw.masked_fill(blind_1hw, IGNORED)

    def _instances(self, decoded_DA: Tensor, prototypes_Phw: Tensor, size_hw: tuple[int, int]) -> tuple[Instance, ...]:
        parts = torch.tensor_split(decoded_DA.T, (4, 4 + len(self.classes)), dim=1)
        boxes_A4, scores_AC, coefficients_AP = parts
        best_A, label_A = scores_AC.max(1)
        likely = best_A.topk(min(_COMPARED, len(best_A))).indices
        likely = likely[best_A[likely] >= LEAST_SCORE]
        boxes_N4 = corners(boxes_A4[likely])
        kept = batched_nms(boxes_N4, best_A[likely], label_A[likely], self.options.max_overlap)[:MOST_INSTANCES]
        chosen = likely[kept]
        # A box has one class here: the others of its scores are no further objects.
        only_NC = torch.zeros_like(scores_AC[chosen]).scatter(1, label_A[chosen, None], best_A[chosen, None])
        return instances_of_queries(
            only_NC,
            self._masks(coefficients_AP[chosen], prototypes_Phw, boxes_N4[kept]),
            classes=self.classes,
            size_hw=size_hw,
            image_size=self.options.image_size,
            weigh_by_mask=False,
        )

    def _masks(self, coefficients_NP: Tensor, prototypes_Phw: Tensor, boxes_N4: Tensor) -> Tensor:
        """(N, S, S) mask logits, cut at the boxes."""
        size = self.options.image_size
        logits_Nhw = (coefficients_NP @ prototypes_Phw.flatten(1)).view(-1, *prototypes_Phw.shape[1:])
        logits_NSS = interpolate(logits_Nhw[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
        return logits_NSS.masked_fill(~inside(boxes_N4, logits_NSS), _OUTSIDE)


def build(options: Options, classes: tuple[str, ...]) -> Yolo:
    """The network with its base weights.

    Raises:
        SpecError: ultralytics is not installed.
        WeightsError: the weights are missing or do not fit.
    """
    return Yolo(options, classes)


def _pixels(images: Sequence[ImageHWC], image_size: int) -> Tensor:
    """(B, 3, S, S) in 0..1, padded with grey."""
    mean: ChannelValues = (_GREY, _GREY, _GREY)
    std: ChannelValues = (_RANGE, _RANGE, _RANGE)
    return stack_images(images, image_size, mean=mean, std=std) + _GREY / _RANGE


def _on_anchors(crowd_BSS: Tensor, features: Sequence[Tensor]) -> Tensor:
    """(B, A) whether most of an anchor's cell is crowd; anchors level by level, row by row."""
    levels = [interpolate(crowd_BSS[:, None].float(), f.shape[-2:], mode="area").flatten(1) for f in features]
    return torch.cat(levels, dim=1) > 0.5
