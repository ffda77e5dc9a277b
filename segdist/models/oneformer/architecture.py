"""The network of transformers: pretrained, of a published shape with random weights, or small."""

from collections.abc import Sequence

from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

from segdist.core.errors import SpecError
from segdist.models.oneformer import PUBLISHED, Options
from segdist.models.oneformer.text import TextVocabulary
from segdist.nets import pretrained, swin
from segdist.nets.weights import RANDOM

_BY_CLASS = ("model.transformer_module.decoder.class_embed.", "criterion.")
_BY_QUERY = ("model.transformer_module.queries_embedder.",)
_ONLY_IN_TRAINING = ("model.text_mapper.",)
"""Part of training alone, and left out of some published weights."""


def load(options: Options, classes: Sequence[str]) -> tuple[OneFormerForUniversalSegmentation, TextVocabulary]:
    """The network for these classes, and what it reads with; layers that depend on the classes start untrained.

    Raises:
        SpecError: there are too few queries.
        WeightsError: the weights are not there, cannot be read, or are not those of a whole OneFormer.
    """
    overrides: dict[str, object] = {"num_labels": len(classes), "is_training": True}  # True builds the text encoder
    if options.num_queries != "auto":
        overrides["num_queries"] = options.num_queries
    if options.weights == RANDOM:
        vocabulary = TextVocabulary.of_words(classes)
        config = _small if options.size == "debug" else _swin_tiny
        network = OneFormerForUniversalSegmentation(config(text_encoder_vocab_size=len(vocabulary), **overrides))
    else:
        vocabulary = TextVocabulary.of_weights(options.weights, classes)
        network = pretrained.load(
            OneFormerForUniversalSegmentation,
            PUBLISHED,
            options.weights,
            untrained=_BY_CLASS + _ONLY_IN_TRAINING + (_BY_QUERY if "num_queries" in overrides else ()),
            overrides=overrides,
        )
    least = network.config.text_encoder_n_ctx + 1
    if network.config.num_queries < least:
        raise SpecError(
            f"`model.oneformer.num_queries` must be at least {least}, one more than the learned words of its text "
            f"encoder, but is {network.config.num_queries}"
        )
    return network, vocabulary


def _swin_tiny(**overrides: object) -> OneFormerConfig:
    """The published shape with Swin-T (Liu et al. 2021)."""
    return OneFormerConfig(backbone_config=swin.tiny(), **overrides)


def _small(**overrides: object) -> OneFormerConfig:
    """1.7 M parameters: trains on a laptop's CPU."""
    return OneFormerConfig(
        backbone_config=swin.debug(),
        task_seq_len=8,
        text_encoder_width=64,
        text_encoder_context_length=16,
        text_encoder_num_layers=1,
        text_encoder_n_ctx=4,
        conv_dim=64,
        mask_dim=64,
        hidden_dim=64,
        encoder_feedforward_dim=128,
        dim_feedforward=128,
        encoder_layers=2,
        decoder_layers=4,
        query_dec_layers=1,
        num_attention_heads=4,
        dropout=0.0,
        **{"num_queries": 20, **overrides},
    )
