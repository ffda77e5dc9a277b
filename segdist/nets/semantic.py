"""What families share that say a class for each pixel: targets, losses, predictions. A family gives `logits`.

Shapes: B images, K classes with background, C without, S side of the padded square, h w of the logits, H W an image's
own size.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from segdist import losses
from segdist.core.masks import instances_from_classes
from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Instance
from segdist.nets.collate import certainty, class_maps, ignored, stack_images
from segdist.nets.segmenter import Divisor, Traceable
from segdist.reading.examples import most_likely

BACKGROUND = "background"
"""What index 0 is called where a network names its outputs."""
_ALWAYS = ("cross_entropy", "dice", "focal")
"""Terms that cost next to nothing: computed and reported also without a weight."""


class SemanticSegmenter(Traceable):
    """One class, or background, for each pixel; its family's `losses` are `plugins.SEMANTIC_LOSSES`."""

    @abstractmethod
    def logits(self, images_B3SS: Tensor) -> Tensor:
        """(B, K, h, w), background first; where they are smaller than the images, they are enlarged bilinearly."""

    @property
    def region_classes(self) -> tuple[str, ...]:
        """All of them."""
        return self.classes

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Images, class maps, ignored pixels, how sure the labels are, and distances to edges where a loss needs them.

        Distances are computed here, because here the workers that decode images share the work.
        """
        size, (mean, std) = self.options.image_size, self.colours
        target_BSS = class_maps(examples, size)
        batch = {
            "images": stack_images([e.image_HWC for e in examples], size, mean=mean, std=std),
            "target": target_BSS,
            "ignore": ignored(examples, size),
            **certainty(examples, size, self.objective.noise),
        }
        if self.objective.wants("boundary") or self.objective.wants("edge"):
            of_class = [losses.signed_distance(target_BSS == k) for k in range(1, len(self.classes) + 1)]
            batch["distance"] = torch.stack(of_class, dim=1)
        return batch

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of a batch: those that have a weight, and those that cost next to nothing."""
        terms = self._terms(self._packed_logits(batch["images"]), batch)
        found = {name: term() for name, term in terms.items() if self.objective.wants(name)}
        # Nothing is kept for a backward pass through what has no weight, unless there is nothing else to go through.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not found):
            return found | {name: terms[name]() for name in _ALWAYS if name not in found}

    def divisors(self, batch: Batch) -> dict[str, Divisor]:
        """The weight of the pixels that count, or the pairs of an image and a class that it shows."""
        target_BSS, seen_BSS = batch["target"], ~batch["ignore"]
        weight_BSS = seen_BSS.float() * batch.get("weight", 1)
        if self.objective.class_weights:
            weight_BSS = weight_BSS * torch.tensor(self.objective.class_weights)[target_BSS]
        shown_K = [int(((target_BSS == k) & seen_BSS).flatten(1).any(1).sum()) for k in range(len(self.classes) + 1)]
        pixels, pairs = Divisor(float(weight_BSS.sum(dtype=torch.float64))), Divisor(sum(shown_K[1:]))
        by_class = dict.fromkeys(("dice", "tversky", "edge"), pairs)
        return {"cross_entropy": pixels, "focal": pixels, **by_class, "lovasz": Divisor(sum(shown_K))}

    def outputs(self, pixels_B3SS: Tensor) -> tuple[Tensor]:
        """Probabilities (B, K, S, S), background first."""
        return (self._enlarged_logits(pixels_B3SS).float().softmax(1),)

    def found(self, outputs: Sequence[Tensor], images: Sequence[ImageHWC]) -> list[tuple[Instance, ...]]:
        """One instance a class and image."""
        size = self.options.image_size
        best = [most_likely(s, size_hw=i.shape[:2], image_size=size) for s, i in zip(outputs[0], images, strict=True)]
        return [regions(class_HW, score_HW, classes=self.classes) for class_HW, score_HW in best]

    def answered(self, pixels_B3SS: Tensor) -> tuple[Tensor]:
        """`outputs`, of which trainings of one pack compute at once what they can."""
        return (self._packed_logits(pixels_B3SS).float().softmax(1),)

    def _packed_logits(self, images_B3SS: Tensor) -> Tensor:
        """(B, K, S, S), of which trainings of one pack compute at once what they can."""
        logits_BKSS: Tensor = self.computed("_enlarged_logits", images_B3SS)
        return logits_BKSS

    def _enlarged_logits(self, images_B3SS: Tensor) -> Tensor:
        return enlarged(self.logits(images_B3SS), images_B3SS)

    def _terms(self, logits_BKSS: Tensor, batch: Batch) -> dict[str, Callable[[], Tensor]]:
        target_BSS, options = batch["target"], self.objective.options
        ignore: dict[str, Any] = {"ignore_BHW": batch["ignore"]}
        weighted = {**ignore, "weight_BHW": batch.get("weight")}
        balanced = {**weighted, "class_weights_K": self._class_weights(logits_BKSS)}
        edges: dict[str, Any] = {"edge_weight": options.edge_weight, "sigma": options.edge_sigma}
        tversky: dict[str, Any] = {"alpha": options.tversky_alpha, "beta": options.tversky_beta}
        smoothing = batch.get("smoothing")
        return {
            "cross_entropy": lambda: losses.cross_entropy(logits_BKSS, target_BSS, **balanced, smoothing_BHW=smoothing),
            "dice": lambda: losses.class_dice(logits_BKSS, target_BSS, **weighted),
            "focal": lambda: losses.focal(logits_BKSS, target_BSS, **balanced, gamma=options.focal_gamma),
            "tversky": lambda: losses.class_tversky(logits_BKSS, target_BSS, **weighted, **tversky),
            "lovasz": lambda: losses.class_lovasz(logits_BKSS, target_BSS, **ignore),
            "boundary": lambda: losses.class_boundary(logits_BKSS, batch["distance"], **ignore),
            "edge": lambda: losses.class_edge_bce(logits_BKSS, target_BSS, batch["distance"], **ignore, **edges),
        }

    def _class_weights(self, like: Tensor) -> Tensor | None:
        weights = self.objective.class_weights
        return torch.tensor(weights, device=like.device) if weights else None


def enlarged(logits_BKhw: Tensor, images_B3SS: Tensor) -> Tensor:
    """(B, K, S, S) the logits at the resolution of the images."""
    if logits_BKhw.shape[2:] == images_B3SS.shape[2:]:
        return logits_BKhw
    return interpolate(logits_BKhw, images_B3SS.shape[2:], mode="bilinear", align_corners=False)


def regions(class_HW: Tensor, score_HW: Tensor, *, classes: Sequence[str]) -> tuple[Instance, ...]:
    """One instance a class that has a pixel, scored by the mean over its pixels.

    Args:
        class_HW: 0 is background, k the class `k - 1`.
        score_HW: of the class at each pixel, 0..1.
        classes: the class names.
    """
    scores_CHW = np.broadcast_to(score_HW.cpu().numpy(), (len(classes), *score_HW.shape))
    return instances_from_classes(class_HW.cpu().numpy(), scores_CHW, classes=classes)
