"""All dashboards on one page that opens without Grafana, as their panels are answered now."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from segdist.pages.base import render
from segdist.pages.dashboards import Dashboard, Panel, Query
from segdist.pages.time_series import Curve, over_time, shade, shown

_COLUMN = 48
"""Units of a chart's width for each of a row's 24 columns."""
_MOST_CURVES = 12
"""That a panel shows."""


class Span(NamedTuple):
    """The time that is shown, in seconds since 1970, and the seconds between two values."""

    start: float
    end: float
    step: float


class _Drawn(NamedTuple):
    """A panel as the page has it."""

    title: str
    says: str
    kind: str
    columns: int
    values: Sequence[tuple[str, str]]
    chart: Markup | str
    legend: Sequence[tuple[str, str, str]]


class _Board(NamedTuple):
    name: str
    title: str
    says: str
    panels: Sequence[_Drawn]


Answers = Callable[[Query], Sequence[Curve]]


def write_dashboards(uri: str, boards: Sequence[Dashboard], span: Span, answers: Answers, *, source: str) -> None:
    """Write the page.

    Args:
        uri: where.
        boards: what to show.
        span: which time.
        answers: what Prometheus says to a query.
        source: where it answers.
    """
    drawn = [_Board(b.name, b.title, b.says, [_drawn(panel, span, answers) for panel in b.panels]) for b in boards]
    between = " to ".join(time.strftime("%d %B %Y %H:%M", time.localtime(at)) for at in (span.start, span.end))
    render(uri, "dashboards", title="segdist in numbers", note=f"{between}, by {source}", boards=drawn)


def _drawn(panel: Panel, span: Span, answers: Answers) -> _Drawn:
    curves = [curve for query in panel.queries for curve in answers(query) if curve.last is not None]
    curves = sorted(curves, key=lambda curve: curve.name)[:_MOST_CURVES]
    says = panel.says.replace("`", "")
    last = [(curve.name, shown(curve.last or 0.0, panel.unit, decimals=panel.decimals)) for curve in curves]
    if panel.kind == "stat" or not curves:
        return _Drawn(panel.title, says, panel.kind, panel.columns, last, "", ())
    chart = over_time(
        curves,
        span=(span.start, span.end),
        step=span.step,
        width=_COLUMN * panel.columns,
        unit=panel.unit,
        label=f"{panel.title} over time",
        least=panel.least,
        most=panel.most,
        is_stacked=panel.is_stacked,
    )
    legend = [(name, value, shade(place)) for place, (name, value) in enumerate(last)]
    return _Drawn(panel.title, says, panel.kind, panel.columns, (), chart, legend)
