"""An epoch that is not over: what its steps have measured, kept where training is left in the middle of it."""

from dataclasses import dataclass, field
from typing import Self, TypedDict

import torch

from segdist.engine.workers import Workers


class LeftError(Exception):
    """Training is to be left, with the epoch that is under way."""


class Kept(TypedDict):
    """What of an epoch under way is in a checkpoint."""

    terms: dict[str, list[float]]
    norms: list[float]
    counts: dict[str, float]
    seconds: float
    random: list[dict[str, torch.Tensor]]


@dataclass
class UnderWay:
    """What the steps of an epoch have measured so far.

    Attributes:
        terms: the values of each loss term, one a step; on the device, because to read one is to wait for it.
        norms: of the gradient, one a step.
        counts: what the family counted before training was left.
        seconds: of training before it was left.
    """

    terms: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    _random: list[dict[str, torch.Tensor]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Of the optimiser, that are done."""
        return len(self.norms)

    def values(self) -> dict[str, list[float]]:
        """Of each loss term, one a step."""
        return {name: _read(values) for name, values in self.terms.items()}

    def state(self, workers: Workers) -> Kept:
        """What goes on elsewhere, also with another number of workers; every worker asks for it.

        Loss terms are means over the workers, so that whoever goes on has those of all.
        """
        mine = self.values()
        totals = workers.totals([value for name in sorted(mine) for value in mine[name]])
        means = iter(total / workers.world_size for total in totals)
        return {
            "terms": {name: [next(means) for _ in mine[name]] for name in sorted(mine)},
            "norms": self.norms,
            "counts": self.counts,
            "seconds": self.seconds,
            "random": workers.gather([_random_state(workers.device)]),
        }

    @classmethod
    def of(cls, state: Kept) -> Self:
        """An epoch that is gone on with."""
        terms = {name: list(torch.tensor(values, dtype=torch.float64)) for name, values in state["terms"].items()}
        return cls(terms, state["norms"], state["counts"], state["seconds"], state["random"])

    def take_up_chance(self, workers: Workers) -> None:
        """Draw on as this worker did, where there was such a one; else each draws from its own seed."""
        if workers.rank >= len(self._random):
            return
        kept = self._random[workers.rank]
        torch.set_rng_state(kept["cpu"])
        if workers.device.type == "cuda" and "cuda" in kept:
            torch.cuda.set_rng_state(kept["cuda"], workers.device)


def _read(values: list[torch.Tensor]) -> list[float]:
    """Those of an epoch that was gone on with are here already; the others are fetched at once."""
    here = [float(value) for value in values if value.dtype == torch.float64]
    rest = values[len(here) :]
    return here + (torch.stack(rest).tolist() if rest else [])


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    on_card = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_card}
