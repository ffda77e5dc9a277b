"""The network of transformers: pretrained, of a published shape with random weights, small, or on a timm backbone."""

import logging

from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, TimmBackboneConfig

from segdist.core.errors import SpecError
from segdist.models.mask2former import NAME, PUBLISHED, SWIN, Options
from segdist.nets import pretrained, swin, timm_features
from segdist.nets.weights import RANDOM

_BY_CLASS = ("class_predictor.", "criterion.")
_BY_QUERY = ("model.transformer_module.queries_",)
_SCALES = (4, 8, 16, 32)
"""By how much a side of each feature map is smaller than the image's."""


def load(options: Options, *, num_classes: int) -> Mask2FormerForUniversalSegmentation:
    """The network of transformers for this many classes; layers that depend on the classes start untrained.

    Raises:
        SpecError: timm has no such backbone, or it has other scales than a Mask2Former needs.
        WeightsError: the weights are not there, cannot be read, or are not those of a whole Mask2Former.
    """
    queries = {} if options.num_queries == "auto" else {"num_queries": options.num_queries}
    if options.backbone != SWIN:
        return _on_timm(options, num_labels=num_classes, **queries)
    if options.weights == RANDOM:
        config = _small if options.size == "debug" else _swin_tiny
        return Mask2FormerForUniversalSegmentation(config(num_labels=num_classes, **queries))
    return pretrained.load(
        Mask2FormerForUniversalSegmentation,
        PUBLISHED,
        options.weights,
        untrained=_BY_CLASS + _BY_QUERY if queries else _BY_CLASS,
        overrides={"num_labels": num_classes, **queries},
    )


def _on_timm(options: Options, **overrides: object) -> Mask2FormerForUniversalSegmentation:
    """A backbone of timm, and behind it the small or the published decoders."""
    body = timm_features.features(options.backbone, options.weights, image_size=options.image_size, family=NAME)
    scales = body.feature_info.reduction()
    if not set(_SCALES) <= set(scales):
        raise SpecError(
            f"`model.{NAME}.backbone` must give features at {', '.join(map(str, _SCALES))} times fewer pixels a side, "
            f"but {options.backbone} gives {', '.join(map(str, scales))}.",
            option="backbone",
        )
    # It warns of every backbone but Swin.
    logging.getLogger("transformers.models.mask2former.configuration_mask2former").setLevel(logging.ERROR)
    described = TimmBackboneConfig(backbone=options.backbone, out_indices=[scales.index(scale) for scale in _SCALES])
    shape = _small if options.size == "debug" else _published
    network = Mask2FormerForUniversalSegmentation(shape(backbone_config=described, **overrides))
    encoder = network.model.pixel_level_module.encoder
    encoder._backbone.load_state_dict(body.state_dict(), strict=False)  # coarser features than it needs are left out
    timm_features.freeze_unused(encoder._backbone, options.image_size)
    return network


def _swin_tiny(**overrides: object) -> Mask2FormerConfig:
    """The published shape with Swin-T (Liu et al. 2021): 47 M parameters."""
    return _published(**{"backbone_config": swin.tiny(), **overrides})


def _published(**overrides: object) -> Mask2FormerConfig:
    """The decoders as published."""
    return Mask2FormerConfig(**overrides)


def _small(**overrides: object) -> Mask2FormerConfig:
    """1.5 M parameters: trains on a laptop's CPU."""
    return Mask2FormerConfig(
        hidden_dim=64,
        feature_size=64,
        mask_feature_size=64,
        encoder_feedforward_dim=128,
        dim_feedforward=128,
        encoder_layers=2,
        decoder_layers=4,
        num_attention_heads=4,
        **{"backbone_config": swin.debug(), "num_queries": 20, **overrides},
    )
