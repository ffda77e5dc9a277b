"""The torch side of PaliGemma: examples to questions and answers, answers to instances.

Shapes: B images, R rows (a question about an image each), L tokens, S side of the padded square.
Locations are shares of the padded square: what the network sees.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import BaseModelOutputWithPooling

from segdist.core import masks
from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.models.paligemma import Options
from segdist.models.paligemma.architecture import load
from segdist.models.paligemma.decoding import Written, write_answers
from segdist.models.paligemma.tiles import cut, cut_image, joined, tiles_of
from segdist.nets.collate import stack_images
from segdist.nets.paligemma.answers import TokenObject, in_order, write
from segdist.nets.paligemma.codec_files import open_codec
from segdist.nets.paligemma.objects import to_instances, to_objects
from segdist.nets.paligemma.prompts import questions
from segdist.nets.segmenter import Divisor, Segmenter
from segdist.reading.examples import letterbox, pad

_HALF = (127.5, 127.5, 127.5)
_ROWS_AT_ONCE = 16
"""Answers written side by side."""


class PaliGemma(Segmenter):
    """Asks for each class and reads the answer; learns from the answer's tokens alone."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        self.questions = questions(options.prompt, options.synonyms, classes)
        asked = [text for texts in self.questions.values() for text in texts]
        self.model, self.vocabulary = load(options, [*asked, *(f" {label}" for label in classes)])
        self._codec = [open_codec(options.codec)]  # in a list, so that it is no submodule: it is never trained
        self._surplus_objects = 0.0
        self._pieces = [0.0, 0.0]
        self._last: list[list[Written]] = []

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pixels (B, 3, S, S) of all tiles in -1..1, and rows of tokens (R, L): question, answer, padding on the right.

        `is_answer_RL` is True on the answer's tokens; `image_R` says which tile a row is about; `weight_R` how much it
        counts.
        """
        grid = {"side": self.options.side, "tiles": self.options.tiles}
        parts = [part for example in examples for part in cut(example, **grid)]
        rows = [(n, label) for n, part in enumerate(parts) for label in self._asked(part)]
        tokens = [self._row(parts[n], label) for n, label in rows]
        length = max(len(question) + len(answer) for question, answer in tokens)
        ids_RL = torch.full((len(rows), length), self.vocabulary.padding)
        is_answer_RL = torch.zeros((len(rows), length), dtype=torch.bool)
        shown_RL = torch.zeros((len(rows), length), dtype=torch.long)
        for r, (question, answer) in enumerate(tokens):
            whole = len(question) + len(answer)
            ids_RL[r, :whole] = torch.tensor([*question, *answer])
            is_answer_RL[r, len(question) : whole] = True
            shown_RL[r, :whole] = 1
        weights = self.objective.class_weights or (1.0,) * (1 + len(self.classes))
        return {
            "pixels_B3SS": self._pixels([part.image_HWC for part in parts]),
            "ids_RL": ids_RL,
            "is_answer_RL": is_answer_RL,
            "shown_RL": shown_RL,
            "image_R": torch.tensor([n for n, _ in rows]),
            "weight_R": torch.tensor([weights[1 + self.classes.index(label)] for _, label in rows]),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The term `text`: cross-entropy over the tokens of answers, each weighted by its row's class."""
        features_BND = self.computed("features", batch["pixels_B3SS"])
        rows = batch["ids_RL"], batch["shown_RL"], batch["is_answer_RL"]
        hidden_RLD = self.computed("read", features_BND[batch["image_R"]], *rows)
        is_target_RL = batch["is_answer_RL"][:, 1:]
        logits = self._logits(hidden_RLD[:, :-1][is_target_RL])
        each = cross_entropy(logits.float(), batch["ids_RL"][:, 1:][is_target_RL], reduction="none")
        weights = batch["weight_R"][:, None].expand_as(is_target_RL)[is_target_RL]
        return {"text": (each * weights).sum() / weights.sum()}

    def features(self, pixels_B3SS: Tensor) -> Tensor:
        """(B, N, D) what the language model reads of each tile."""
        found: Tensor = self.model.model.get_image_features(pixels_B3SS).pooler_output
        return found

    def read(self, features_RND: Tensor, ids_RL: Tensor, shown_RL: Tensor, is_answer_RL: Tensor) -> Tensor:
        """(R, L, D) what the last layer makes of rows, each with the features of its tile."""
        output = self.model.model(
            input_ids=ids_RL,
            attention_mask=shown_RL,
            # What is no answer sees all of the question; padding counts as answer and is seen by nobody.
            token_type_ids=(is_answer_RL | (shown_RL == 0)).long(),
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features_RND)},
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def divisors(self, batch: Batch) -> dict[str, Divisor]:
        """The weight of the tokens of answers."""
        of_rows_R = batch["is_answer_RL"][:, 1:].sum(1)
        return {"text": Divisor(float((of_rows_R * batch["weight_R"]).sum()))}

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:  # noqa: ARG002 - asks its own
        """Instances of each image, in the order of its tiles and of the classes, each from top to bottom."""
        answers = self.ask(images)
        return [self._found(written, i.shape[:2]) for i, written in zip(images, answers, strict=True)]

    def ask(self, images: Sequence[ImageHWC]) -> list[list[Written]]:
        """What the network writes about each tile of each image and each class."""
        self._last = [[] for _ in images]
        asked: list[tuple[int, int, ImageHWC, str]] = []
        for n, image in enumerate(images):
            scaled = letterbox(image, self.options.image_size)
            shown = cut_image(scaled, side=self.options.side, tiles=self.options.tiles)
            asked += [(n, k, tile, label) for k, tile in enumerate(shown) for label in self.classes]
        for start in range(0, len(asked), _ROWS_AT_ONCE):
            part = asked[start : start + _ROWS_AT_ONCE]
            for (n, _, _, _), written in zip(part, self._write([row[1:] for row in part]), strict=True):
                self._last[n].append(written)
                self._pieces[0] += len(written.answer.unread)
                self._pieces[1] += len(written.answer.unread) + len(written.answer.objects)
        return self._last

    def texts(self) -> list[str]:
        """What was asked and written about each image of the last prediction: a line a question."""
        many = self.options.tiles > 1
        return [
            "\n".join(f"{f'tile {w.tile}: ' * many}{self.questions[w.label][0]} -> {w.text}" for w in answers)
            for answers in self._last
        ]

    def take_counts(self) -> dict[str, float]:
        """Objects that were left out of targets, because an answer holds `max_objects`."""
        surplus, self._surplus_objects = self._surplus_objects, 0.0
        return {"surplus_objects": surplus}

    def take_rates(self) -> dict[str, tuple[float, float]]:
        """`parse_failure_rate`: pieces of answers that could not be read, of how many."""
        (unread, total), self._pieces = self._pieces, [0.0, 0.0]
        return {"parse_failure_rate": (unread, total)}

    def _asked(self, example: Example) -> Iterator[str]:
        """The classes that an image shows, and some that it does not."""
        present = {self.classes[k] for k in example.labels.tolist()}
        yield from (label for label in self.classes if label in present)
        absent = [label for label in self.classes if label not in present]
        count = max(self.options.negatives, not present)
        yield from (absent[k] for k in sorted(torch.randperm(len(absent))[:count].tolist()))

    def _row(self, example: Example, label: str) -> tuple[list[int], list[int]]:
        texts = self.questions[label]
        text = texts[int(torch.randint(len(texts), ()))] if self.training and len(texts) > 1 else texts[0]
        objects = in_order(self._objects(example, label))
        self._surplus_objects += max(0, len(objects) - self.options.max_objects)
        return self.vocabulary.question(text), self.vocabulary.answer(write(objects[: self.options.max_objects]))

    def _objects(self, example: Example, label: str) -> list[TokenObject]:
        """The objects of a class, without what is ignored of them; what has no pixel left is none."""
        size = self.options.side
        instances = []
        for n in np.flatnonzero(example.labels == self.classes.index(label)):
            rle = masks.encode(pad(example.masks_NHW[n] & ~example.ignore_HW, size))
            if rle.area:
                instances.append(Instance(label, rle, rle.box_xyxy))
        return to_objects(instances, size_hw=(size, size), codec=self._codec[0])

    def _pixels(self, images: Sequence[ImageHWC]) -> Tensor:
        return stack_images(images, self.options.side, mean=_HALF, std=_HALF)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.lm_head(hidden)
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)  # of Gemma 2
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _write(self, rows: Sequence[tuple[int, ImageHWC, str]]) -> list[Written]:
        return write_answers(
            self.model,
            self.vocabulary,
            self._pixels([tile for _, tile, _ in rows]),
            [(tile, label, self.questions[label][0]) for tile, _, label in rows],
            max_objects=self.options.max_objects,
            grammar=self.options.grammar,
        )

    def _found(self, answers: Sequence[Written], size_hw: tuple[int, int]) -> tuple[Instance, ...]:
        """Objects in the image's own pixels; each tile, as large as it would be there with its padding, is a frame."""
        size_hw = size_hw[0], size_hw[1]
        tiles = tiles_of(size_hw, side=self.options.side, tiles=self.options.tiles)
        found: list[tuple[int, Instance]] = []
        for written in answers:
            tile = tiles[written.tile]
            instances = to_instances(
                written.answer.objects,
                size_hw=tile.size_hw,
                frame_hw=tile.frame_hw,
                codec=self._codec[0],
                edges=self.options.edges,
                scores=written.scores,
            )
            found += [(written.tile, tile.place(i, size_hw)) for i in instances if i is not None]
        return tuple(joined(found, size_hw=size_hw))


def build(options: Options, classes: tuple[str, ...]) -> PaliGemma:
    """The network with its base weights.

    Raises:
        WeightsError: weights, tokenizer or codec are missing or do not fit.
        DataError: a class name cannot be part of an answer.
    """
    return PaliGemma(options, classes)
