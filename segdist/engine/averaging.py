"""Weights averaged over the steps of training: what is scored, saved and exported where `train.ema` says so."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segdist.engine.divided import divided_as, mine


class AveragedWeights:
    """A moving average of what moves in a network, over a span that grows with the steps (Karras et al. 2024, eq. 2).

    After step t the old average counts (1 - 1/t)^p, and the weights the rest, so that half of the average always comes
    from the last `half_life` share of the steps so far: the first step leaves nothing of the weights before it, and a
    long run needs no other value than a short one. What is frozen is neither copied nor averaged. Averages, as of batch
    norms, are buffers that move with the weights. Of tensors that are divided over workers each averages its part.
    """

    def __init__(self, network: nn.Module, trained: Collection[str], *, half_life: float, steps: int = 0) -> None:
        """Begin with the weights as they are.

        Args:
            network: whose weights are averaged.
            trained: names of the parameters that training moves.
            half_life: share of the steps so far, 0..1.
            steps: already in the average.
        """
        self._power = math.log(0.5) / math.log(1 - half_life)
        self._moving = moving(network, trained)
        self._averages = {name: mine(value.detach()).clone() for name, value in self._moving.items()}
        self.steps = steps

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights in, after a step that moved them."""
        self.steps += 1
        decay = (1 - 1 / self.steps) ** self._power
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch says no types
        average([*self._averages.values()], [*map(mine, self._moving.values())], self.steps)

    @torch.no_grad()
    def settle(self, names: Iterable[str]) -> None:
        """Leave what was averaged of some weights behind: they stay as they are, and so does what was made of them."""
        for name in names:
            self._averages[name].copy_(mine(self._moving[name]))

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the averages into the network, and keep what was there; once more puts it back."""
        for name, value in self._moving.items():
            there = mine(value).clone()
            mine(value).copy_(self._averages[name])
            self._averages[name].copy_(there)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averages, and within the block is the model."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()


def moving(network: nn.Module, trained: Collection[str]) -> dict[str, Tensor]:
    """What training moves step by step: the trained parameters, and the buffers that are saved and no counters."""
    saved = network.state_dict(keep_vars=True)
    buffers = {name: value for name, value in network.named_buffers() if name in saved and value.is_floating_point()}
    return {name: p for name, p in network.named_parameters() if name in trained} | buffers


@torch.no_grad()
def put(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Copy whole values into tensors of the same names, of which this worker may hold a part."""
    for name, value in values.items():
        mine(into[name]).copy_(mine(divided_as(value, into[name])))
