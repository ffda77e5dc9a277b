"""The network of transformers: pretrained, of a published shape with random weights, or small."""

from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from segdist.models.mask2former import PUBLISHED, Options
from segdist.nets import pretrained, swin
from segdist.nets.weights import RANDOM

_BY_CLASS = ("class_predictor.", "criterion.")
_BY_QUERY = ("model.transformer_module.queries_",)


def load(options: Options, *, num_classes: int) -> Mask2FormerForUniversalSegmentation:
    """The network of transformers for this many classes; layers that depend on the classes start untrained.

    Raises:
        WeightsError: the weights are not there, cannot be read, or are not those of a whole Mask2Former.
    """
    queries = {} if options.num_queries == "auto" else {"num_queries": options.num_queries}
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


def _swin_tiny(**overrides: object) -> Mask2FormerConfig:
    """The published shape with Swin-T (Liu et al. 2021): 47 M parameters."""
    return Mask2FormerConfig(backbone_config=swin.tiny(), **overrides)


def _small(**overrides: object) -> Mask2FormerConfig:
    """1.5 M parameters: trains on a laptop's CPU."""
    return Mask2FormerConfig(
        backbone_config=swin.debug(),
        hidden_dim=64,
        feature_size=64,
        mask_feature_size=64,
        encoder_feedforward_dim=128,
        dim_feedforward=128,
        encoder_layers=2,
        decoder_layers=4,
        num_attention_heads=4,
        **{"num_queries": 20, **overrides},
    )
