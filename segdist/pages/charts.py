"""Charts as SVG text, drawn here so that the page also works in print and without scripts.

Colours come from the page's style: `--t` is the rank of a line's score in 0..1. Every line carries `data-trial`, by
which the page's script connects it with its row in the leaderboard.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from segdist.core.spec import Range
from segdist.pages.leaderboard import number

ChartPoints = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One trial in a chart.

    Attributes:
        trial: its number.
        title: what pointing at it shows.
        tint: 0 for the worst score among the trials, 1 for the best.
        kind: "best", "baseline" or "".
        values: (epoch, value) of a curve.
        params: its values on the axes of parallel coordinates.
    """

    trial: int
    title: str
    tint: float
    kind: str
    values: ChartPoints = ()
    params: Mapping[str, object] | None = None


def curves(lines: Sequence[Line], *, title: str, over: str = "epoch", each: str = "trial") -> Markup:
    """Values over epochs, one line a trial; or over what else is counted in whole numbers."""
    shown = [line for line in lines if line.values]
    if not shown:
        return Markup("")
    xs = [x for line in shown for x, _ in line.values]
    ys = [y for line in shown for _, y in line.values]
    frame = Frame(480, 300, left=46, right=14, top=14, bottom=34)
    x_low, x_high = min(xs), max(*xs, min(xs) + 1)
    ticks = nice(min(ys), max(ys))
    parts = [grid(frame, ticks), _counted(frame, x_low, x_high, over)]
    for line in _best_last(shown):
        points = [
            (frame.x((x - x_low) / (x_high - x_low)), frame.y((y - ticks[0]) / (ticks[-1] - ticks[0])))
            for x, y in line.values
        ]
        parts.append(_path(line, points))
    return svg(frame, parts, label=f"{title} over {over}s, one line a {each}")


def parallel(lines: Sequence[Line], space: Mapping[str, Range], *, metric: str, titles: Mapping[str, str]) -> Markup:
    """Parallel coordinates: one axis a searched key, the last one the score."""
    seen = {key: [line.params[key] for line in lines if line.params and key in line.params] for key in [*space, metric]}
    axes = [_Axis.of(key, values, space.get(key)) for key, values in seen.items() if values]
    if len(axes) < 2:
        return Markup("")
    frame = Frame(max(980, 150 * len(axes)), 340, left=70, right=70, top=44, bottom=24)
    places = [frame.x(i / (len(axes) - 1)) for i in range(len(axes))]
    parts = []
    for line in _best_last(lines):
        values = line.params or {}
        points = [
            (x, frame.y(axis.place(values[axis.key])))
            for x, axis in zip(places, axes, strict=True)
            if axis.key in values
        ]
        parts.append(_path(line, points))
    parts += [_axis(frame, x, axis, titles.get(axis.key, axis.key)) for x, axis in zip(places, axes, strict=True)]
    return svg(frame, parts, label="Searched values and score of every trial")


@dataclass(frozen=True)
class Frame:
    """The size of a chart and its margins; places inside are given as shares, 0 at the left and at the bottom."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    def x(self, part: float) -> float:
        """From the left."""
        return self.left + part * (self.width - self.left - self.right)

    def y(self, part: float) -> float:
        """From the top."""
        return self.height - self.bottom - part * (self.height - self.top - self.bottom)


@dataclass(frozen=True)
class _Axis:
    """The scale of one key: its range as searched, widened to what trials outside it had (the untuned one may)."""

    key: str
    low: float
    high: float
    log: bool
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, values: Sequence[Any], searched: Range | None) -> "_Axis":
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if (searched and searched.choices) or not numeric:
            known = [*(searched.choices if searched else ()), *values]
            return cls(key, 0, 1, log=False, choices=tuple(dict.fromkeys(number(v) for v in known)))
        bounds = [float(v) for v in values]
        bounds += [float(b) for b in (searched.low, searched.high) if b is not None] if searched else []
        low, high = min(bounds), max(bounds)
        log = bool(searched and searched.log and low > 0)
        return cls(key, low, high if high > low else low + (abs(low) or 1.0) * 0.1, log=log)

    def place(self, value: Any) -> float:
        if self.choices:
            return (self.choices.index(number(value)) + 0.5) / len(self.choices)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        if self.choices:
            return [((i + 0.5) / len(self.choices), choice) for i, choice in enumerate(self.choices)]
        inside = _decades(self.low, self.high) if self.log else []
        ends = [self.low, self.high]
        far = [v for v in inside if all(abs(self.place(v) - self.place(end)) > 0.08 for end in ends)]
        return [(self.place(v), number(float(v))) for v in [*ends, *far]]


def _axis(frame: Frame, x: float, axis: _Axis, title: str) -> Markup:
    parts = [Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(_n(x), frame.y(0), frame.y(1))]
    name = title if len(title) <= 20 else "…" + title[-19:]
    log = " (log)" if axis.log else ""
    parts.append(
        Markup('<text class="name" x="{}" y="20" text-anchor="middle">{}{}<title>{}</title></text>').format(
            _n(x), name, log, axis.key
        )
    )
    for place, text in axis.ticks():
        short = text if len(text) <= 16 else text[:15] + "…"
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>').format(
                _n(x - 7), _n(frame.y(place) + 4), short, text
            )
        )
    return Markup("").join(parts)


def _path(line: Line, points: ChartPoints) -> Markup:
    steps = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(points))
    dots = Markup("").join(
        Markup('<circle cx="{}" cy="{}" r="{}"/>').format(_n(x), _n(y), 3.5 if len(points) == 1 else 2)
        for x, y in points
    )
    # The wide, unseen twin is what a finger or mouse can hit.
    return Markup(
        '<g class="line {kind}" data-trial="{trial}" style="--t:{tint}"><title>{title}</title>'
        '<path class="hit" d="{d}"/><path class="ink" d="{d}"/>{dots}</g>'
    ).format(kind=line.kind, trial=line.trial, tint=f"{line.tint:.3f}", title=line.title, d=steps, dots=dots)


def grid(frame: Frame, ticks: Sequence[float]) -> Markup:
    """Lines across at the ticks, with their values."""
    return grid_of(frame, [(tick, f"{tick:.3g}") for tick in ticks])


def grid_of(frame: Frame, ticks: Sequence[tuple[float, str]]) -> Markup:
    """The same with texts of one's own."""
    low, high = ticks[0][0], ticks[-1][0]
    parts = []
    for tick, text in ticks:
        y = _n(frame.y((tick - low) / (high - low)))
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                frame.left, frame.width - frame.right, y, y
            )
        )
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" dy="4" text-anchor="end">{}</text>').format(
                frame.left - 8, y, text
            )
        )
    return Markup("").join(parts)


def _counted(frame: Frame, low: float, high: float, unit: str) -> Markup:
    step = max(1, math.ceil((high - low) / 8))
    parts = [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            _n(frame.x((count - low) / (high - low))), frame.height - frame.bottom + 18, count
        )
        for count in range(int(low), int(high) + 1, step)
    ]
    parts.append(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
            frame.width - frame.right, frame.height - 3, unit
        )
    )
    return Markup("").join(parts)


def svg(frame: Frame, parts: Sequence[Markup], *, label: str) -> Markup:
    """The whole chart; the label is what screen readers say."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="xMidYMid meet">{}</svg>'
    ).format(frame.width, frame.height, escape(label), Markup("").join(parts))


def _best_last(lines: Sequence[Line]) -> list[Line]:
    """What matters most is drawn on top."""
    return sorted(lines, key=lambda line: (line.kind != "", line.kind == "best", line.tint))


def nice(low: float, high: float) -> list[float]:
    """Round ticks that enclose the values."""
    span = (high - low) or abs(high) or 1.0
    raw = span / 4
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**e for e in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _n(value: float) -> str:
    return f"{value:.1f}"
