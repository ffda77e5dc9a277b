"""The torch side of OneFormer: transformers' network; text, targets, loss and predictions of our own.

transformers' processor is not used: it crashes on an image without objects, counts them wrongly over a batch, and reads
a file of classes. Sentences are encoded once each, however many queries share them.

Shapes: B images, S side of the padded square, Q queries, T sentences of an image, U different sentences, L their
length, C classes, N objects.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from segdist.core.errors import SpecError, did_you_mean
from segdist.core.plugins import Batch, Example, ImageHWC
from segdist.core.records import Instance
from segdist.models.oneformer import Options
from segdist.models.oneformer.architecture import load
from segdist.models.oneformer.tasks import merged, panoptic, semantic
from segdist.models.oneformer.text import TASKS, sentences
from segdist.nets.bounded import BoundedLayers
from segdist.nets.collate import stack_images
from segdist.nets.queries import instances_of_queries, object_targets, without_empty
from segdist.nets.segmenter import Divisor, Traceable
from segdist.nets.set_criterion import Layer, MaskFormerCriterion, Targets

_MOST_CERTAIN = 100.0
"""Largest factor on the contrastive logits, as in CLIP (Radford et al. 2021)."""


class OneFormer(Traceable):
    """Learns from masks and from the names of what they show; answers in the way of one task."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        if unknown := [name for name in options.stuff if name not in classes]:
            raise SpecError(
                f"`model.oneformer.stuff` must name classes of the data, but there is no `{unknown[0]}`. "
                f"{did_you_mean(unknown[0], classes)}"
            )
        self.model, self.vocabulary = load(options, classes)
        config = self.model.config
        self.logit_scale = self.model.criterion.logit_scale
        self.model.criterion = None  # ours below knows ignored pixels
        self.model.model.is_training = False  # the text is encoded below; the network needs none to predict
        self.criterion = MaskFormerCriterion(
            num_points=min(config.train_num_points, options.image_size**2 // 4),
            no_object_weight=config.no_object_weight,
        )
        # Swin's last norm feeds the pooled output, which nothing reads.
        self.model.model.pixel_level_module.encoder.swin.layernorm.requires_grad_(requires_grad=False)
        # `is_training` of the configuration, which builds the text encoder, would have dropout in predictions too.
        self._bounded = BoundedLayers(self.model.model.pixel_level_module.decoder.encoder.layers, flag="is_training")

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's
        """Training mode, but for layers that would look at their values then."""
        super().train(mode)
        self._bounded.train(is_training=mode)
        return self

    @property
    def region_classes(self) -> tuple[str, ...]:
        """Classes that come as one region an image: as the task has it."""
        return {"semantic": self.classes, "panoptic": self.options.stuff, "instance": ()}[self.options.task]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pixels (B, 3, S, S), each image's task and sentences as token numbers, and its objects' labels and masks."""
        size = self.options.image_size
        tasks = [self._task() for _ in examples]
        shown = [self._with_regions(without_empty(e), task) for e, task in zip(examples, tasks, strict=True)]
        texts_UL, which_BT = self._texts(shown, tasks)
        return {
            "pixels_B3SS": stack_images([e.image_HWC for e in shown], size),
            "tasks_BL": self._task_tokens(tasks),
            "texts_UL": texts_UL,
            "which_BT": which_BT,
            **object_targets(shown, size, self.objective.noise),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms `class`, `mask` and `dice` as means over the decoder's layers, and `contrastive`."""
        features = self.computed("features", batch["pixels_B3SS"])
        # Its decoder picks rows by their values, which cannot be done for several trainings at once.
        layers, queries_BQE = self._answers(features, batch["tasks_BL"])
        texts_BQE = self.computed("text_queries", batch["texts_UL"], batch["which_BT"])
        with torch.autocast(batch["pixels_B3SS"].device.type, enabled=False):  # sums over thousands of points
            return {
                **self.criterion([Layer(*logits) for logits in layers], Targets.of(batch)),
                "contrastive": contrastive(queries_BQE, texts_BQE, self.logit_scale),
            }

    def features(self, pixels_B3SS: Tensor) -> tuple[Tensor, ...]:
        """What the encoder makes of images, the finest first."""
        return tuple(self.model.model.pixel_level_module.encoder(pixels_B3SS).feature_maps)

    def _answers(self, features: Sequence[Tensor], tasks_BL: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Logits of classes and masks after each layer of the decoder, and its queries for the texts; in float32."""
        inner = self.model.model
        pixels = inner.pixel_level_module.decoder(list(features))
        decoded = inner.transformer_module(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            task_token=inner.task_encoder(tasks_BL.to(inner.dtype)),
        )
        layers = [(of["class_queries_logits"], of["masks_queries_logits"]) for of in decoded.auxiliary_predictions]
        every = [*layers, (decoded.prediction_class, decoded.prediction_masks)]
        return [(classes.float(), masks.float()) for classes, masks in every], decoded.contrastive_logits.float()

    def divisors(self, batch: Batch) -> dict[str, Divisor]:
        """Those of the criterion. `contrastive` compares the images of a batch, so it depends on how many they are."""
        return self.criterion.divisors(Targets.of(batch), num_queries=self.model.config.num_queries)

    def outputs(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the last layer for `task`: classes with "no object" last (B, Q, C + 1), and masks (B, Q, h, w)."""
        return self._last_layer(self.features(pixels_B3SS))

    def _last_layer(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        task_1L = self._task_tokens([self.options.task]).to(features[0].device)
        layers, _ = self._answers(features, task_1L.expand(len(features[0]), -1))
        return layers[-1]

    def answered(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """`outputs`; trainings of one pack have the encoder in common."""
        return self._last_layer(self.computed("features", pixels_B3SS))

    def found(self, outputs: Sequence[Tensor], images: Sequence[ImageHWC]) -> list[tuple[Instance, ...]]:
        """Instances of each image in the way of `task`, best first."""
        return [
            self._instances(classes_QC.softmax(-1)[:, :-1], masks_Qhw, (image.shape[0], image.shape[1]))
            for image, classes_QC, masks_Qhw in zip(images, *outputs, strict=True)
        ]

    def take_counts(self) -> dict[str, float]:
        """What could not be used in training since the last call: see `matching.Matcher`."""
        return self.criterion.matcher.take_counts()

    def _instances(self, scores_QC: Tensor, masks_Qhw: Tensor, size_hw: tuple[int, int]) -> tuple[Instance, ...]:
        place: Any = {"classes": self.classes, "size_hw": size_hw, "image_size": self.options.image_size}
        if self.options.task == "semantic":
            return semantic(scores_QC, masks_Qhw, **place)
        instances = instances_of_queries(scores_QC, masks_Qhw, weigh_by_mask=True, **place)
        return instances if self.options.task == "instance" else panoptic(instances, stuff=self.options.stuff)

    def _task(self) -> str:
        if self.options.train_tasks == "same":
            return self.options.task
        return TASKS[int(torch.randint(len(TASKS), ()))]

    def _with_regions(self, example: Example, task: str) -> Example:
        """The example with what counts as one object in a task."""
        one_region = self.classes if task == "semantic" else self.options.stuff if task == "panoptic" else ()
        return merged(example, [self.classes.index(name) for name in one_region]) if one_region else example

    def _task_tokens(self, tasks: Sequence[str]) -> Tensor:
        """(B, L) token numbers, as floats: a layer of weights reads them as they are."""
        length = self.model.config.task_seq_len
        return torch.stack([self.vocabulary.task(task, length=length) for task in tasks]).float()

    def _texts(self, examples: Sequence[Example], tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The different sentences of a batch (U, L), and for each image which of them its queries are compared with."""
        config = self.model.config
        count = config.num_queries - config.text_encoder_n_ctx
        said = [
            sentences(e.labels.tolist(), self.classes, task, count=count)
            for e, task in zip(examples, tasks, strict=True)
        ]
        different = sorted({sentence for one in said for sentence in one})
        which_BT = torch.tensor([[different.index(sentence) for sentence in one] for one in said])
        return self.vocabulary.numbers(different, length=config.text_encoder_context_length), which_BT

    def text_queries(self, texts_UL: Tensor, which_BT: Tensor) -> Tensor:
        """(B, Q, E) encoded sentences, and learned words behind them; in float32."""
        mapper = self.model.model.text_mapper
        texts_BTE = mapper.text_projector(mapper.text_encoder(texts_UL))[which_BT]
        if mapper.prompt_ctx is None:
            return texts_BTE.float()
        words_BWE = mapper.prompt_ctx.weight.expand(len(which_BT), -1, -1)
        return torch.cat([texts_BTE.float(), words_BWE.float()], dim=1)


def build(options: Options, classes: tuple[str, ...]) -> OneFormer:
    """The network with its base weights.

    Raises:
        SpecError: `stuff` names no class, or there are too few queries.
        WeightsError: the weights are missing or do not fit.
    """
    return OneFormer(options, classes)


def contrastive(queries_BQE: Tensor, texts_BQE: Tensor, logit_scale: Tensor) -> Tensor:
    """Cross-entropy of telling which text belongs to which image, and which image to which text (section 3.3).

    A zero connected to the graph with a single image: there is nothing to tell apart.
    """
    images_BF = functional.normalize(queries_BQE.flatten(1), dim=-1)
    texts_BF = functional.normalize(texts_BQE.flatten(1), dim=-1)
    logits_BB = texts_BF @ images_BF.T * logit_scale.exp().clamp(max=_MOST_CERTAIN)
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return functional.cross_entropy(logits_BB, own_B) + functional.cross_entropy(logits_BB.T, own_B)
