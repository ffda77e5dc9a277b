"""Class names to tokens, without a download: the tokenizer beside the weights, or one that spells."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from segdist.models.sam3 import PUBLISHED
from segdist.nets import pretrained
from segdist.nets.weights import RANDOM

LONGEST = 32
"""Tokens of a phrase that the text encoder reads."""
_SPECIAL = ("<pad>", "<start>", "<end>")


def tokenizer(weights: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the weights.

    Raises:
        WeightsError: there is none beside them.
    """
    if weights == RANDOM:
        return _spelling()
    return pretrained.tokenizer(PUBLISHED, weights)


def encode(reader: PreTrainedTokenizerBase, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(K, T) tokens of K phrases, and (K, T) 1 where there is one and 0 in the padding.

    T is always the length that the text encoder was trained with, as in SAM 3.
    """
    found = reader(list(phrases), padding="max_length", truncation=True, max_length=LONGEST)
    return torch.tensor(found["input_ids"]), torch.tensor(found["attention_mask"])


def vocabulary_size() -> int:
    """Tokens of the tokenizer that spells."""
    return len(_SPECIAL) + len(pre_tokenizers.ByteLevel.alphabet())


def _spelling() -> PreTrainedTokenizerFast:
    """A token for each byte of a phrase's UTF-8: reads anything in any language, and knows nothing."""
    words = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    spell = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=[]))
    spell.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spell.decoder = decoders.ByteLevel()
    pad, start, end = _SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=spell, pad_token=pad, bos_token=start, eos_token=end)
