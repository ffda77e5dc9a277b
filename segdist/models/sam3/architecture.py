"""The detector of SAM 3 in transformers: pretrained, of the published shape with random weights, or small."""

from transformers import CLIPTextConfig, Sam3Config, Sam3Model
from transformers.models.sam3.configuration_sam3 import (
    Sam3DETRDecoderConfig,
    Sam3DETREncoderConfig,
    Sam3GeometryEncoderConfig,
    Sam3MaskDecoderConfig,
    Sam3VisionConfig,
    Sam3ViTConfig,
)

from segdist.core.errors import SpecError
from segdist.models.sam3 import PUBLISHED, Options, tokens
from segdist.nets import pretrained
from segdist.nets.weights import RANDOM


def load(options: Options) -> Sam3Model:
    """SAM 3 without what these options never use, which is removed or frozen.

    Raises:
        SpecError: the image size is not a multiple of the patch.
        WeightsError: the weights are not there, cannot be read, or are not those of a whole SAM 3.
    """
    if options.weights == RANDOM:
        network = Sam3Model(_small(options.image_size) if options.size == "debug" else Sam3Config())
    else:
        network = pretrained.load(Sam3Model, PUBLISHED, options.weights, untrained=(), overrides={})
    patch = network.config.vision_config.backbone_config.patch_size
    if options.image_size % patch:
        raise SpecError(f"`model.sam3.image_size` must be a multiple of {patch}, but got {options.image_size}.")
    if options.exemplars:
        network.geometry_encoder.requires_grad_(requires_grad=False)
    else:
        del network.geometry_encoder  # it reads boxes, which nothing shows
    _freeze_unused(network)
    return network


def _freeze_unused(network: Sam3Model) -> None:
    """Freeze what gets no gradient, which would stop data-parallel training.

    The coarsest level of the pyramid, the pixel decoder's step for it, and CLIP's own projection are never read.
    """
    levels = network.vision_encoder.neck.fpn_layers
    pixels = network.mask_decoder.pixel_decoder
    steps = len(levels) - 2  # one level is dropped, and steps lie between levels
    unused = [levels[-1], network.text_encoder.text_projection, *pixels.conv_layers[steps:], *pixels.norms[steps:]]
    for module in unused:
        module.requires_grad_(requires_grad=False)


def _small(image_size: int) -> Sam3Config:
    """0.3 M parameters: trains on a laptop's CPU."""
    width = 32
    grid = image_size // 8
    common = {"hidden_size": width, "num_attention_heads": 2}
    layers = {**common, "intermediate_size": 64, "dropout": 0.0}
    vision = Sam3VisionConfig(
        backbone_config=Sam3ViTConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=image_size,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[1],
            pretrain_image_size=image_size,
        ),
        fpn_hidden_size=width,
        backbone_feature_sizes=[[grid * 4] * 2, [grid * 2] * 2, [grid] * 2],
    )
    text = CLIPTextConfig(
        vocab_size=tokens.vocabulary_size(),
        hidden_size=width,
        intermediate_size=64,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokens.LONGEST,
        bos_token_id=1,
        eos_token_id=2,
    )
    return Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config=Sam3GeometryEncoderConfig(num_layers=1, **layers),
        detr_encoder_config=Sam3DETREncoderConfig(num_layers=1, **layers),
        detr_decoder_config=Sam3DETRDecoderConfig(num_layers=2, num_queries=8, **layers),
        mask_decoder_config=Sam3MaskDecoderConfig(**common),
    )
