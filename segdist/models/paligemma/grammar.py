"""Decoding that can only write answers: what may follow what, token by token."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from segdist.models.paligemma.vocabulary import TokenVocabulary
from segdist.nets.paligemma.answers import CODEBOOK_SIZE, NUM_CODES
from segdist.nets.paligemma.locations import LAST

Node = dict[int, Any]
"""What may follow within a label; an empty node means that the next object begins."""
_LOCATIONS = 4


@dataclass
class State:
    """How far one answer has come.

    Attributes:
        vocabulary: where the tokens lie.
        label: the class that was asked for.
        max_objects: after this many only the end may follow.
    """

    vocabulary: TokenVocabulary
    label: str
    max_objects: int
    objects: int = 0
    bins: list[int] = field(default_factory=list)
    segments: int = 0
    node: Node | None = None
    last_y1: int = 0
    is_over: bool = False

    def allowed(self) -> list[tuple[int, int]]:
        """Spans [first, last] of ids that may follow now."""
        if self.is_over:
            return [(self.vocabulary.padding, self.vocabulary.padding)]
        if self.node is not None:
            return [(token, token) for token in self.node]
        if len(self.bins) < _LOCATIONS:
            low, high = self._location()
            span = [(self.vocabulary.loc0 + low, self.vocabulary.loc0 + high)]
            at_start = self.objects == 0 and not self.bins
            return [*span, (self.vocabulary.end, self.vocabulary.end)] if at_start else span
        return [(self.vocabulary.seg0, self.vocabulary.seg0 + CODEBOOK_SIZE - 1)]

    def advance(self, token: int) -> None:
        """Take note of the token that was written."""
        if self.is_over or token == self.vocabulary.end:
            self.is_over = True
        elif self.node is not None:
            self.node = self.node[token]
            if not self.node:
                self._next_object()
        elif len(self.bins) < _LOCATIONS:
            self.bins.append(token - self.vocabulary.loc0)
        else:
            self.segments += 1
            if self.segments == NUM_CODES:
                self.node = self._label()

    def _location(self) -> tuple[int, int]:
        """Bins that keep the box valid, and the objects in the order of every target: from top to bottom."""
        place = len(self.bins)
        if place < 2:
            return (self.last_y1 if place == 0 else 0), LAST - 1
        return self.bins[place - 2] + 1, LAST

    def _label(self) -> Node:
        """The label and then the end, or the separator."""
        root: Node = {}
        paths = [self.vocabulary.label(self.label, more=False)]
        if self.objects + 1 < self.max_objects:
            paths.append(self.vocabulary.label(self.label, more=True))
        for path in paths:
            node = root
            for token in path:
                node = node.setdefault(token, {})
        return root

    def _next_object(self) -> None:
        self.objects += 1
        self.last_y1 = self.bins[0]
        self.bins, self.segments, self.node = [], 0, None


class Grammar(LogitsProcessor):
    """Lets in each row of a batch only what its state allows.

    Args:
        states: one a row, at the beginning.
        prompt_length: tokens of the question, the same in every row.
    """

    def __init__(self, states: list[State], *, prompt_length: int) -> None:
        self._states = states
        self._read = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with everything else at minus infinity."""
        for position in range(self._read, input_ids.shape[1]):
            for state, token in zip(self._states, input_ids[:, position].tolist(), strict=True):
                state.advance(token)
        self._read = input_ids.shape[1]
        allowed = torch.full_like(scores, float("-inf"))
        for row, state in enumerate(self._states):
            for first, last in state.allowed():
                allowed[row, first : last + 1] = scores[row, first : last + 1]
        return allowed
