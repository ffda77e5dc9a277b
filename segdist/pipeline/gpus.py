"""How many GPUs workers get: what was asked for, or with `auto` one where the cluster has any that torch can use."""

from collections.abc import Sequence
from functools import cache
from math import floor
from types import ModuleType
from typing import NamedTuple

from segdist.core.errors import BackendError, SpecError
from segdist.core.spec import Gpus, SweepSpec
from segdist.core.text import counted
from segdist.pipeline.packing import Node, nodes_of
from segdist.sweepfile.loading import candidates
from segdist.sweepfile.train_checks import needs_gpu

_ANSWERS_WITHIN = 60.0
"""Seconds that a free card is waited for, to ask torch about it: one that others use is usable."""


class Given(NamedTuple):
    """What workers get.

    Attributes:
        gpus: of each worker.
        lack: why there is none though the cluster has some; "" where that is not so.
    """

    gpus: float
    lack: str = ""


def given(asked: Gpus, ray: ModuleType) -> Given:
    """The GPUs that a worker gets on the cluster as it is now.

    Args:
        asked: a number, or auto.
        ray: the connected `ray` module.

    Raises:
        BackendError: a number was asked for, and torch cannot use the cards that there are.
    """
    with_cards = tuple(node for node in nodes_of(ray) if floor(node.gpus))
    if not asked or not with_cards:
        return Given(0.0 if asked == "auto" else asked)
    lack = _lack(ray, with_cards)
    if asked == "auto":
        return Given(0.0, lack) if lack else Given(1.0)
    if lack:
        raise BackendError(
            f"Workers ask for {counted(asked, 'GPU')} each, but {lack}; or ask for 0, to compute on the CPU."
        )
    return Given(asked)


def expected(asked: Gpus, nodes: Sequence[Node]) -> Given:
    """The GPUs that a worker will get on these nodes, as far as that is known without asking torch on them."""
    if asked != "auto":
        return Given(asked)
    return Given(float(any(floor(node.gpus) for node in nodes)))


def with_gpus(spec: SweepSpec, found: Given) -> SweepSpec:
    """A sweep whose trials reserve what was found.

    Raises:
        SpecError: its budget bounds GPU-hours, or an adapter needs a GPU, and trials hold none.
    """
    because = f": {found.lack}" if found.lack else ""
    if not found.gpus and needs_gpu(spec, candidates(spec)):
        raise SpecError(
            f"`train.adapter.kind: qlora` needs a GPU, and this cluster gives trials none{because}. Use `lora`."
        )
    budget = spec.search.budget
    if budget and budget.gpu_hours is not None and not found.gpus:
        raise SpecError(
            f"`search.budget.gpu_hours: {budget.gpu_hours:g}` bounds nothing where trials hold no GPU, and this "
            f"cluster gives them none{because}. Bound `search.budget.hours` instead."
        )
    return spec.model_copy(update={"resources": spec.resources.with_gpus(found.gpus)})


@cache
def _lack(ray: ModuleType, nodes: tuple[Node, ...]) -> str:  # noqa: ARG001 - other nodes are asked anew
    """Why torch cannot use a card of the cluster; "" where it can, or where none is free to ask."""
    asked = ray.remote(_of_torch).options(num_cpus=0, num_gpus=1).remote()
    try:
        return str(ray.get(asked, timeout=_ANSWERS_WITHIN))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)
        return ""


def _of_torch() -> str:
    from segdist.engine.workers import lack_of_card

    return lack_of_card()
