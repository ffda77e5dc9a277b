"""Answers written token by token, and read.

Shapes: R rows (a question about a tile each), L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PaliGemmaForConditionalGeneration

from segdist.models.paligemma.grammar import Grammar, State
from segdist.models.paligemma.vocabulary import TokenVocabulary
from segdist.nets.paligemma.answers import SEPARATOR, Answer, parse
from segdist.nets.paligemma.locations import LAST

Asked = tuple[int, str, str]
"""Number of a tile, class name, and the question about it."""


@dataclass(frozen=True)
class Written:
    """What the network wrote about one class in one tile of an image.

    Attributes:
        tile: its number among those of the image.
        label: the class that was asked for.
        text: the answer as it stands.
        answer: what could be read of it.
        scores: of each object read: the geometric mean of its tokens' probabilities.
    """

    tile: int
    label: str
    text: str
    answer: Answer
    scores: tuple[float, ...]


def write_answers(
    model: PaliGemmaForConditionalGeneration,
    vocabulary: TokenVocabulary,
    pixels_R3SS: Tensor,
    asked: Sequence[Asked],
    *,
    max_objects: int,
    grammar: bool,
) -> list[Written]:
    """Greedy answers, side by side; shorter questions are padded on the left, where nobody looks.

    Args:
        model: of transformers.
        vocabulary: its tokens.
        pixels_R3SS: the tile of each row.
        asked: what is asked in each row.
        max_objects: of an answer.
        grammar: let only what an answer can hold follow.
    """
    labels = [label for _, label, _ in asked]
    questions = [vocabulary.question(text) for _, _, text in asked]
    length = max(map(len, questions))
    ids_RL = torch.tensor([[vocabulary.padding] * (length - len(q)) + q for q in questions])
    shown_RL = torch.tensor([[0] * (length - len(q)) + [1] * len(q) for q in questions])
    states = [State(vocabulary, label, max_objects) for label in labels]
    device = next(model.parameters()).device
    output = model.generate(
        input_ids=ids_RL.to(device),
        attention_mask=shown_RL.to(device),
        token_type_ids=torch.zeros_like(ids_RL).to(device),
        pixel_values=pixels_R3SS.to(device),
        logits_processor=LogitsProcessorList([Grammar(states, prompt_length=length)] if grammar else []),
        generation_config=_how_to_write(vocabulary, labels, max_objects),
        synced_gpus=False,  # a worker that holds all weights waits for no other's answers
    )
    ids_RL = output.sequences[:, length:]
    sure_RL = _log_probabilities(output.scores, ids_RL)
    return [
        _read(vocabulary, tile, label, ids, logs)
        for (tile, label, _), ids, logs in zip(asked, ids_RL.tolist(), sure_RL.tolist(), strict=True)
    ]


def _how_to_write(vocabulary: TokenVocabulary, labels: Sequence[str], max_objects: int) -> GenerationConfig:
    longest = max(len(vocabulary.label(label, more=True)) for label in labels)
    return GenerationConfig(
        max_new_tokens=max_objects * (20 + longest) + 1,
        do_sample=False,
        eos_token_id=vocabulary.end,
        pad_token_id=vocabulary.padding,
        return_dict_in_generate=True,
        output_scores=True,
    )


def _read(vocabulary: TokenVocabulary, tile: int, label: str, ids: list[int], logs: list[float]) -> Written:
    text = vocabulary.text(ids)
    answer = parse(text, labels={label})
    is_location = [vocabulary.loc0 <= i <= vocabulary.loc0 + LAST for i in ids]
    starts = [n for n, here in enumerate(is_location) if here and not (n and is_location[n - 1])]
    length = ids.index(vocabulary.end) if vocabulary.end in ids else len(ids)
    spans = list(pairwise([*starts, length]))
    if len(spans) != len(text.split(SEPARATOR)) or answer.unread:  # without the grammar anything can be written
        spans = [(0, max(length, 1))] * len(answer.objects)
    scores = tuple(float(np.exp(np.mean(logs[a:b]))) for a, b in spans[: len(answer.objects)])
    return Written(tile, label, text, answer, scores)


def _log_probabilities(scores: Sequence[Tensor], ids_RL: Tensor) -> Tensor:
    """(R, L) log-probability of each token that was written."""
    steps = [s.float().log_softmax(-1).gather(1, ids_RL[:, n : n + 1]) for n, s in enumerate(scores)]
    return torch.cat(steps, dim=1) if steps else torch.zeros(ids_RL.shape)
