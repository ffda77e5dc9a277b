"""The network of transformers: pretrained, of a published shape with random weights, or small."""

from collections.abc import Sequence
from itertools import accumulate

from transformers import Sam2Config, Sam2Model
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig

from segdist.core.errors import WeightsError
from segdist.models.sam2 import PUBLISHED, Options
from segdist.nets import pretrained
from segdist.nets.weights import RANDOM

_PATCH = 16


def load(options: Options) -> Sam2Model:
    """The image part of SAM 2, for images of `image_size`.

    Raises:
        WeightsError: the weights are not there, cannot be read, are not those of a whole SAM 2, or describe a network
            that cannot run.
    """
    if options.weights == RANDOM:
        config = _small() if options.size == "debug" else Sam2Config()
        network = Sam2Model(config)
    else:
        network = pretrained.load(Sam2Model, PUBLISHED, options.weights, untrained=(), overrides={})
    backbone = network.config.vision_config.backbone_config
    check_global_attention(
        backbone.blocks_per_stage, backbone.global_attention_blocks, pools=backbone.num_query_pool_stages
    )
    # Positions are relative to the image, so that a network runs at any size.
    network.prompt_encoder.input_image_size = options.image_size
    network.prompt_encoder.image_embedding_size = (options.image_size // _PATCH,) * 2
    return network


def check_global_attention(blocks_per_stage: Sequence[int], global_blocks: Sequence[int], *, pools: int) -> None:
    """Refuse a Hiera whose windows and global attention contradict each other.

    The first block of each pooling stage halves the resolution inside its windows; without windows, as a block of
    global attention, it does not, and the next layer meets another shape than it expects.

    Args:
        blocks_per_stage: number of blocks of each stage.
        global_blocks: indices, over all stages, of the blocks with global attention.
        pools: number of stages, after the first, that begin with pooling.

    Raises:
        WeightsError: a block of global attention is the first of a pooling stage.
    """
    first = set(list(accumulate(blocks_per_stage))[:-1][:pools])
    if wrong := sorted(first & set(global_blocks)):
        raise WeightsError(
            f"`global_attention_blocks` must not hold the first block of a pooling stage ({sorted(first)}), but "
            f"holds {wrong}. Correct it in config.json. {PUBLISHED.how_to_get}"
        )


def _small() -> Sam2Config:
    """0.5 M parameters: trains on a laptop's CPU."""
    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 2, 4],
        window_size_per_stage=[4, 4, 4, 2],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=64)
    return Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 64},
        mask_decoder_config={
            "hidden_size": 64,
            "mlp_dim": 128,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 64,
        },
    )
