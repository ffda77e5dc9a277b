"""The network of transformers: pretrained, of a published shape with random weights, or small."""

from transformers import RfDetrConfig, RfDetrDinov2Config, RfDetrForInstanceSegmentation

from segdist.core.errors import SpecError
from segdist.models.rf_detr import PUBLISHED, Options
from segdist.nets import pretrained
from segdist.nets.weights import RANDOM

_BY_CLASS = ("model.class_embed.", "model.model.enc_out_class_embed.")
_BY_QUERY = ("model.model.reference_point_embed.", "model.model.query_feat.")
_PATCH, _WINDOWS, _LAYERS, _QUERIES = (
    {"nano": 12, "small": 12, "medium": 12},
    {"nano": 1, "small": 2, "medium": 2},
    {"nano": 4, "small": 4, "medium": 5},
    {"nano": 100, "small": 100, "medium": 200},
)


def load(options: Options, *, num_classes: int) -> RfDetrForInstanceSegmentation:
    """The network of transformers for this many classes; layers that depend on the classes start untrained.

    Raises:
        SpecError: there are more queries than places in the image.
        WeightsError: the weights are not there, cannot be read, or are not those of a whole RF-DETR-Seg.
    """
    queries = {} if options.num_queries == "auto" else {"num_queries": options.num_queries}
    if options.weights == RANDOM:
        config = _debug if options.size == "debug" else _published
        network = RfDetrForInstanceSegmentation(config(options, num_labels=num_classes, **queries))
    else:
        network = pretrained.load(
            RfDetrForInstanceSegmentation,
            PUBLISHED,
            options.weights,
            untrained=_BY_CLASS + _BY_QUERY if queries else _BY_CLASS,
            overrides={"num_labels": num_classes, **queries},
        )
    _check_places(network.config, options)
    return network


def _check_places(config: RfDetrConfig, options: Options) -> None:
    """Each query starts at a place of the encoder's grid, the most_likely first."""
    places = (options.image_size // config.backbone_config.patch_size) ** 2
    if config.num_queries > places:
        raise SpecError(
            f"`model.rf_detr.num_queries` must be at most the {places} patches of an image of {options.image_size} "
            f"pixels, but is {config.num_queries}. Choose a larger `image_size` or fewer queries."
        )


def _published(options: Options, **overrides: object) -> RfDetrConfig:
    """The shapes of RF-DETR-Seg, on DINOv2-S (Oquab et al. 2023) with windowed attention."""
    size = options.size
    backbone = RfDetrDinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=options.image_size,
        patch_size=_PATCH[size],
        num_windows=_WINDOWS[size],
        out_features=["stage3", "stage6", "stage9", "stage12"],
    )
    return RfDetrConfig(
        backbone_config=backbone,
        decoder_layers=_LAYERS[size],
        decoder_n_points=2,
        **{"num_queries": _QUERIES[size], **overrides},
    )


def _debug(options: Options, **overrides: object) -> RfDetrConfig:
    """0.4 M parameters: trains on a laptop's CPU."""
    backbone = RfDetrDinov2Config(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=options.image_size,
        patch_size=8,
        num_windows=2,
        out_features=["stage2", "stage4"],
    )
    return RfDetrConfig(
        backbone_config=backbone,
        d_model=64,
        decoder_layers=2,
        decoder_ffn_dim=128,
        decoder_self_attention_heads=4,
        decoder_cross_attention_heads=4,
        decoder_n_points=2,
        group_detr=2,
        intermediate_size=128,
        dropout=0.0,
        mask_downsample_ratio=2,
        **{"num_queries": 20, **overrides},
    )
