"""Layers of a pixel decoder that look at their values in training, to bound them, and here do it unseen.

What looks at values cannot be computed for several trainings at once.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class BoundedLayers:
    """Layers of transformers' deformable pixel decoders: half precision may be too small for their values.

    Those with dropout stay as they are, for they draw at random anyway.

    Args:
        layers: each with `dropout` and `activation_dropout`, and the hidden states first among its outputs.
        flag: the attribute by which a layer knows that it is trained.
    """

    def __init__(self, layers: Iterable[nn.Module], *, flag: str = "training") -> None:
        self._layers, self._flag, self._is_training = list(layers), flag, True
        for layer in self._layers:
            if not _draws(layer):
                layer.register_forward_hook(self._bound)

    def train(self, *, is_training: bool) -> None:
        """Have the layers be trained from now on, or not."""
        self._is_training = is_training
        for layer in self._layers:
            setattr(layer, self._flag, is_training and _draws(layer))

    def _bound(self, _: nn.Module, __: object, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """In training, values bounded as transformers does."""
        if not self._is_training:
            return outputs
        most = torch.finfo(outputs[0].dtype).max - 1000
        return outputs[0].clamp(-most, most), *outputs[1:]


def _draws(layer: nn.Module) -> bool:
    return bool(layer.dropout or layer.activation_dropout)
