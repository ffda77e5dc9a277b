"""Values over the time of day, as SVG: lines, or areas on top of each other."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from segdist.core.panels import colour
from segdist.pages.charts import Frame, grid_of, nice, svg

_TIMES = 4
"""Labels below a chart, at the most."""
_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@dataclass(frozen=True)
class Curve:
    """What one answer to a query was over time.

    Attributes:
        name: in the legend.
        points: (seconds since 1970, value), in order; values may be no number.
    """

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float | None:
        """The latest value that is a number."""
        return next((value for _, value in reversed(self.points) if math.isfinite(value)), None)


def shade(index: int) -> str:
    """The colour of a curve by its place, for CSS."""
    return "rgb({}, {}, {})".format(*colour(index))


def over_time(
    curves: Sequence[Curve],
    *,
    span: tuple[float, float],
    step: float,
    width: int,
    unit: str,
    label: str,
    least: float | None = None,
    most: float | None = None,
    is_stacked: bool = False,
) -> Markup:
    """The chart; where a curve has no value for more than three steps, it is broken.

    Args:
        curves: with one value at least.
        span: first and last time shown.
        step: seconds between two values.
        width: of the chart, in its own units; the height is always the same.
        unit: one of Grafana's names.
        label: what screen readers say.
        least: that the axis shows; None for what the values have.
        most: the same.
        is_stacked: whether the curves are areas on top of each other.
    """
    drawn = _stacked(curves) if is_stacked else [[(t, v, 0.0) for t, v in one.points] for one in curves]
    values = [v for one in drawn for _, v, _ in one if math.isfinite(v)]
    bounds = [*values, *(bound for bound in (least, most) if bound is not None)]
    ticks = _ticks(min(bounds), max(bounds) or float(min(bounds) == 0), unit)
    frame = Frame(width, 190, left=54, right=12, top=10, bottom=26)

    def x(at: float) -> float:
        return frame.x((at - span[0]) / (span[1] - span[0]))

    def y(value: float) -> float:
        return frame.y((value - ticks[0]) / (ticks[-1] - ticks[0]))

    largest = max(abs(ticks[0]), abs(ticks[-1]))
    texts = [shown(tick, unit, step=ticks[1] - ticks[0], largest=largest) for tick in ticks]
    parts = [grid_of(frame, list(zip(ticks, texts, strict=True))), _clock(frame, span)]
    for place, points in reversed(list(enumerate(drawn))):
        parts += [
            _piece([(x(t), y(v), y(low)) for t, v, low in piece], shade(place), is_area=is_stacked)
            for piece in _pieces(points, 3.5 * step)
        ]
    return svg(frame, parts, label=label)


def shown(value: float, unit: str, *, decimals: int | None = None, step: float = 0.0, largest: float = 0.0) -> str:
    """A value with its unit, by Grafana's name of it.

    Args:
        value: to be shown.
        unit: "none", "s", "bytes", "Bps", "decmbytes", "percent" or "percentunit".
        decimals: digits after the point; None for as many as it takes.
        step: between two ticks of an axis, whose digits are to tell them apart.
        largest: of the axis, all of which has one unit.
    """
    if unit == "s":
        return _seconds(value, largest)
    if unit in ("percent", "percentunit"):
        percent = value * (100 if unit == "percentunit" else 1)
        return f"{percent:.{decimals or 0}f} %" if step == 0 or step >= 0.01 else f"{percent:.1f} %"
    if unit in ("bytes", "Bps", "decmbytes"):
        return f"{_scaled(value * (1e6 if unit == 'decmbytes' else 1))}B{'/s' if unit == 'Bps' else ''}"
    if decimals is not None and abs(value) < 1e4:
        return f"{value:.{decimals}f}" if step == 0 else f"{value:.{max(decimals, 0)}g}" if decimals else f"{value:g}"
    return f"{value:.3g}" if abs(value) < 1e4 else _scaled(value)


def _scaled(value: float) -> str:
    size, suffix = next(((s, name) for s, name in _SUFFIXES if abs(value) >= s), (1.0, ""))
    return f"{value / size:.3g} {suffix}"


def _seconds(value: float, largest: float) -> str:
    length, name = _time_unit(largest or abs(value))
    return f"{value / length:.3g} {name}" if value else "0"


def _ticks(low: float, high: float, unit: str) -> list[float]:
    """Round in the unit in which they are shown."""
    length = _time_unit(max(abs(low), abs(high)))[0] if unit == "s" else 1.0
    return [tick * length for tick in nice(low / length, high / length)]


def _time_unit(size: float) -> tuple[float, str]:
    """Seconds of the unit in which such a time is shown, and its name."""
    known = ((3 * 86400, 86400.0, "d"), (2 * 3600, 3600.0, "h"), (300, 60.0, "min"), (1, 1.0, "s"))
    return next(((length, name) for least, length, name in known if size >= least), (0.001, "ms"))


def _stacked(curves: Sequence[Curve]) -> list[list[tuple[float, float, float]]]:
    """Each on top of those before it: time, upper and lower value; no number counts as nothing."""
    times = sorted({at for one in curves for at, _ in one.points})
    below = dict.fromkeys(times, 0.0)
    drawn = []
    for one in curves:
        known = {at: value for at, value in one.points if math.isfinite(value)}
        drawn.append([(at, below[at] + value, below[at]) for at, value in known.items()])
        below |= {at: below[at] + value for at, value in known.items()}
    return drawn


def _pieces(points: Sequence[tuple[float, float, float]], gap: float) -> list[list[tuple[float, float, float]]]:
    pieces: list[list[tuple[float, float, float]]] = []
    before = -math.inf
    for point in points:
        if not math.isfinite(point[1]):
            continue
        if point[0] - before > gap:
            pieces.append([])
        pieces[-1].append(point)
        before = point[0]
    return pieces


def _piece(points: Sequence[tuple[float, float, float]], shade: str, *, is_area: bool) -> Markup:
    if len(points) == 1:
        ((x, y, _),) = points
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.5" fill="{}"/>').format(x, y, shade)
    top = " ".join(f"{'L' if n else 'M'}{x:.1f} {y:.1f}" for n, (x, y, _) in enumerate(points))
    ink = Markup('<path d="{}" fill="none" stroke="{}" stroke-width="1.8" stroke-linejoin="round"/>').format(top, shade)
    if not is_area:
        return ink
    bottom = " ".join(f"L{x:.1f} {low:.1f}" for x, _, low in reversed(points))
    return Markup('<path d="{} {} Z" fill="{}" fill-opacity=".45"/>').format(top, bottom, shade) + ink


def _clock(frame: Frame, span: tuple[float, float]) -> Markup:
    """Times of day at round places; the date, where more than a day is shown."""
    long = span[1] - span[0]
    steps = (60, 120, 300, 600, 900, 1800, 3600, 7200, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 7 * 86400)
    step = next((s for s in steps if long / s <= _TIMES), steps[-1])
    offset = time.localtime(span[0]).tm_gmtoff
    first = math.ceil((span[0] + offset) / step) * step - offset
    form = "%H:%M" if long <= 86400 else "%d %b %H:%M"
    parts = [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            frame.x((at - span[0]) / long), frame.height - 8, time.strftime(form, time.localtime(at))
        )
        for at in (first + n * step for n in range(_TIMES + 1))
        if at <= span[1]
    ]
    return Markup("").join(parts)
