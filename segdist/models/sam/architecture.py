"""The networks, built from segment-anything's own modules (Kirillov et al. 2023).

Shapes: B images, N prompts over all images of a batch, C channels, H x W cells of the embedding, P in all, M masks a
prompt.
"""

from functools import partial
from itertools import pairwise

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention

from segdist.models.sam.tiny_vit import TinyViT
from segdist.nets.fused import Activation, fuse, linear

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
_EMBEDDING = 256
_PATCH = 16


def vit_t(image_size: int = 1024) -> Sam:
    """10 M parameters, 1024 pixels: MobileSAM (Zhang et al. 2023)."""
    return _build_sam(TinyViT(image_size))


def vit_b(image_size: int = 1024) -> Sam:
    """91 M parameters, 1024 pixels."""
    return _build_sam(_image_encoder(image_size, width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)))


def vit_l(image_size: int = 1024) -> Sam:
    """308 M parameters, 1024 pixels."""
    return _build_sam(_image_encoder(image_size, width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)))


def vit_h(image_size: int = 1024) -> Sam:
    """636 M parameters, 1024 pixels."""
    return _build_sam(_image_encoder(image_size, width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)))


def tiny(image_size: int = 128, *, width: int = 128, depth: int = 4) -> Sam:
    """1.2 M parameters for small pictures, with masks at full resolution.

    Three things differ from the large ones, so that it learns thin structures on one CPU in minutes: a convolutional
    stem (Xiao et al. 2021), fine features that reach the mask (as in SAM 2, Ravi et al. 2024), and boxes that also
    enter as filled masks. All three hide inside the modules, so segment-anything's `SamPredictor` runs it unchanged.

    Args:
        image_size: side of the padded square in pixels, a multiple of 8.
        width: channels of the transformer.
        depth: number of transformer blocks.
    """
    channels = 64
    grid = image_size // _FineEncoder.STRIDE
    return Sam(
        image_encoder=_FineEncoder(image_size, width=width, depth=depth, out_channels=channels),
        prompt_encoder=_BoxAsMaskEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=_FineDecoder(channels),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


class BatchedDecoder(MaskDecoder):
    """SAM's mask decoder that takes one embedding a prompt, so that prompts of several images share one pass.

    Its weights and results are those of `MaskDecoder`, which repeats the embedding of a single image.
    """

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(N, M, 4H, 4W) mask logits and (N, M) predicted IoU; all M masks."""
        masks_NMHW, iou_NM, _ = self.decode(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        return masks_NMHW, iou_NM

    def decode(
        self, embeddings_NCHW: Tensor, position_1CHW: Tensor, sparse_NTC: Tensor, dense_NCHW: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits and predicted IoU as `predict_masks`, and the (N, M, C) tokens that the masks are read from."""
        count = len(sparse_NTC)
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens_NLC = torch.cat([output.expand(count, -1, -1), sparse_NTC], dim=1)
        coarse_KCHW, fine = self.split(_once(embeddings_NCHW))  # K is 1 for prompts about one image, else N
        source_KCHW = coarse_KCHW + _once(dense_NCHW)
        tokens_NLC, source_NPC = self.transformer(source_KCHW, position_1CHW, tokens_NLC)
        tokens_NMC = tokens_NLC[:, 1 : 1 + self.num_mask_tokens]
        hyper_NMC = torch.stack([mlp(tokens_NMC[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks_NMHW = self.drawn(source_NPC, (source_KCHW.shape[2], source_KCHW.shape[3]), fine, hyper_NMC)
        return masks_NMHW, self.iou_prediction_head(tokens_NLC[:, 0]), tokens_NMC

    def split(self, embeddings_NCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the transformer sees, and finer features (none here)."""
        return embeddings_NCHW, []

    def drawn(
        self,
        source_NPC: Tensor,
        size_hw: tuple[int, int],
        fine: list[Tensor],  # noqa: ARG002 - there is nothing fine
        hyper_NMC: Tensor,
    ) -> Tensor:
        """(N, M, 4H, 4W) logits, by `output_upscaling` and each mask's own weights of its channels.

        Both transposed convolutions have steps as wide as their kernels, so they are linear layers that make four
        cells of each: where these lie is settled at the end, when a cell holds one logit and no channels any more.
        """
        first, norm, _, second, _ = self.output_upscaling
        coarser_NPEC = _four_cells(first, source_NPC)
        seen_NPEC = gelu(layer_norm(coarser_NPEC, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        cells_NPEFC = _four_cells(second, seen_NPEC, "gelu")
        logits_NKM = cells_NPEFC.flatten(1, -2) @ hyper_NMC.transpose(1, 2)
        count, height, width = len(source_NPC), *size_hw
        placed = logits_NKM.view(count, height, width, 2, 2, 2, 2, -1).permute(0, 7, 1, 3, 5, 2, 4, 6)
        return placed.reshape(count, -1, 4 * height, 4 * width)


def _once(values_NCHW: Tensor) -> Tensor:
    """One of values that were repeated for several prompts without being copied."""
    return values_NCHW[:1] if values_NCHW.stride(0) == 0 else values_NCHW


def _four_cells(layer: nn.ConvTranspose2d, cells_KC: Tensor, activation: Activation = "none") -> Tensor:
    """(..., C) to (..., 4, D): each cell's four of the next resolution, row by row."""
    weight_4DC = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    assert layer.bias is not None
    cells_K4D = linear(cells_KC, weight_4DC, layer.bias.repeat(4), activation)
    return cells_K4D.view(*cells_KC.shape[:-1], 4, -1)


class OutOfPlacePrompts(PromptEncoder):
    """SAM's prompt encoder, with the same results, that writes into no tensor: trainings of a pack share its input."""

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:  # noqa: FBT001 - segment-anything's
        points_NP2, labels_NP = points + 0.5, labels
        if pad:
            points_NP2 = torch.cat([points_NP2, points_NP2.new_zeros(len(points), 1, 2)], dim=1)
            labels_NP = torch.cat([labels_NP, -labels_NP.new_ones(len(labels), 1)], dim=1)
        found_NPC = self.pe_layer.forward_with_coords(points_NP2, self.input_image_size)
        off, on = (self.point_embeddings[i].weight for i in (0, 1))
        kinds_NP1 = labels_NP[..., None]
        found_NPC = torch.where(kinds_NP1 == -1, self.not_a_point_embed.weight, found_NPC)
        found_NPC = torch.where(kinds_NP1 == 0, found_NPC + off, found_NPC)
        return torch.where(kinds_NP1 == 1, found_NPC + on, found_NPC)

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners_N2C = self.pe_layer.forward_with_coords((boxes + 0.5).reshape(-1, 2, 2), self.input_image_size)
        return corners_N2C + torch.cat([self.point_embeddings[i].weight for i in (2, 3)])


def _image_encoder(
    image_size: int, *, width: int, depth: int, heads: int, global_blocks: tuple[int, ...]
) -> ImageEncoderViT:
    """The encoder of the published checkpoints, which saw 1024 pixels."""
    return ImageEncoderViT(
        depth=depth,
        embed_dim=width,
        img_size=image_size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=heads,
        patch_size=_PATCH,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=global_blocks,
        window_size=14,
        out_chans=_EMBEDDING,
    )


def _build_sam(image_encoder: ImageEncoderViT | TinyViT) -> Sam:
    """An encoder with the published prompt encoder and mask decoder."""
    image_size = image_encoder.img_size
    grid = image_size // _PATCH
    sam = Sam(
        image_encoder=image_encoder,
        prompt_encoder=OutOfPlacePrompts(
            embed_dim=_EMBEDDING,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=BatchedDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=_EMBEDDING, mlp_dim=2048, num_heads=8),
            transformer_dim=_EMBEDDING,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    for name, module in sam.mask_decoder.transformer.named_modules():
        if "cross_attn" in name or "final_attn" in name:  # the others see a few tokens, not the image
            fuse(module)
            if isinstance(module, Attention):
                module.__class__ = _FusedAttention
    return sam


class _FusedAttention(Attention):
    """SAM's attention by torch's kernel, which keeps no table of all pairs."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        count = max(map(len, seen))
        q, k, v = (self._separate_heads(one, self.num_heads).expand(count, -1, -1, -1) for one in seen)
        return self.out_proj(self._recombine_heads(scaled_dot_product_attention(q, k, v)))


_FINE = ((1, 8), (2, 16), (4, 32))
"""Resolutions (pixels a cell) and channels of the fine features, which are not coarser than 1/8."""


class _FineEncoder(ImageEncoderViT):
    """A ViT behind a convolutional stem; fine features travel as further channels of the embedding."""

    STRIDE = 8

    def __init__(self, image_size: int, *, width: int, depth: int, out_channels: int) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=self.STRIDE,
            embed_dim=width,
            depth=depth,
            num_heads=4,
            out_chans=out_channels,
            use_rel_pos=False,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.patch_embed = _Stem(width)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        *fine, tokens_BHWC = self.patch_embed(image_BCHW)
        tokens_BHWC = tokens_BHWC + self.pos_embed
        for block in self.blocks:
            tokens_BHWC = block(tokens_BHWC)
        coarse_BCHW = self.neck(tokens_BHWC.permute(0, 3, 1, 2))
        folded = [pixel_unshuffle(f, self.STRIDE // cell) for f, (cell, _) in zip(fine, _FINE, strict=True)]
        return torch.cat([coarse_BCHW, *folded], dim=1)


class _Stem(nn.Module):
    """3 x 3 convolutions from pixels to tokens; gives the features of every resolution on the way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [3, *(c for _, c in _FINE), width]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1),
                nn.GroupNorm(4, b),
                nn.GELU(),
                nn.Conv2d(b, b, 3, padding=1, groups=1 if i < len(_FINE) else 4),
                nn.GroupNorm(4, b),
                nn.GELU(),
            )
            for i, (a, b) in enumerate(pairwise(channels))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        features[-1] = features[-1].permute(0, 2, 3, 1)
        return features


class _BoxAsMaskEncoder(OutOfPlacePrompts):
    """A prompt encoder that also shows each box as a mask, filled with 1 inside and -1 outside."""

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if masks is None and boxes is not None:
            masks = _filled(boxes.reshape(-1, 4), self.mask_input_size, self.input_image_size)
        return super().forward(points=points, boxes=boxes, masks=masks)


def _filled(boxes_N4: Tensor, size_hw: tuple[int, int], image_hw: tuple[int, int]) -> Tensor:
    """(N, 1, H, W): for each cell how much of it lies in the box, from -1 (nothing) to 1 (all)."""
    covered = []
    for axis in (0, 1):
        cells = size_hw[1 - axis]
        edge_C = torch.arange(cells, device=boxes_N4.device)
        low_N1, high_N1 = (boxes_N4[:, [i]] * (cells / image_hw[1 - axis]) for i in (axis, axis + 2))
        covered.append((torch.minimum(edge_C + 1, high_N1) - torch.maximum(edge_C, low_N1)).clamp(0, 1))
    return (covered[1][:, :, None] * covered[0][:, None, :])[:, None] * 2 - 1


class _FineDecoder(BatchedDecoder):
    """A mask decoder that upscales eightfold and adds the fine features of each resolution on its way."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=4 * channels, num_heads=4),
            transformer_dim=channels,
            iou_head_depth=3,
            iou_head_hidden_dim=channels,
        )
        del self.output_upscaling
        self.channels = channels
        fine = [c for _, c in reversed(_FINE)]
        self.steps = nn.ModuleList(
            nn.ConvTranspose2d(a, b, kernel_size=2, stride=2) for a, b in pairwise([channels, *fine])
        )
        self.norms = nn.ModuleList([*(LayerNorm2d(c) for c in fine[:-1]), nn.Identity()])
        for mlp in self.output_hypernetworks_mlps:
            mlp.layers[-1] = nn.Linear(channels, fine[-1])

    def split(self, embeddings_NCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        sizes = [c * (_FineEncoder.STRIDE // cell) ** 2 for cell, c in _FINE]
        coarse, *folded = torch.split(embeddings_NCHW, [self.channels, *sizes], dim=1)
        return coarse, [
            pixel_shuffle(f, _FineEncoder.STRIDE // cell) for f, (cell, _) in zip(folded, _FINE, strict=True)
        ]

    def drawn(self, source_NPC: Tensor, size_hw: tuple[int, int], fine: list[Tensor], hyper_NMC: Tensor) -> Tensor:
        source_NCHW = source_NPC.transpose(1, 2).reshape(len(source_NPC), -1, *size_hw)
        for step, norm, detail in zip(self.steps, self.norms, reversed(fine), strict=True):
            source_NCHW = gelu(norm(step(source_NCHW) + detail))
        return (hyper_NMC @ source_NCHW.flatten(2)).view(len(source_NPC), -1, *source_NCHW.shape[2:])
