"""The workers that train one model together: who am I, where do I compute, and what do the others say."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import distributed, nn

from segdist.core.cards import has_card, lent

T = TypeVar("T")


@contextmanager
def reserved(*, cpus: float, gpus: float) -> Iterator[None]:
    """Within the block torch takes no more of this machine than was reserved: so many threads, and cards or none."""
    torch.set_num_threads(max(1, int(cpus)))
    with lent(any_card=gpus > 0):
        yield


@dataclass(frozen=True)
class Workers:
    """One process of a data-parallel group; the only one by default."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def here(cls) -> "Workers":
        """This process, in the torch process group if there is one, on its own GPU if it has one and the work may."""
        device = torch.device("cuda", torch.cuda.current_device()) if has_card() else torch.device("cpu")
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size(), device)
        return cls(device=device)

    @property
    def is_chief(self) -> bool:
        """Whether this worker saves and reports for all."""
        return self.rank == 0

    def parallel(self, network: nn.Module, *, finds_unused: bool = False) -> nn.Module:
        """The model with gradients averaged over the workers.

        Args:
            network: knows what it trains.
            finds_unused: whether a step may leave parameters unused; looking for them costs a walk over the graph.
        """
        if self.world_size == 1:
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids, find_unused_parameters=finds_unused)

    @staticmethod
    def unsynchronised(parallel: nn.Module) -> AbstractContextManager[None]:
        """While gradients are added up over several steps, they need not be averaged after each."""
        if isinstance(parallel, nn.parallel.DistributedDataParallel):
            return parallel.no_sync()
        return nullcontext()

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every worker the chief's values."""
        if self.world_size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def gather(self, mine: list[T]) -> list[T]:
        """The lists of all workers, one after the other."""
        if self.world_size == 1:
            return mine
        parts: list[list[T]] = [[]] * self.world_size
        distributed.all_gather_object(parts, mine)
        return [item for part in parts for item in part]

    def totals(self, values: list[float]) -> list[float]:
        """The sums of numbers over the workers, each of which gives as many."""
        if self.world_size == 1:
            return values
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(summed)
        return [float(value) for value in summed]

    def mean(self, value: float) -> float:
        """The mean of a number over the workers."""
        values = self.gather([value])
        return sum(values) / len(values)
