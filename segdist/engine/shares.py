"""How the micro-batches of one step of the optimiser add up to it, on however many workers."""

from collections.abc import Callable, Sequence

from segdist.core.plugins import Batch
from segdist.engine.workers import Workers
from segdist.nets.segmenter import Divisor, Segmenter

Share = Callable[[str], float]
"""Takes the name of a loss term; what it is multiplied by before gradients are added up and averaged over workers."""
_IMAGES = ""
"""What a term is a mean over where its family says nothing."""


def shares(network: Segmenter, step: Sequence[Batch], counts: Sequence[int], *, workers: Workers) -> list[Share]:
    """For each micro-batch of a step, the shares of its loss terms in those of the whole step.

    A term is a mean: over images, or over what the family says (`Segmenter.divisors`). So a micro-batch counts by how
    much of that it holds; every worker asks, because they add up what all of them hold.

    Args:
        network: says what its terms are divided by.
        step: this worker's micro-batches.
        counts: images of each that count.
        workers: this process's place among the workers, over which gradients are averaged.
    """
    if len(step) * workers.world_size == 1:
        return [lambda _: 1.0]
    held = [{_IMAGES: Divisor(n), **network.divisors(batch)} for batch, n in zip(step, counts, strict=True)]
    counted = [one for one, n in zip(held, counts, strict=True) if n]
    names = sorted(held[0])
    totals = workers.totals([sum(one[name].amount for one in counted) for name in names])
    whole = {name: Divisor(total, held[0][name].least).value for name, total in zip(names, totals, strict=True)}

    def share_of(one: dict[str, Divisor], count: int) -> Share:
        def share(term: str) -> float:
            name = term if term in one else _IMAGES
            return workers.world_size * one[name].value / whole[name] if count and whole[name] else 0.0

        return share

    return [share_of(one, n) for one, n in zip(held, counts, strict=True)]
