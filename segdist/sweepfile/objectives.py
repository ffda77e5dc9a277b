"""What a search makes as good as it can: its metric, and the measures beside it."""

from segdist import metrics
from segdist.core.spec import SweepSpec

COSTS = ("model/parameters", "model/bytes", "runtime/latency_p50_ms", "runtime/latency_p95_ms")
"""What of a model's cost is known within its trial: the lower the better."""


def objectives_of(spec: SweepSpec) -> tuple[str, ...]:
    """The search metric, then `search.objectives`."""
    return (spec.search.metric, *spec.search.objectives)


def is_minimised(objective: str) -> bool:
    """Whether the lowest value is the best."""
    return objective in COSTS or metrics.is_minimised(objective)


def needs_costs(spec: SweepSpec) -> bool:
    """Whether a search must know, within a trial, what its model costs."""
    return bool(spec.space) and not {*spec.search.objectives, *spec.search.constraints}.isdisjoint(COSTS)
