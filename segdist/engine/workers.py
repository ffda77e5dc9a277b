"""The workers that train one model together: who am I, where do I compute, and what do the others say."""

import platform
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import distributed, nn

from segdist.core.cards import has_card, lent
from segdist.core.errors import BackendError

T = TypeVar("T")

_OF_A_SHARE = 0.95
"""Of a share of a card that is a process's own: the rest is for what CUDA holds beside torch. A plan allows as much."""


@contextmanager
def reserved(*, cpus: float, gpus: float) -> Iterator[None]:
    """Within the block torch takes no more of this machine than was reserved: so many threads, and cards or none.

    Raises:
        BackendError: cards were reserved, and torch cannot use them.
    """
    if gpus:
        check_card()
    torch.set_num_threads(max(1, int(cpus)))
    with lent(any_card=gpus > 0), _within_share(gpus):
        yield


@contextmanager
def _within_share(gpus: float) -> Iterator[None]:
    """Who has a share of a card takes no memory of the others there: it runs out of its own first, and is halved."""
    if not 0 < gpus < 1:
        yield
        return
    torch.cuda.set_per_process_memory_fraction(_OF_A_SHARE * gpus)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def check_card() -> None:
    """A worker for which a card is reserved must be able to compute on it.

    Raises:
        BackendError: torch cannot use it.
    """
    if lack := lack_of_card():
        raise BackendError(f"Ray reserved a card for this worker, but {lack}; or reserve none.")


def lack_of_card() -> str:
    """Why torch cannot use a card on this node, and what would mend that, without a full stop; "" where it can."""
    if torch.cuda.is_available():
        return ""
    try:
        torch.empty(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    else:
        return ""
    return (
        f"torch {torch.__version__} on {platform.node()} cannot use one ({reason}). Install a driver and a build of "
        "torch there that can"
    )


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
