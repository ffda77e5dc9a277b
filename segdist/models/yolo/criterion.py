"""Ultralytics' loss for boxes, classes and masks, made blind to ignored pixels.

Shapes: B images, A anchors of all levels, C classes, N objects of a batch, F anchors that stand for one of them in one
image, h w of the mask prototypes.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import box_convert

from segdist.models.yolo.quietly import v8SegmentationLoss

TERMS = ("box", "mask", "class", "distribution")
IGNORED = -1.0
"""The truth of an ignored pixel of a mask."""


class YoloCriterion(v8SegmentationLoss):
    """The terms `TERMS`, unweighted and as means, not sums, over the images; zeros connected to the graph.

    Args:
        head: the network's last layer.
        class_weights_C: how much each class counts; None counts them equally.
    """

    def __init__(self, head: nn.Module, class_weights_C: Tensor | None) -> None:
        gains = SimpleNamespace(box=1.0, cls=1.0, dfl=1.0, overlap_mask=False)
        super().__init__(
            SimpleNamespace(parameters=head.parameters, args=gains, model=[head], class_weights=class_weights_C)
        )
        self.bce = self._class_bce
        self._valid_BA: Tensor | None = None

    def terms(self, raw: dict[str, object], batch: dict[str, Tensor], valid_BA: Tensor) -> dict[str, Tensor]:
        """The loss of what the head says in training.

        Args:
            raw: from the head.
            batch: `batch_idx` and `cls` (N,), `bboxes` (N, 4) as cx cy w h in 0..1, and `masks` (N, h, w) with the
                share of the object in each pixel, or `IGNORED`.
            valid_BA: False for an anchor that lies on a crowd, where nobody knows what is there.
        """
        self._valid_BA = valid_BA
        sums, _ = self.loss(raw, batch)
        values = sums / len(valid_BA)  # they come multiplied by the number of images
        return dict(zip(TERMS, values[:4], strict=True))

    def _class_bce(self, logits_BAC: Tensor, truth_BAC: Tensor) -> Tensor:
        assert self._valid_BA is not None
        counts_BA1 = self._valid_BA[..., None] | (truth_BAC > 0).any(-1, keepdim=True)
        return binary_cross_entropy_with_logits(logits_BAC, truth_BAC, reduction="none") * counts_BA1

    @staticmethod
    def single_mask_loss(gt_mask: Tensor, pred: Tensor, proto: Tensor, xyxy: Tensor, area: Tensor) -> Tensor:
        """Sum over the anchors of one image of the mean cross-entropy inside the box, over the pixels that teach.

        Args:
            gt_mask: (F, h, w) the share of the object in each pixel, or `IGNORED`.
            pred: (F, P) coefficients of the prototypes.
            proto: (P, h, w) prototypes.
            xyxy: (F, 4) true boxes in pixels of the prototypes.
            area: (F,) of the boxes as shares of the image; not needed here.
        """
        del area
        logits_Fhw = (pred @ proto.flatten(1)).view_as(gt_mask)
        counts_Fhw = (inside(xyxy, gt_mask) & (gt_mask != IGNORED)).float()
        pixels_Fhw = binary_cross_entropy_with_logits(logits_Fhw, gt_mask.clamp(min=0), reduction="none")
        total_F = (pixels_Fhw * counts_Fhw).flatten(1).sum(1)
        return (total_F / counts_Fhw.flatten(1).sum(1).clamp(min=1)).sum()


def inside(boxes_xyxy_N4: Tensor, like_Nhw: Tensor) -> Tensor:
    """(N, h, w) whether any of a pixel lies in the box; boxes in pixels."""
    height, width = like_Nhw.shape[-2:]
    x_w, y_h = (torch.arange(n, device=boxes_xyxy_N4.device) for n in (width, height))
    left, top, right, bottom = (side_N[:, None] for side_N in boxes_xyxy_N4.unbind(1))
    in_x_Nw, in_y_Nh = (x_w + 1 > left) & (x_w < right), (y_h + 1 > top) & (y_h < bottom)
    return in_y_Nh[:, :, None] & in_x_Nw[:, None, :]


def corners(boxes_cxcywh: Tensor) -> Tensor:
    """Boxes as corners."""
    found: Tensor = box_convert(boxes_cxcywh, "cxcywh", "xyxy")
    return found
