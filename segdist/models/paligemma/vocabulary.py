"""Questions and answers as token ids, by the tokenizer of the weights or a small one that needs no file."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from segdist.core.errors import WeightsError
from segdist.nets.paligemma.answers import CODEBOOK_SIZE, SEPARATOR
from segdist.nets.paligemma.locations import LAST

IMAGE = "<image>"
_PIECE = r" ?[^\s;<>]+| ?;|\s"
"""Words with the blank before them, as Gemma's tokenizer cuts them."""


@dataclass(frozen=True)
class TokenVocabulary:
    """A tokenizer, and where its special tokens lie.

    Raises:
        WeightsError: the tokenizer lacks the location or mask tokens, or they do not follow one another.
    """

    tokenizer: PreTrainedTokenizerBase
    num_image_tokens: int

    def __post_init__(self) -> None:
        for first, last, count in ((self.loc0, f"<loc{LAST:04d}>", LAST), (self.seg0, "<seg127>", CODEBOOK_SIZE - 1)):
            if self._id(last) != first + count:
                raise WeightsError(f"The tokens up to {last} must follow one another in the tokenizer, but do not.")

    @cached_property
    def loc0(self) -> int:
        """Id of `<loc0000>`."""
        return self._id("<loc0000>")

    @cached_property
    def seg0(self) -> int:
        """Id of `<seg000>`."""
        return self._id("<seg000>")

    @property
    def end(self) -> int:
        """Id of the token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    @property
    def padding(self) -> int:
        """Id of the token that fills up rows."""
        return int(self.tokenizer.pad_token_id)

    def question(self, text: str) -> list[int]:
        """Image tokens, the beginning, the question and a line break, as in transformers' processor."""
        beginning = [self._id(IMAGE)] * self.num_image_tokens + [int(self.tokenizer.bos_token_id)]
        return beginning + self._ids(f"{text}\n")

    def answer(self, text: str) -> list[int]:
        """An answer and its end."""
        return [*self._ids(text), self.end]

    def text(self, ids: Sequence[int]) -> str:
        """What was written up to the end."""
        ids = list(ids)
        written = ids[: ids.index(self.end)] if self.end in ids else ids
        text = self.tokenizer.decode(written, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text).removesuffix(self.tokenizer.pad_token)

    def label(self, name: str, *, more: bool) -> list[int]:
        """What follows an object's tokens: its label and the end; or its label and the separator before the next."""
        around = self._ids(f"<loc0000> {name}{SEPARATOR}<loc0000>" if more else f"<loc0000> {name}")
        return around[1:-1] if more else [*around[1:], self.end]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _id(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        if found is None or found == self.tokenizer.unk_token_id:
            raise WeightsError(
                f"The tokenizer beside the weights must know {token}, but does not. PaliGemma's own has 1,024 location "
                "and 128 mask tokens; get the whole folder: segdist weights get google/paligemma2-3b-pt-224"
            )
        return int(found)


def small_tokenizer(texts: Iterable[str]) -> object:
    """A tokenizer of the words in these texts, with PaliGemma's special tokens; the same texts give the same ids."""
    pieces = sorted({piece for text in texts for piece in re.findall(_PIECE, text)} | {" ", " ;", "\n"})
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    inner = Tokenizer(models.WordLevel({p: n for n, p in enumerate([*special, *pieces])}, unk_token="<unk>"))  # noqa: S106 - no password
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
    inner.decoder = decoders.Fuse()
    pad, eos, bos, unk = special
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, eos_token=eos, bos_token=bos, unk_token=unk
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.add_tokens([f"<loc{n:04d}>" for n in range(LAST + 1)] + [f"<seg{n:03d}>" for n in range(CODEBOOK_SIZE)])
    return tokenizer
