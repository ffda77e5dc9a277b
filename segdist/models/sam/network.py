"""SAM as a family: training and prediction by boxes, or by a learned prompt a class.

Shapes: B images, N prompts over all images of a batch, K classes, M masks a prompt, C channels, T tokens, S x S pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn.functional import interpolate

from segdist import losses, masks
from segdist.data.collate import ignored, padded_masks, stack_images
from segdist.data.examples import letterbox, restore, scale_boxes, scaled_size
from segdist.models.sam import Options, architecture, weights, weights_file
from segdist.plugins import Batch, Example, ImageHWC
from segdist.records import Instance, Prompt

_PROMPTS_AT_ONCE = 64
_PIXELS_AT_ONCE = 2**26
"""Most mask pixels held at an image's own size: 64 masks of a megapixel."""


def build(options: Options, classes: tuple[str, ...]) -> "SegmentAnything":
    """The network with the weights that the options name.

    Raises:
        WeightsError: the file is missing, damaged, or of another size.
    """
    file = weights_file(options)
    sam = getattr(architecture, options.size)(options.image_size)
    if file is not None:
        weights.load(sam, file, options)
    return SegmentAnything(options, classes, sam)


@dataclass(frozen=True)
class _Shown:
    """What the decoder is shown for N prompts: boxes in pixels of the padded square, and P points each."""

    boxes_N4: Tensor
    points_NP2: Tensor | None = None
    is_object_NP: Tensor | None = None


class SegmentAnything(nn.Module):
    """An image encoder that runs once an image, and a decoder that runs once a prompt."""

    def __init__(self, options: Options, classes: tuple[str, ...], sam: Sam) -> None:
        super().__init__()
        self.options, self.classes = options, classes
        self.image_encoder, self.prompt_encoder = sam.image_encoder, sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        if options.prompt == "class":
            shape = len(classes), options.class_tokens, sam.prompt_encoder.embed_dim
            self.class_tokens = nn.Parameter(torch.randn(shape))
        for name, parameter in self.named_parameters():
            if name.startswith(self._unused()):
                parameter.requires_grad = False

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Images, and one prompt with its true mask for each object (`box`), or for each class and image (`class`)."""
        size = self.options.image_size
        objects = [self._objects(e) for e in examples]
        return {
            "images": stack_images([e.image_HWC for e in examples], size),
            "ignore": ignored(examples, size),
            "boxes": torch.cat([boxes for boxes, _ in objects]),
            "masks": torch.cat([masks_NSS for _, masks_NSS in objects]),
            "image_of_prompt": torch.repeat_interleave(torch.tensor([len(boxes) for boxes, _ in objects])),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Focal and Dice loss of the masks, and the squared error of the predicted IoU."""
        image_N, truth_NSS = batch["image_of_prompt"], batch["masks"]
        if not len(image_N):
            zero = torch.stack([p.float().sum() for p in self.parameters() if p.requires_grad]).sum() * 0
            return {"focal": zero, "dice": zero, "iou": zero}
        embeddings_BCHW = self.image_encoder(batch["images"])
        shown = self._training_prompts(batch["boxes"], truth_NSS) if self.options.prompt == "box" else None
        logits_NMHW, iou_NM = self._decode(embeddings_BCHW[image_N], shown)
        size = self.options.image_size
        logits_NMSS = interpolate(logits_NMHW.float(), (size, size), mode="bilinear", align_corners=False)
        return _losses(logits_NMSS, iou_NM, truth_NSS, batch["ignore"][image_N])

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """One instance a box, in order (`box`), or one a class that is found (`class`)."""
        size = self.options.image_size
        asked = [i for i, p in enumerate(prompts) if p.boxes_xyxy or self.options.prompt == "class"]
        found: list[tuple[Instance, ...]] = [()] * len(images)
        if asked:
            square_BCHW = stack_images([letterbox(images[i], size) for i in asked], size)
            for i, embedding_CHW in zip(asked, self.image_encoder(square_BCHW.to(self._device)), strict=True):
                by_class = self.options.prompt == "class"
                size_hw = images[i].shape[0], images[i].shape[1]
                found[i] = tuple(
                    self._classes_in(embedding_CHW, size_hw)
                    if by_class
                    else self._boxed(embedding_CHW, size_hw, prompts[i])
                )
        return found

    @property
    def _device(self) -> torch.device:
        return self.mask_decoder.iou_token.weight.device

    def _unused(self) -> tuple[str, ...]:
        """Parameters that these options never use; a trained parameter without a gradient would stop DDP."""
        others = (1, 2, 3) if self.options.masks == "one" else (0,)
        heads = tuple(f"mask_decoder.output_hypernetworks_mlps.{i}." for i in others)
        encoder = "prompt_encoder."
        if self.options.prompt == "class":
            prompts = tuple(encoder + n for n in ("point_embeddings", "not_a_point_embed", "mask_downscaling"))
        else:
            other = "no_mask_embed" if self.options.size == "tiny" else "mask_downscaling"
            points = () if self.options.point_share else (encoder + "point_embeddings.1.",)
            prompts = (encoder + "point_embeddings.0.", encoder + "not_a_point_embed", encoder + other, *points)
        return heads + prompts

    def _objects(self, example: Example) -> tuple[Tensor, Tensor]:
        """(N, 4) boxes and (N, S, S) masks that one image teaches."""
        masks_NSS = padded_masks(example, self.options.image_size)
        if self.options.prompt == "class":
            of_class = [masks_NSS[torch.from_numpy(example.labels == k)].any(0) for k in range(len(self.classes))]
            return torch.zeros(len(self.classes), 4), torch.stack(of_class)
        chosen = torch.randperm(len(masks_NSS))[: self.options.prompts_per_image]
        return torch.from_numpy(example.boxes_xyxy)[chosen], masks_NSS[chosen]

    def _training_prompts(self, boxes_N4: Tensor, truth_NSS: Tensor) -> _Shown:
        """Boxes as a user would draw them, and in some steps a point on each object; exact boxes when not training."""
        if not self.training:
            return _Shown(boxes_N4)
        sides_N4 = (boxes_N4[:, 2:] - boxes_N4[:, :2]).repeat(1, 2)
        # Half of the objects keep the exact box, which is what most annotations hold.
        strength_N1 = self.options.box_jitter * (torch.rand(len(boxes_N4), 1) < 0.5) * torch.rand(len(boxes_N4), 1)
        shift_N4 = (torch.rand(boxes_N4.shape) * 2 - 1) * strength_N1
        moved_N4 = (boxes_N4 + shift_N4.to(boxes_N4.device) * sides_N4).clamp(0, self.options.image_size)
        if torch.rand(()) >= self.options.point_share:
            return _Shown(moved_N4)
        points_N12 = _point_on_each(truth_NSS)
        return _Shown(moved_N4, points_N12, torch.ones(points_N12.shape[:2], device=points_N12.device))

    def _decode(self, embeddings_NCHW: Tensor, shown: _Shown | None) -> tuple[Tensor, Tensor]:
        """(N, M, H, W) mask logits and (N, M) predicted IoU; without anything shown, N runs over images x classes."""
        if shown is None:
            images = len(embeddings_NCHW) // len(self.classes)
            _, dense_NCHW = self.prompt_encoder(points=None, boxes=None, masks=None)
            sparse_NTC = self.class_tokens.repeat(images, 1, 1)
            dense_NCHW = dense_NCHW.expand(len(embeddings_NCHW), -1, -1, -1)
        else:
            points = None if shown.points_NP2 is None else (shown.points_NP2, shown.is_object_NP)
            sparse_NTC, dense_NCHW = self.prompt_encoder(points=points, boxes=shown.boxes_N4, masks=None)
        logits_NMHW, iou_NM = self.mask_decoder(
            image_embeddings=embeddings_NCHW,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse_NTC,
            dense_prompt_embeddings=dense_NCHW,
            multimask_output=self.options.masks == "best_of_three",
        )
        return logits_NMHW, iou_NM

    def _boxed(self, embedding_CHW: Tensor, size_hw: tuple[int, int], prompt: Prompt) -> list[Instance]:
        found: list[Instance | None] = [None] * len(prompt.boxes_xyxy)
        for indices in _portions(prompt, size_hw):
            shown = self._shown(prompt, indices, size_hw)
            logits_NMHW, iou_NM = self._decode(embedding_CHW.expand(len(indices), -1, -1, -1), shown)
            best_N = iou_NM.argmax(1)
            rows_N = torch.arange(len(indices), device=best_N.device)
            own_NHW = restore(logits_NMHW[rows_N, best_N], size_hw=size_hw, image_size=self.options.image_size)
            rles = masks.encode_many((own_NHW > 0).cpu().numpy())
            scores = iou_NM[rows_N, best_N].float().clamp(0, 1).tolist()
            for i, rle, score in zip(indices, rles, scores, strict=True):
                found[i] = Instance(prompt.labels[i], rle, prompt.boxes_xyxy[i], score=score)
        return [i for i in found if i is not None]

    def _shown(self, prompt: Prompt, indices: Sequence[int], size_hw: tuple[int, int]) -> _Shown:
        """The prompts at `indices`, which all have equally many points, at the network's scale."""
        own = np.array([prompt.boxes_xyxy[i] for i in indices], np.float32)
        boxes_N4 = torch.from_numpy(scale_boxes(own, size_hw, self.options.image_size)).to(self._device)
        if not prompt.points_xy or not prompt.points_xy[indices[0]]:
            return _Shown(boxes_N4)
        scaled_hw = scaled_size(size_hw, self.options.image_size)
        factor = torch.tensor([scaled_hw[1] / size_hw[1], scaled_hw[0] / size_hw[0]])
        points_NP2 = torch.tensor([prompt.points_xy[i] for i in indices]) * factor
        is_object_NP = torch.tensor([prompt.point_is_object[i] for i in indices]).float()
        return _Shown(boxes_N4, points_NP2.to(self._device), is_object_NP.to(self._device))

    def _classes_in(self, embedding_CHW: Tensor, size_hw: tuple[int, int]) -> Iterator[Instance]:
        """One instance for each class with a pixel; its score is the mean probability over the mask."""
        logits_KMHW, iou_KM = self._decode(embedding_CHW.expand(len(self.classes), -1, -1, -1), None)
        best_KHW = logits_KMHW[torch.arange(len(self.classes), device=self._device), iou_KM.argmax(1)]
        for label, logits_HW in zip(self.classes, best_KHW, strict=True):
            own_HW = restore(logits_HW[None], size_hw=size_hw, image_size=self.options.image_size)[0]
            inside_HW = own_HW > 0
            if inside_HW.any():
                rle = masks.encode(inside_HW.cpu().numpy())
                yield Instance(label, rle, rle.box_xyxy, score=float(own_HW[inside_HW].sigmoid().mean()))


def _losses(logits_NMSS: Tensor, iou_NM: Tensor, truth_NSS: Tensor, ignore_NSS: Tensor) -> dict[str, Tensor]:
    """The terms of SAM's appendix A; of several masks the best is taught, all predicted IoUs are."""
    truth, ignore = (t[:, None].expand_as(logits_NMSS).flatten(0, 1) for t in (truth_NSS, ignore_NSS))
    logits = logits_NMSS.flatten(0, 1)
    focal_NM = losses.mask_focal(logits, truth, ignore_NHW=ignore).view_as(iou_NM)
    dice_NM = losses.dice(logits.sigmoid(), truth, ignore_NHW=ignore).view_as(iou_NM)
    best_N1 = (20 * focal_NM + dice_NM).argmin(1, keepdim=True)
    with torch.no_grad():
        guess = (logits > 0) & ~ignore
        common = (guess & truth).flatten(1).sum(1)
        true_iou_NM = (common / (guess | (truth & ~ignore)).flatten(1).sum(1).clamp(min=1)).view_as(iou_NM)
    return {
        "focal": focal_NM.gather(1, best_N1).mean(),
        "dice": dice_NM.gather(1, best_N1).mean(),
        "iou": ((iou_NM.float() - true_iou_NM) ** 2).mean(),
    }


def _point_on_each(truth_NSS: Tensor) -> Tensor:
    """(N, 1, 2) a random pixel (x, y) of each mask."""
    chance_NP = torch.rand(truth_NSS.shape, device=truth_NSS.device).where(truth_NSS, -1.0).flatten(1)
    pixel_N = chance_NP.argmax(1)
    width = truth_NSS.shape[2]
    return torch.stack([pixel_N % width, pixel_N // width], dim=-1)[:, None].float()


def _portions(prompt: Prompt, size_hw: tuple[int, int]) -> Iterator[list[int]]:
    """Indices of prompts that are decoded together: equally many points, and not more pixels than memory holds."""
    most = max(1, min(_PROMPTS_AT_ONCE, _PIXELS_AT_ONCE // (size_hw[0] * size_hw[1])))
    by_points: dict[int, list[int]] = {}
    for i in range(len(prompt.boxes_xyxy)):
        by_points.setdefault(len(prompt.points_xy[i]) if prompt.points_xy else 0, []).append(i)
    for indices in by_points.values():
        yield from (indices[i : i + most] for i in range(0, len(indices), most))
