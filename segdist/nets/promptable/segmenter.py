"""Training and prediction of a promptable network: by boxes, points, learned class prompts, or a grid of points.

Shapes: B images, N prompts over all images of a batch, K classes, M masks a prompt, C channels, T tokens, P points,
h x w mask logits over the padded square of S x S pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from segdist.core import masks
from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Evidence, Instance, Prompt
from segdist.nets.collate import ignored, instance_smoothing, instance_weights, padded_masks
from segdist.nets.promptable import grid
from segdist.nets.promptable.criterion import class_loss, mask_losses
from segdist.nets.promptable.embeddings import Features
from segdist.nets.promptable.moved import averaged, moved_boxes
from segdist.nets.promptable.network import PromptableNetwork
from segdist.nets.promptable.shown import PromptBatch, centres, exact, on_object, training_prompts
from segdist.nets.promptable.tight import within_boxes
from segdist.nets.segmenter import Divisor
from segdist.reading.examples import letterbox, restore, scale_boxes, scaled_size

PROMPTS_AT_ONCE, CPU_PROMPTS_AT_ONCE = 64, 16
"""On a CPU more take no less time each, and 30 MB each of memory."""
PIXELS_AT_ONCE = 2**26
"""Most mask pixels held at an image's own size: 64 masks of a megapixel."""


class Promptable(PromptableNetwork):
    """A promptable network as a segmenter: `collate`, `forward` and `predict` in each of its modes."""

    @property
    def region_classes(self) -> tuple[str, ...]:
        """Classes that come as one region an image: all of them where prompts stand for classes."""
        return tuple(self.classes) if self.options.prompt == "class" else ()

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Images, and the prompts with their true masks: one an object, a class and image, or a point of the grid."""
        size = self.options.image_size
        drawn = [self._training_objects(e) for e in examples]
        return {
            **self.images_of([e.image_HWC for e in examples]),
            "ignore": ignored(examples, size),
            "boxes": torch.cat([t.boxes_N4 for t in drawn]),
            "masks": torch.cat([t.masks_NSS for t in drawn]),
            "labels": torch.cat([t.labels_N for t in drawn]),
            "weights": torch.cat([t.weights_N for t in drawn]),
            "smoothing": torch.cat([t.smoothing_N for t in drawn]),
            "image_of_prompt": torch.repeat_interleave(torch.tensor([len(t.labels_N) for t in drawn])),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms `focal`, `dice`, `iou` and `class`; zeros connected to the graph where no object is shown."""
        image_N, truth_NSS, labels_N = batch["image_of_prompt"], batch["masks"], batch["labels"]
        if not len(image_N):
            zero = self._nothing(batch)
            return {"focal": zero, "dice": zero, "iou": zero, "class": zero}
        features_N = [level[image_N] for level in self.features_of(batch)]
        ignore_NSS = batch["ignore"][image_N]
        decoded = self.computed("decode", features_N, self._training_prompts(batch["boxes"], truth_NSS & ~ignore_NSS))
        size = self.options.image_size
        logits_NMSS = interpolate(decoded.logits_NMhw.float(), (size, size), mode="bilinear", align_corners=False)
        is_object_N = labels_N < len(self.classes)
        terms = mask_losses(
            logits_NMSS,
            decoded.iou_NM,
            truth_NSS,
            ignore_NSS,
            is_object_N=is_object_N,
            weights_N=batch["weights"],
            smoothing_N=batch["smoothing"],
        )
        if self.options.prompt != "everything":
            return {**terms, "class": terms["iou"] * 0}
        return {**terms, "class": class_loss(self.class_head(decoded.tokens_NMC), labels_N)}

    def _nothing(self, batch: Batch) -> Tensor:
        """Zero, by way of a box without size: every worker computes every layer, whatever its images show."""
        shown = exact(torch.zeros(1, 4, device=self.device), self.options)
        decoded = self.decode([level[:1] for level in self.features_of(batch)], shown)
        used = [decoded.logits_NMhw, decoded.iou_NM, decoded.tokens_NMC]
        if self.options.prompt == "everything":
            used.append(self.class_head(decoded.tokens_NMC))
        return torch.stack([value.float().sum() for value in used]).sum() * 0

    def divisors(self, batch: Batch) -> dict[str, Divisor]:
        """The weight of prompts on objects, of all prompts, and their number."""
        weights_N, labels_N = batch["weights"], batch["labels"]
        on_objects = Divisor(float(weights_N[labels_N < len(self.classes)].sum()))
        every, number = Divisor(float(weights_N.sum())), Divisor(len(labels_N))
        return {"focal": on_objects, "dice": on_objects, "iou": every, "class": number}

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """One instance a prompt, in order; with `prompt: class` one a class found, with `everything` one an object."""
        unprompted = self.options.prompt in ("class", "everything")
        asked = [i for i, p in enumerate(prompts) if unprompted or p.boxes_xyxy or p.points_xy]
        found: list[tuple[Instance, ...]] = [()] * len(images)
        if not asked:
            return found
        features_B = self.features_of(self.images_of([letterbox(images[i], self.options.image_size) for i in asked]))
        with torch.autocast(self.device.type, enabled=False):  # a mask's edge is worth more than the decoder's time
            for n, i in enumerate(asked):
                features_1 = [level[n : n + 1].float() for level in features_B]
                size_hw = images[i].shape[0], images[i].shape[1]
                found[i] = tuple(self._found_in(features_1, size_hw, prompts[i]))
        return found

    def _found_in(self, features_1: Features, size_hw: tuple[int, int], prompt: Prompt) -> Iterable[Instance]:
        if self.options.prompt == "class":
            return self._classes_in(self._class_logits(features_1)[0], size_hw)
        if self.options.prompt == "everything":
            return self._everything_in(features_1, size_hw)
        return self._prompted(features_1, size_hw, prompt)

    def outputs(self, pixels_B3SS: Tensor) -> tuple[Tensor]:
        """With `prompt: class`, the mask logits (B, K, h, w) of every class."""
        return (self._class_logits(self.embed(pixels_B3SS)),)

    def found(self, outputs: Sequence[Tensor], images: Sequence[ImageHWC]) -> list[tuple[Instance, ...]]:
        """With `prompt: class`, one instance for each class with a pixel."""
        return [
            tuple(self._classes_in(logits_Khw, (image.shape[0], image.shape[1])))
            for logits_Khw, image in zip(outputs[0], images, strict=True)
        ]

    def _training_objects(self, example: Example) -> "_TrainingObjects":
        """The prompts that one image teaches."""
        masks_NSS = padded_masks(example, self.options.image_size)
        labels_N = torch.from_numpy(example.labels)
        boxes_N4 = torch.from_numpy(example.boxes_xyxy)
        weights_N = instance_weights(example, self.objective.noise)
        smoothing_N = instance_smoothing(example, self.objective.noise)
        if self.options.prompt == "class":
            every_K = torch.arange(len(self.classes))
            own = [labels_N == k for k in every_K]
            of_class = torch.stack([masks_NSS[o].any(0) for o in own])
            sure_K = torch.stack([_mean(weights_N[o], otherwise=1.0) for o in own])
            spread_K = torch.stack([_mean(smoothing_N[o], otherwise=self.objective.noise.label_smoothing) for o in own])
            return _TrainingObjects(torch.zeros(len(own), 4), of_class, every_K, sure_K, spread_K)
        if self.options.prompt == "everything":
            return self._grid_objects(example, masks_NSS, labels_N, weights_N, smoothing_N)
        chosen = torch.randperm(len(masks_NSS))[: self.options.prompts_per_image]
        return _TrainingObjects(*(t[chosen] for t in (boxes_N4, masks_NSS, labels_N, weights_N, smoothing_N)))

    def _grid_objects(
        self, example: Example, masks_NSS: Tensor, labels_N: Tensor, weights_N: Tensor, smoothing_N: Tensor
    ) -> "_TrainingObjects":
        """Points of the grid as boxes without size, each with the whole object it is to find, or with nothing."""
        ignore_SS = ignored([example], self.options.image_size)[0]
        seen_NSS = masks_NSS & ~ignore_SS
        visible_N = seen_NSS.flatten(1).any(1)
        size_hw = example.image_HWC.shape[0], example.image_HWC.shape[1]
        assigned = grid.assign(seen_NSS[visible_N], ignore_SS, size_hw, self.options)
        # One more mask and label stand behind the objects' own, for points on nothing: index -1.
        masks_NSS = torch.cat([masks_NSS[visible_N], torch.zeros_like(ignore_SS)[None]])
        labels_N = torch.cat([labels_N[visible_N], torch.tensor([len(self.classes)])])
        weights_N = torch.cat([weights_N[visible_N], torch.ones(1)])
        smoothing_N = torch.cat([smoothing_N[visible_N], torch.zeros(1)])
        boxes_P4 = assigned.points_P2.repeat(1, 2)
        return _TrainingObjects(
            boxes_P4, *(t[assigned.object_P] for t in (masks_NSS, labels_N, weights_N, smoothing_N))
        )

    def _training_prompts(self, boxes_N4: Tensor, valid_NSS: Tensor) -> PromptBatch:
        if self.options.prompt == "class":
            return self._class_prompts(len(boxes_N4) // len(self.classes))
        if self.options.prompt == "everything":
            return on_object(centres(boxes_N4))
        if not self.training:
            return exact(boxes_N4, self.options)
        return training_prompts(boxes_N4, valid_NSS, self.options)

    def _class_prompts(self, images: int) -> PromptBatch:
        return PromptBatch(tokens_NTC=self.class_tokens.repeat(images, 1, 1))

    def _prompted(self, features_1: Features, size_hw: tuple[int, int], prompt: Prompt) -> list[Instance]:
        """One instance a box, or an object's points, in the order of the prompt."""
        count = len(prompt.boxes_xyxy) or len(prompt.points_xy)
        found: list[Instance | None] = [None] * count
        for indices in _portions(prompt, count, size_hw, most=self._prompts_at_once):
            shown = self._shown(prompt, indices, size_hw)
            decoded = self.computed("decode", _repeated(features_1, len(indices)), shown)
            moved = moved_boxes(shown) if self.options.average_boxes else []
            others = [self.computed("decode", _repeated(features_1, len(indices)), boxes) for boxes in moved]
            if others:
                decoded, agreed_NM = averaged([decoded, *others])
            best_N = decoded.iou_NM.argmax(1)
            rows_N = torch.arange(len(indices), device=best_N.device)
            logits_Nhw = decoded.logits_NMhw[rows_N, best_N]
            own_NHW = restore(logits_Nhw, size_hw=size_hw, image_size=self.options.image_size)
            drawn_NHW = (own_NHW > 0).cpu().numpy()
            if self.options.fit_box and prompt.boxes_xyxy:
                drawn_NHW = within_boxes(own_NHW.cpu().numpy(), [prompt.boxes_xyxy[i] for i in indices])
            rles = masks.encode_many(drawn_NHW)
            scores = decoded.iou_NM[rows_N, best_N].float().clamp(0, 1).tolist()
            stable = (agreed_NM[rows_N, best_N] if others else grid.stability(logits_Nhw.float())).tolist()
            for i, rle, score, stability in zip(indices, rles, scores, stable, strict=True):
                box = prompt.boxes_xyxy[i] if prompt.boxes_xyxy else rle.box_xyxy
                label = prompt.labels[i] if prompt.labels else self.classes[0]
                said = Evidence(predicted_iou=score, stability=stability)
                found[i] = Instance(label, rle, box, score=score, evidence=said)
        return [i for i in found if i is not None]

    @property
    def _prompts_at_once(self) -> int:
        return CPU_PROMPTS_AT_ONCE if self.device.type == "cpu" else PROMPTS_AT_ONCE

    def _shown(self, prompt: Prompt, indices: Sequence[int], size_hw: tuple[int, int]) -> PromptBatch:
        """The prompts at `indices`, which all have equally many points, at the network's scale."""
        boxes_N4 = None
        if prompt.boxes_xyxy:
            own = np.array([prompt.boxes_xyxy[i] for i in indices], np.float32)
            boxes_N4 = torch.from_numpy(scale_boxes(own, size_hw, self.options.image_size)).to(self.device)
        if not prompt.points_xy or not prompt.points_xy[indices[0]]:
            assert boxes_N4 is not None
            return exact(boxes_N4, self.options)
        scaled_hw = scaled_size(size_hw, self.options.image_size)
        factor = torch.tensor([scaled_hw[1] / size_hw[1], scaled_hw[0] / size_hw[0]])
        points_NP2 = torch.tensor([prompt.points_xy[i] for i in indices]) * factor
        is_object_NP = torch.tensor([prompt.point_is_object[i] for i in indices]).float()
        boxes_N4 = None if self.options.prompt == "point" else boxes_N4
        return PromptBatch(boxes_N4, points_NP2.to(self.device), is_object_NP.to(self.device))

    def _class_logits(self, features_B: Features) -> Tensor:
        """(B, K, h, w) of the mask that is trusted most, for each class."""
        images, classes = len(features_B[0]), len(self.classes)
        decoded = self.computed(
            "decode", [level.repeat_interleave(classes, 0) for level in features_B], self._class_prompts(images)
        )
        best_N = decoded.iou_NM.argmax(1)
        best_Nhw = decoded.logits_NMhw[torch.arange(len(best_N), device=best_N.device), best_N]
        return best_Nhw.reshape(images, classes, *best_Nhw.shape[1:])

    def _classes_in(self, logits_Khw: Tensor, size_hw: tuple[int, int]) -> Iterator[Instance]:
        """One instance for each class with a pixel; its score is the mean probability over the mask."""
        for label, logits_hw in zip(self.classes, logits_Khw, strict=True):
            own_HW = restore(logits_hw[None], size_hw=size_hw, image_size=self.options.image_size)[0]
            inside_HW = own_HW > 0
            if inside_HW.any():
                rle = masks.encode(inside_HW.cpu().numpy())
                yield Instance(label, rle, rle.box_xyxy, score=float(own_HW[inside_HW].sigmoid().mean()))

    def _everything_in(self, features_1: Features, size_hw: tuple[int, int]) -> Iterator[Instance]:
        """The distinct, stable masks under the grid, the surest first; scored by predicted IoU times class score."""
        points_G2 = grid.grid_points(scaled_size(size_hw, self.options.image_size), self.options.grid_side)
        found = [self._under(features_1, p.to(self.device)) for p in torch.split(points_G2, self._prompts_at_once)]
        logits_Khw, iou_K, classes_KC = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = grid.distinct(logits_Khw > 0, iou_K, max_overlap=self.options.max_overlap)
        at_once = max(1, PIXELS_AT_ONCE // (size_hw[0] * size_hw[1]))
        for some in torch.split(kept, at_once) if len(kept) else ():
            own_NHW = restore(logits_Khw[some], size_hw=size_hw, image_size=self.options.image_size)
            rles = masks.encode_many((own_NHW > 0).cpu().numpy())
            scores, labels = classes_KC[some].softmax(-1)[:, :-1].max(-1)
            sure = (scores * iou_K[some].clamp(0, 1)).tolist()
            for rle, score, label in zip(rles, sure, labels.tolist(), strict=True):
                if rle.area:
                    yield Instance(self.classes[label], rle, rle.box_xyxy, score=score)

    def _under(self, features_1: Features, points_P2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits, predicted IoU and class logits of the good masks under some points of the grid."""
        decoded = self.computed("decode", _repeated(features_1, len(points_P2)), on_object(points_P2[:, None]))
        best_P = decoded.iou_NM.argmax(1)
        rows_P = torch.arange(len(best_P), device=best_P.device)
        logits_Phw, iou_P = decoded.logits_NMhw[rows_P, best_P].float(), decoded.iou_NM[rows_P, best_P].float()
        good_P = (iou_P >= self.options.min_predicted_iou) & (grid.stability(logits_Phw) >= self.options.min_stability)
        classes_PC = self.class_head(decoded.tokens_NMC[rows_P, best_P]).float()
        return logits_Phw[good_P], iou_P[good_P], classes_PC[good_P]


@dataclass(frozen=True)
class _TrainingObjects:
    """The prompts one image teaches.

    Attributes:
        boxes_N4: their boxes.
        masks_NSS: their true masks.
        labels_N: their classes; the number of classes means nothing.
        weights_N: how much each counts.
        smoothing_N: the share of each one's truth that is spread.
    """

    boxes_N4: Tensor
    masks_NSS: Tensor
    labels_N: Tensor
    weights_N: Tensor
    smoothing_N: Tensor


def _mean(values: Tensor, *, otherwise: float) -> Tensor:
    return values.mean() if len(values) else torch.tensor(otherwise)


def _repeated(features_1: Features, count: int) -> Features:
    return [level.expand(count, *level.shape[1:]) for level in features_1]


def _portions(prompt: Prompt, count: int, size_hw: tuple[int, int], *, most: int) -> Iterator[list[int]]:
    """Indices of prompts that are decoded together: equally many points, and not more pixels than memory holds."""
    most = max(1, min(most, PIXELS_AT_ONCE // (size_hw[0] * size_hw[1])))
    by_points: dict[int, list[int]] = {}
    for i in range(count):
        by_points.setdefault(len(prompt.points_xy[i]) if prompt.points_xy else 0, []).append(i)
    for indices in by_points.values():
        yield from (indices[i : i + most] for i in range(0, len(indices), most))
