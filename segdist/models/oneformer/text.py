"""What OneFormer reads: the task, and in training what can be seen in each image (Jain et al. 2023, section 3.2).

Everything is made here, from the class names; no file of classes is read.
"""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from segdist.models.oneformer import PUBLISHED, TaskName
from segdist.nets import pretrained

TASKS: tuple[TaskName, ...] = ("semantic", "instance", "panoptic")
_TASK, _OBJECT = "the task is {}", "a photo with a {}"
_NOTHING = {"semantic": "a semantic photo", "instance": "an instance photo", "panoptic": "an panoptic photo"}
"""What is said where there is no further object; "an panoptic" is what the published weights were trained on."""
_PAD, _UNKNOWN, _END = "[pad]", "[unknown]", "[end]"


class TextVocabulary:
    """Sentences to numbers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def of_words(cls, classes: Sequence[str]) -> "TextVocabulary":
        """The words that can occur, and no others: for weights that bring no tokenizer."""
        sentences = [_OBJECT.format(name) for name in classes] + [_TASK.format(t) for t in TASKS] + [*_NOTHING.values()]
        split = pre_tokenizers.Whitespace()
        words = sorted({word for s in sentences for word, _ in split.pre_tokenize_str(s.lower())})
        # The text encoder reads a sentence off at its largest number, so that must be the end.
        numbers = {word: n for n, word in enumerate([_PAD, _UNKNOWN, *words, _END])}
        tokenizer = Tokenizer(WordLevel(numbers, unk_token=_UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = split
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {_END}", special_tokens=[(_END, numbers[_END])]
        )
        return cls(PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, unk_token=_UNKNOWN))

    @classmethod
    def of_weights(cls, weights: str, classes: Sequence[str]) -> "TextVocabulary":
        """The tokenizer that lies beside the weights; our own where none does.

        Raises:
            WeightsError: it is damaged, or the hub cannot be reached.
        """
        source = PUBLISHED.source(weights)
        if not any((source / name).is_file() for name in pretrained.TOKENIZERS):
            return cls.of_words(classes)
        return cls(pretrained.tokenizer(PUBLISHED, weights))

    def __len__(self) -> int:
        return len(self._tokenizer)

    def numbers(self, sentences: Sequence[str], *, length: int) -> Tensor:
        """(len(sentences), length) token numbers; zeros behind the end, as OneFormer's own processor pads."""
        tokens = self._tokenizer(list(sentences), padding="max_length", max_length=length, truncation=True)
        return torch.tensor(tokens["input_ids"]) * torch.tensor(tokens["attention_mask"])

    def task(self, task: str, *, length: int) -> Tensor:
        """(length,) the sentence that tells the network its task."""
        return self.numbers([_TASK.format(task)], length=length)[0]


def sentences(labels: Sequence[int], classes: Sequence[str], task: str, *, count: int) -> list[str]:
    """One sentence for each object, in the order of the classes, and the task's own for the rest: `count` in all."""
    seen = [_OBJECT.format(classes[label]) for label in sorted(labels)][:count]
    return seen + [_NOTHING[task]] * (count - len(seen))
