"""One of two processes that train SAM 3 together; apart from the tests, because each process imports it anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from segdist.models.sam3 import FAMILY
from segdist.testing.pictures import example
from segdist.testing.variants import Variant


def total(terms: Mapping[str, torch.Tensor], *, only: str = "") -> torch.Tensor:
    """The weighted sum of some terms; with `only`, all others weigh nothing, as a search may choose."""
    weights = {name: FAMILY.losses[name] * (only in ("", name)) for name in terms}
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


@dataclass
class Outcome:
    """How the fit of one worker ended."""

    names: list[str]
    values: list[np.ndarray]
    steps: int
    without_gradient: list[str]
    """After any of the steps."""


def work(rank: int, folder: Path) -> Outcome:
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        model = Variant("sam3").build()
        # Without a search for unused parameters: the step after one that left some out would raise.
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        steps, without = 0, []
        for objects, only in ((rank == 0, ""), (False, ""), (True, "presence"), (False, "box"), (True, "")):
            terms = parallel(model.collate([example(64, objects=objects)]))
            optimizer.zero_grad()
            torch.autograd.backward(total(terms, only=only))
            without += [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            optimizer.step()
            steps += 1
        trained = {n: p.detach().numpy() for n, p in model.named_parameters() if p.requires_grad}
        return Outcome(list(trained), list(trained.values()), steps, without)
    finally:
        distributed.destroy_process_group()
