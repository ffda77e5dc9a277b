"""Points as SVG: what a trial scores against what it costs, with the trials that none beats at both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from segdist.pages.charts import Frame, grid, nice, svg
from segdist.pages.front import unbeaten

_LOG_FROM = 20.0
"""Ratio of the largest to the smallest cost from which on their axis is logarithmic."""


@dataclass(frozen=True)
class Point:
    """One trial.

    Attributes:
        trial: its number.
        title: what pointing at it shows.
        tint: 0 for the worst score among the trials, 1 for the best.
        kind: "best", "baseline" or "".
        cost: the smaller the better.
        score: of the search metric.
        is_unbeaten: whether no other trial beats it at all objectives of the search, which may be more than these.
    """

    trial: int
    title: str
    tint: float
    kind: str
    cost: float
    score: float
    is_unbeaten: bool = False


def front(points: Sequence[Point], *, is_lower_better: bool = False, is_more_better: bool = False) -> list[Point]:
    """The points that no other one beats: none is as cheap and better, or as good and cheaper; lowest cost first."""
    signs = (-1 if is_more_better else 1), (1 if is_lower_better else -1)
    on_front = unbeaten([(signs[0] * p.cost, signs[1] * p.score) for p in points])
    return sorted((p for p, is_on in zip(points, on_front, strict=True) if is_on), key=lambda p: p.cost)


def pareto(
    points: Sequence[Point], *, cost: str, score: str, is_lower_better: bool = False, is_more_better: bool = False
) -> Markup:
    """Score over cost, one point a trial, and a line through those that none beats.

    Args:
        points: two at least; fewer give nothing.
        cost: name and unit of the costs.
        score: name of the scores.
        is_lower_better: whether the scores are errors or distances.
        is_more_better: whether the costs are none, but another score.
    """
    if len(points) < 2:
        return Markup("")
    frame = Frame(480, 300, left=46, right=22, top=14, bottom=40)
    costs = [p.cost for p in points]
    log = min(costs) > 0 and max(costs) / min(costs) >= _LOG_FROM
    axis = _Costs(min(costs), max(costs), log=log)
    ticks = nice(min(p.score for p in points), max(p.score for p in points))

    def place(point: Point) -> tuple[float, float]:
        return frame.x(axis.place(point.cost)), frame.y((point.score - ticks[0]) / (ticks[-1] - ticks[0]))

    kept = front(points, is_lower_better=is_lower_better, is_more_better=is_more_better)
    steps = [place(p) for p in kept]
    path = " ".join(f"{'L' if k else 'M'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(steps))
    parts = [grid(frame, ticks), _costs_axis(frame, axis, cost), Markup('<path class="front" d="{}"/>').format(path)]
    parts += [_dot(p, *place(p)) for p in sorted(points, key=lambda p: (p.kind != "", p.kind == "best", p.tint))]
    return svg(frame, parts, label=f"{score} over {cost}, one point a trial")


@dataclass(frozen=True)
class _Costs:
    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """In 0..1, with room at both ends for the points."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return 0.05 + 0.9 * ((value - low) / (high - low) if high > low else 0.5)

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            found = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
        else:
            found = nice(self.low, self.high)
        return [v for v in found if self.low <= v <= self.high] or [self.low]


def _costs_axis(frame: Frame, axis: _Costs, title: str) -> Markup:
    parts = [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            frame.x(axis.place(v)), frame.height - frame.bottom + 18, f"{v:.3g}"
        )
        for v in axis.ticks()
    ]
    log = " (log)" if axis.log else ""
    parts.append(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}{}</text>').format(
            frame.width - frame.right, frame.height - 5, title, log
        )
    )
    return Markup("").join(parts)


def _dot(point: Point, x: float, y: float) -> Markup:
    return Markup(
        '<g class="line dot {kind}{ring}" data-trial="{trial}" style="--t:{tint}"><title>{title}</title>'
        '<circle class="hit" cx="{x}" cy="{y}" r="12"/><circle cx="{x}" cy="{y}" r="{r}"/>'
        '<text class="tick" x="{tx}" y="{ty}">{trial}</text></g>'
    ).format(
        kind=point.kind,
        ring=" unbeaten" if point.is_unbeaten else "",
        trial=point.trial,
        tint=f"{point.tint:.3f}",
        title=point.title,
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        r=6 if point.kind == "best" else 4.5,
        tx=f"{x + 8:.1f}",
        ty=f"{y - 6:.1f}",
    )
