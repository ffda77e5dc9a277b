"""The network of transformers and its tokenizer: pretrained, or small and random."""

from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import (
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedTokenizerBase,
    SiglipVisionConfig,
)

from segdist.core.errors import WeightsError
from segdist.models.paligemma import PATCHES, PUBLISHED, Options
from segdist.models.paligemma.vocabulary import IMAGE, TokenVocabulary, small_tokenizer
from segdist.nets import pretrained
from segdist.nets.weights import RANDOM


class TiedHead(nn.Module):
    """Logits by the embedding's own weights, which then stand once among the parameters and in files."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._embedding = [embedding]  # in a list, so that it is no submodule

    @property
    def weight(self) -> Tensor:
        """The embedding's."""
        return self._embedding[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """A logit for each token."""
        return linear(hidden, self.weight)


def load(options: Options, texts: list[str]) -> tuple[PaliGemmaForConditionalGeneration, TokenVocabulary]:
    """The network and its vocabulary.

    Args:
        options: of the family.
        texts: all that is asked and answered, for the tokenizer of a random network.

    Raises:
        WeightsError: the weights are not there, do not fit, or lack PaliGemma's tokens.
    """
    if options.weights == RANDOM:
        tokenizer = small_tokenizer(texts)
        network = PaliGemmaForConditionalGeneration(_small(options, tokenizer))
    else:
        network = pretrained.load(
            PaliGemmaForConditionalGeneration, PUBLISHED, options.weights, untrained=(), overrides={}
        )
        tokenizer = pretrained.tokenizer(PUBLISHED, options.weights)
    vision = network.config.vision_config
    if vision.image_size != options.side:
        raise WeightsError(
            f"`model.paligemma.image_size` must be what the weights {options.weights} were trained with, "
            f"{vision.image_size}, times `tiles`, but is {options.side} times {options.tiles}.",
            option="image_size",
        )
    vocabulary = TokenVocabulary(tokenizer, (vision.image_size // vision.patch_size) ** 2)
    if vocabulary.loc0 + 1024 > network.config.text_config.vocab_size:
        raise WeightsError(f"The weights {options.weights} have no embeddings for the tokenizer's location tokens.")
    network.lm_head = TiedHead(network.get_input_embeddings())
    return network, vocabulary


def _small(options: Options, tokenizer: PreTrainedTokenizerBase) -> PaliGemmaConfig:
    """0.6 M parameters: trains on a laptop's CPU."""
    if options.side % PATCHES:
        raise WeightsError(
            f"`model.paligemma.image_size` must be a multiple of {PATCHES} times `tiles` for random weights, but is "
            f"{options.image_size}.",
            option="image_size",
        )
    vision = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=options.side,
        patch_size=options.side // PATCHES,
        vision_use_head=False,
    )
    text = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        projection_dim=128,
        hidden_size=128,
    )
