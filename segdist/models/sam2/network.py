"""SAM 2 as a family: transformers' network behind what all promptable families share.

Shapes: B images, N prompts over all images of a batch, M masks a prompt, C channels, P points, T tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import Sam2Model

from segdist.models.sam2 import Options
from segdist.models.sam2.architecture import load
from segdist.nets.collate import IMAGENET_MEAN, IMAGENET_STD, ChannelValues
from segdist.nets.promptable.network import DecodedMasks
from segdist.nets.promptable.segmenter import Promptable
from segdist.nets.promptable.shown import PromptBatch


def build(options: Options, classes: tuple[str, ...]) -> "Sam2":
    """The network with the weights that the options name.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    return Sam2(options, classes, load(options))


class Sam2(Promptable):
    """An image encoder with three levels of features, and a decoder that runs once a prompt.

    Of a single mask transformers chooses among four by their stability when not training; here `masks: one` is always
    the first, the one that is trained.
    """

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...], model: Sam2Model) -> None:
        super().__init__(options, classes, embed_dim=model.config.mask_decoder_config.hidden_size)
        self.model = model
        model.mask_decoder.dynamic_multimask_via_stability = False
        for name, parameter in self.named_parameters():
            if name.startswith(_unused(options)):
                parameter.requires_grad = False

    def encode(self, images_BCHW: Tensor) -> list[Tensor]:
        """The encoder's levels, fine to coarse, at a quarter, an eighth and a sixteenth of the resolution."""
        return list(self.model.vision_encoder(images_BCHW).fpn_hidden_states)

    def project(self, features_B: list[Tensor]) -> list[Tensor]:
        """The levels as the decoder takes them; its own layers, so they learn also where the encoder is frozen."""
        fine_BCHW, middle_BCHW, coarse_BCHW = features_B
        decoder = self.model.mask_decoder
        no_memory_BCHW = self.model.no_memory_embedding.view(1, -1, 1, 1)
        return [decoder.conv_s0(fine_BCHW), decoder.conv_s1(middle_BCHW), coarse_BCHW + no_memory_BCHW]

    def decode(self, features_N: list[Tensor], shown: PromptBatch) -> DecodedMasks:
        """Masks of N prompts by SAM 2's own prompt encoder and decoder, or by learned tokens."""
        *fine, coarse_NCHW = features_N
        sparse_N1TC, dense_NCHW = self._prompts(shown, coarse_NCHW)
        position_1CHW = self.model.get_image_wide_positional_embeddings()
        logits_N1Mhw, iou_N1M, tokens_N1MC, _ = self.model.mask_decoder(
            image_embeddings=coarse_NCHW,
            image_positional_embeddings=position_1CHW.expand(len(coarse_NCHW), -1, -1, -1),
            sparse_prompt_embeddings=sparse_N1TC,
            dense_prompt_embeddings=dense_NCHW,
            multimask_output=self.options.masks == "best_of_three",
            high_resolution_features=fine,
        )
        return DecodedMasks(logits_N1Mhw[:, 0], iou_N1M[:, 0], tokens_N1MC[:, 0])

    @property
    def encoder_modules(self) -> Sequence[nn.Module]:
        """Hiera and its feature pyramid."""
        return [self.model.vision_encoder]

    @property
    def colours(self) -> tuple[ChannelValues, ChannelValues]:
        """Those of ImageNet."""
        return IMAGENET_MEAN, IMAGENET_STD

    def _prompts(self, shown: PromptBatch, coarse_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, T, C) tokens and (N, C, H, W) dense embeddings of what is shown."""
        encoder = self.model.prompt_encoder
        no_mask_1C11 = encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        if shown.tokens_NTC is not None:
            return shown.tokens_NTC[:, None], no_mask_1C11.expand_as(coarse_NCHW)
        sparse = [] if shown.boxes_N4 is None else [self._corners(shown.boxes_N4)]
        if shown.points_NP2 is not None:
            assert shown.is_object_NP is not None
            is_object_N1P = shown.is_object_NP[:, None].to(torch.int32)
            sparse.insert(0, encoder._embed_points(shown.points_NP2[:, None], is_object_N1P, pad=not sparse))
        return torch.cat(sparse, dim=2), no_mask_1C11.expand_as(coarse_NCHW)

    def _corners(self, boxes_N4: Tensor) -> Tensor:
        """(N, 1, 3, C) tokens of two corners and of no further point.

        What transformers gives, which writes into tensors: that cannot be done for several trainings at once.
        """
        encoder = self.model.prompt_encoder
        corners_N122 = (boxes_N4 + 0.5).view(-1, 1, 2, 2)  # the middle of a pixel
        places_N12C = encoder.shared_embedding(corners_N122, (encoder.input_image_size, encoder.input_image_size))
        nowhere_N11C = encoder.not_a_point_embed.weight.expand(len(boxes_N4), 1, 1, -1)
        return torch.cat([places_N12C + encoder.point_embed.weight[2:4], nowhere_N11C], dim=2)


def _unused(options: Options) -> tuple[str, ...]:
    """Parameters that these options never use; a trained parameter without a gradient would stop DDP."""
    others = (1, 2, 3) if options.masks == "one" else (0,)
    heads = tuple(f"model.mask_decoder.output_hypernetworks_mlps.{i}." for i in others)
    points = ("point_embed", "not_a_point_embed") if options.prompt == "class" else ()
    prompts = tuple(f"model.prompt_encoder.{name}" for name in ("mask_embed", *points))
    return (*heads, *prompts, "model.mask_decoder.pred_obj_score_head.")
