"""What the trials of a sweep cost, and how much of that came to nothing.

*Spent* are the seconds for which a trial held its resources, times their number (workers times what each reserves):
from when its process is there to when the trial ends, is interrupted or dies, over all its starts. *Wasted* is, of
that, everything of trials that were stopped early, failed, or broke a constraint, and of all others what was done
again: from the latest checkpoint to the interruption. How a machine is waited for, and what labelling and evaluating
take, is not counted. The ledger hears of a trial at its start, its epochs and its end: where the driver itself is
killed, what ran since then is not known, and is not counted either.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from segdist.core.spec import Strict

_KINDS = {"gpu_seconds": "GPU-seconds", "cpu_seconds": "CPU-seconds"}
"""The dearest first."""


class Held(Strict):
    """Resources times the seconds for which they were held."""

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def __add__(self, other: Self) -> Self:
        return type(self)(
            cpu_seconds=self.cpu_seconds + other.cpu_seconds, gpu_seconds=self.gpu_seconds + other.gpu_seconds
        )

    def __sub__(self, other: Self) -> Self:
        return self + other * -1

    def __mul__(self, factor: float) -> Self:
        return type(self)(cpu_seconds=self.cpu_seconds * factor, gpu_seconds=self.gpu_seconds * factor)


class Cost(NamedTuple):
    """Of a sweep."""

    spent: Held
    wasted: Held

    @classmethod
    def of(cls, each: Iterable[tuple[Held, Held]]) -> Self:
        """The sum of what was spent and wasted on each trial."""
        both = list(each)
        return cls(_sum(one for one, _ in both), _sum(in_vain for _, in_vain in both))

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> Self:
        """What `metrics` gave."""
        return cls(*(Held(**{k: metrics.get(f"{part}/{k}", 0.0) for k in _KINDS}) for part in cls._fields))

    @property
    def metrics(self) -> dict[str, float]:
        """By their names in MLflow, e.g. `wasted/gpu_seconds`: of the kinds of resources that were held."""
        kinds = [kind for kind in _KINDS if getattr(self.spent, kind)]
        return {f"{part}/{kind}": getattr(held, kind) for kind in kinds for part, held in self._asdict().items()}

    def __str__(self) -> str:
        """In words, of the dearest kind of resources; "" where nothing was spent."""
        kind = next((kind for kind in _KINDS if getattr(self.spent, kind)), "")
        if not kind:
            return ""
        spent, wasted = getattr(self.spent, kind), getattr(self.wasted, kind)
        return (
            f"{spent:,.0f} {_KINDS[kind]}, of which {wasted:,.0f} ({100 * wasted / spent:.0f} %) on trials that were "
            "stopped, failed or infeasible, and on work done twice"
        )


def _sum(held: Iterable[Held]) -> Held:
    numbers = [(one.cpu_seconds, one.gpu_seconds) for one in held]
    return Held(cpu_seconds=sum(cpu for cpu, _ in numbers), gpu_seconds=sum(gpu for _, gpu in numbers))
