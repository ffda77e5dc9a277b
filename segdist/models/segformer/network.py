"""The torch side of SegFormer: transformers' network under the semantic head that families share.

transformers' processor is not used: it stretches images to a square, and its loss knows no weights of pixels.

Shapes: B images, S side of the padded square, K classes with background.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from segdist.models.segformer import PUBLISHED, Options
from segdist.nets import pretrained
from segdist.nets.semantic import BACKGROUND, SemanticSegmenter, enlarged
from segdist.nets.weights import RANDOM

_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
_SHAPES: Mapping[str, Mapping[str, object]] = {
    "debug": {
        "hidden_sizes": (16, 32, 48, 64),
        "depths": (1, 1, 1, 1),
        "num_attention_heads": (1, 2, 3, 4),
        "decoder_hidden_size": 64,
        "drop_path_rate": 0.0,
        "classifier_dropout_prob": 0.0,
    },
    "b0": {"hidden_sizes": _NARROW, "depths": (2, 2, 2, 2), "decoder_hidden_size": 256},
    "b1": {"hidden_sizes": _WIDE, "depths": (2, 2, 2, 2), "decoder_hidden_size": 256},
    "b2": {"hidden_sizes": _WIDE, "depths": (3, 4, 6, 3), "decoder_hidden_size": 768},
    "b3": {"hidden_sizes": _WIDE, "depths": (3, 4, 18, 3), "decoder_hidden_size": 768},
    "b4": {"hidden_sizes": _WIDE, "depths": (3, 8, 27, 3), "decoder_hidden_size": 768},
    "b5": {"hidden_sizes": _WIDE, "depths": (3, 6, 40, 3), "decoder_hidden_size": 768},
}
"""The published shapes (Xie et al. 2021, table 6), and one that trains on a laptop's CPU."""
_FIXED: Mapping[str, object] = {"strides": (4, 2, 2, 2), "reshape_last_stage": True}
"""What no tensor's shape shows, and all published networks have alike: a folder of weights may not say otherwise."""


class Segformer(SemanticSegmenter):
    """A class, or background, for each pixel, at a quarter of the image's resolution."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        names = dict(enumerate((BACKGROUND, *classes)))
        self.model = _load(options, id2label=names, label2id={name: number for number, name in names.items()})

    def logits(self, images_B3SS: Tensor) -> Tensor:
        """(B, K, S / 4, S / 4), background first."""
        return self._head(self.features(images_B3SS))

    def features(self, images_B3SS: Tensor) -> tuple[Tensor, ...]:
        """What the encoder makes of images, the finest first."""
        return tuple(self.model.segformer(images_B3SS, output_hidden_states=True).hidden_states)

    def _head(self, features: Sequence[Tensor]) -> Tensor:
        logits_BKhw: Tensor = self.model.decode_head(features)
        return logits_BKhw

    def _packed_logits(self, images_B3SS: Tensor) -> Tensor:
        """The head for each training alone: it draws at random."""
        return enlarged(self._head(self.computed("features", images_B3SS)), images_B3SS)


def build(options: Options, classes: tuple[str, ...]) -> Segformer:
    """The network with its base weights.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    return Segformer(options, classes)


def _load(options: Options, **labels: Mapping[int, str] | Mapping[str, int]) -> SegformerForSemanticSegmentation:
    if options.weights == RANDOM:
        return SegformerForSemanticSegmentation(SegformerConfig(**_SHAPES[options.size], **labels))
    network: SegformerForSemanticSegmentation = pretrained.load(
        SegformerForSemanticSegmentation,
        PUBLISHED,
        options.weights,
        untrained=("decode_head.classifier.",),
        heads=("decode_head.",),
        overrides={**_FIXED, **labels},
    )
    return network
