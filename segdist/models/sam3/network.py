"""The torch side of SAM 3: transformers' network, questions, loss and predictions of our own.

transformers gives no loss and takes no labels. The inner layers' outputs, which the loss needs, are not among its
results: hooks catch them.

Shapes: B images, K classes, P questions (pairs of image and class), Q queries, L decoder layers, T tokens, S side of
the padded square, h w of the predicted masks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput, inverse_sigmoid
from transformers.utils import ModelOutput

from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.models.sam3 import Options, tokens
from segdist.models.sam3.architecture import load
from segdist.models.sam3.criterion import Predicted, Sam3Criterion, Sam3Layer
from segdist.nets.collate import (
    ChannelValues,
    centred_boxes,
    crowds,
    ignored,
    instance_smoothing,
    instance_weights,
    padded_masks,
    stack_images,
)
from segdist.nets.queries import instances_of_queries, without_empty
from segdist.nets.segmenter import Divisor, Segmenter
from segdist.nets.set_criterion import Targets
from segdist.reading.examples import letterbox, scale_boxes

_MEAN: ChannelValues = (127.5, 127.5, 127.5)
_STD: ChannelValues = (127.5, 127.5, 127.5)
_NO_BOX = -10
"""transformers' mark of an empty place among boxes."""
_QUESTIONS_AT_ONCE = 8
"""Questions answered together at prediction: each has its own copy of the pixel decoder's features."""


class Sam3(Segmenter):
    """Asked for a class by its name, it finds the instances of it; a class of "stuff" is an instance like any other.

    Every trained parameter is in the graph of every batch, also without objects.

    Attributes:
        ids_KT: tokens of the class names.
        there_KT: 1 where there is a token, 0 in the padding.
    """

    options: Options
    ids_KT: Tensor
    there_KT: Tensor

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        self.model = load(options)
        # A predicted mask has a sixteenth of the pixels; more points than 4 to each of those say nothing new.
        self.criterion = Sam3Criterion(num_points=min(12544, options.image_size**2 // 4))
        phrases = [options.names.get(name, name.replace("_", " ")) for name in classes]
        self._reader = tokens.tokenizer(options.weights)
        ids_KT, there_KT = tokens.encode(self._reader, phrases)
        self.register_buffer("ids_KT", ids_KT, persistent=False)
        self.register_buffer("there_KT", there_KT, persistent=False)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pixels (B, 3, S, S); the questions, as image and class; and for each its boxes in 0..1 and masks."""
        size = self.options.image_size
        shown = [without_empty(e) for e in examples]
        asked = [(n, k) for n, e in enumerate(shown) for k in self._asked(e)]
        image_P, class_P = torch.tensor(asked).unbind(1)
        masks = [padded_masks(e, size) for e in shown]
        boxes = [centred_boxes(e, size) for e in shown]
        weights = [instance_weights(e, self.objective.noise) for e in shown]
        smoothing = [instance_smoothing(e, self.objective.noise) for e in shown]
        of_question = [torch.from_numpy(shown[n].labels == k) for n, k in asked]
        return {
            "pixels_B3SS": self._pixels([e.image_HWC for e in shown]),
            "image_B": image_P,
            "class_P": class_P,
            "labels": [torch.zeros(int(own_N.sum()), dtype=torch.int64) for own_N in of_question],
            "boxes_cxcywh": [boxes[n][own_N] for (n, _), own_N in zip(asked, of_question, strict=True)],
            "masks": [masks[n][own_N] for (n, _), own_N in zip(asked, of_question, strict=True)],
            "weights": [weights[n][own_N] for (n, _), own_N in zip(asked, of_question, strict=True)],
            "smoothing": [smoothing[n][own_N] for (n, _), own_N in zip(asked, of_question, strict=True)],
            "ignored_BSS": ignored(shown, size),
            "crowd_BSS": crowds(shown, size),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of `criterion.TERMS`."""
        seen = self._seen(batch["pixels_B3SS"])
        predicted = self._answers(seen, batch["image_B"], batch["class_P"], (self.ids_KT, self.there_KT))
        with torch.autocast(batch["pixels_B3SS"].device.type, enabled=False):  # sums over thousands of points
            return self.criterion.terms(predicted, Targets.of(batch))

    def divisors(self, batch: Batch) -> dict[str, Divisor]:
        """Those of the criterion."""
        return self.criterion.divisors(Targets.of(batch), num_queries=self.model.config.detr_decoder_config.num_queries)

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """Instances of each image, best first: at most 100 a class, scored at least 0.05 (query times presence).

        An image is asked for every class, or for the phrase of its prompt alone, which is then their label; boxes
        beside the phrase are shown as examples. The same image under several prompts is encoded once.
        """
        if not images:
            return []
        different = {id(image): image for image in images}
        place = {name: n for n, name in enumerate(different)}
        pixels_B3SS = self._pixels([letterbox(image, self.options.image_size) for image in different.values()])
        seen = self._seen(pixels_B3SS.to(self.model.device))
        phrases = sorted({p.text for p in prompts if p.text})
        names, tokens_RT = (*self.classes, *phrases), self._tokens(phrases)
        found: list[list[Instance]] = [[] for _ in images]
        every = [
            (n, k)
            for n, prompt in enumerate(prompts)
            for k in ([len(self.classes) + phrases.index(prompt.text)] if prompt.text else range(len(self.classes)))
        ]
        for some in _portions(every, prompts):
            image_P, class_P = (
                torch.tensor([(place[id(images[n])], k) for n, k in some]).to(self.model.device).unbind(1)
            )
            shown = [self._exemplars(images[n], prompts[n]) for n, _ in some]
            predicted = self._answers(seen, image_P, class_P, tokens_RT, shown)
            for (n, k), scores_Q, masks_Qhw in zip(some, _scores(predicted), predicted.masks_PQhw, strict=True):
                found[n].extend(self._instances(scores_Q, masks_Qhw, names[k], images[n]))
        return [tuple(sorted(instances, key=lambda i: -i.score)) for instances in found]

    def take_counts(self) -> dict[str, float]:
        """What could not be used in training since the last call: see `matching.Matcher`."""
        return self.criterion.take_counts()

    def _instances(self, scores_Q: Tensor, masks_Qhw: Tensor, label: str, image: ImageHWC) -> tuple[Instance, ...]:
        return instances_of_queries(
            scores_Q[:, None],
            masks_Qhw,
            classes=(label,),
            size_hw=(image.shape[0], image.shape[1]),
            image_size=self.options.image_size,
            weigh_by_mask=False,
        )

    def _pixels(self, images: Sequence[ImageHWC]) -> Tensor:
        return stack_images(images, self.options.image_size, mean=_MEAN, std=_STD)

    def _asked(self, example: Example) -> list[int]:
        """The classes that one step asks an image for: those it shows, then absent ones, each drawn at random."""
        shown = sorted(set(example.labels.tolist()))
        absent = sorted(set(range(len(self.classes))) - set(shown))
        order = [group[i] for group in (shown, absent) for i in torch.randperm(len(group)).tolist()]
        return order[: self.options.names_per_image]

    def _seen(self, pixels_B3SS: Tensor) -> Sam3VisionEncoderOutput:
        return self.model.get_vision_features(pixels_B3SS)

    def _tokens(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens of the class names and then of further phrases, and which are there."""
        if not phrases:
            return self.ids_KT, self.there_KT
        ids_RT, there_RT = tokens.encode(self._reader, phrases)
        device = self.ids_KT.device
        return torch.cat([self.ids_KT, ids_RT.to(device)]), torch.cat([self.there_KT, there_RT.to(device)])

    def _exemplars(self, image: ImageHWC, prompt: Prompt) -> Tensor:
        """(E, 4) the boxes beside a phrase as centre and sides, in 0..1 of the padded square."""
        size, boxes = self.options.image_size, prompt.boxes_xyxy if prompt.text else ()
        own_E4 = np.array(boxes, np.float32).reshape(-1, 4)
        scaled_E4 = torch.from_numpy(scale_boxes(own_E4, (image.shape[0], image.shape[1]), size))
        return box_convert(scaled_E4, "xyxy", "cxcywh") / size

    def _answers(
        self,
        seen: Sam3VisionEncoderOutput,
        image_P: Tensor,
        class_P: Tensor,
        tokens_KT: tuple[Tensor, Tensor],
        exemplars: Sequence[Tensor] = (),
    ) -> Predicted:
        """What all decoder layers say to each question; the encoders run once an image and once a phrase."""
        ids_KT, there_KT = tokens_KT
        names_U, which_P = torch.unique(class_P, return_inverse=True)
        text = self.model.get_text_features(
            input_ids=ids_KT[names_U], attention_mask=there_KT[names_U], return_dict=True
        )
        with _outputs_of(self.model.detr_decoder, self.model.dot_product_scoring) as caught:
            output = self.model(
                vision_embeds=Sam3VisionEncoderOutput(
                    fpn_hidden_states=tuple(level[image_P] for level in seen.fpn_hidden_states),
                    fpn_position_encoding=tuple(level[image_P] for level in seen.fpn_position_encoding),
                ),
                text_embeds=BaseModelOutputWithPooling(pooler_output=text.pooler_output[which_P]),
                attention_mask=there_KT[class_P],
                **_shown(exemplars, self.model.device),
            )
        decoded, scores_LPQ1 = caught
        layers = [
            Sam3Layer(scores_PQ1.float(), boxes_BQ4=boxes_PQ4.float(), presence_P=presence_P1[:, 0].float())
            for scores_PQ1, boxes_PQ4, presence_P1 in zip(
                scores_LPQ1, self._boxes(decoded), decoded.presence_logits, strict=True
            )
        ]
        return Predicted(layers, output.pred_masks.float(), output.semantic_seg[:, 0].float())

    def _boxes(self, decoded: ModelOutput) -> Tensor:
        """(L, P, Q, 4) the boxes of every layer, as centre and sides: each moves the one before."""
        shift_LPQ4 = self.model.detr_decoder.box_head(decoded.intermediate_hidden_states)
        return (inverse_sigmoid(decoded.reference_boxes) + shift_LPQ4).sigmoid()


def build(options: Options, classes: tuple[str, ...]) -> Sam3:
    """The network with its base weights.

    Raises:
        SpecError: the image size does not fit the network.
        WeightsError: the weights or the tokenizer are missing or do not fit.
    """
    return Sam3(options, classes)


@contextmanager
def _outputs_of(*modules: nn.Module) -> Iterator[list[Any]]:
    """What the modules give in the next call, in order; filled once they have run."""
    caught: list[object] = [None] * len(modules)

    def keep(place: int) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _arguments: object, output: object) -> None:
            caught[place] = output

        return hook

    handles = [module.register_forward_hook(keep(place)) for place, module in enumerate(modules)]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _portions(every: Sequence[tuple[int, int]], prompts: Sequence[Prompt]) -> Iterator[Sequence[tuple[int, int]]]:
    """Questions that are answered together: with examples or without, since one token more says that there are some."""
    for shows in (False, True):
        of_kind = [(n, k) for n, k in every if bool(prompts[n].text and prompts[n].boxes_xyxy) is shows]
        yield from (of_kind[i : i + _QUESTIONS_AT_ONCE] for i in range(0, len(of_kind), _QUESTIONS_AT_ONCE))


def _shown(exemplars: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
    """Examples of each question as transformers takes them: all good ones; empty places are marked."""
    if not any(len(boxes_E4) for boxes_E4 in exemplars):
        return {}
    kinds = [torch.ones(len(boxes_E4), dtype=torch.long) for boxes_E4 in exemplars]
    return {
        "input_boxes": pad_sequence(list(exemplars), batch_first=True).to(device),
        "input_boxes_labels": pad_sequence(kinds, batch_first=True, padding_value=_NO_BOX).to(device),
    }


def _scores(predicted: Predicted) -> Tensor:
    """(P, Q) probability that a query is an object: that the class is there, times that it is this one."""
    last = predicted.layers[-1]
    return last.classes_BQC[..., 0].sigmoid() * last.presence_P.sigmoid()[:, None]
