"""Dashboards without Grafana: the panels of its files, answered by Prometheus, on one page."""

import http.client
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from segdist.core.errors import BackendError, SpecError, did_you_mean
from segdist.pages.dashboards import Query, dashboards
from segdist.pages.dashboards_page import Span, write_dashboards
from segdist.pages.time_series import Curve

PROMETHEUS = "http://127.0.0.1:9090"
_PATIENCE = 30.0
_VALUES = 120
"""Of a curve, at the most."""
_LEAST_SPAN = 120.0
"""Seconds that are shown."""
_LEAST_STEP = 5.0
"""Seconds between two of them; Ray exports every ten."""


def dashboard_files() -> Path:
    """The folder of dashboards, rules and provisioning files: of a wheel beside the code, else in the repository."""
    package = Path(__file__).parents[1]
    inside = package / "dashboards"
    return inside if inside.is_dir() else package.parent / "dashboards"


class Answer(NamedTuple):
    """One series that a query gave."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    """A server that is asked.

    Args:
        address: `http://HOST:PORT`.

    Raises:
        SpecError: it is no such address.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise SpecError(f"Prometheus must be named as http://HOST:PORT, but is {address}.")
        self.address = address.rstrip("/")

    def range(self, promql: str, span: Span) -> list[Answer]:
        """What a query gave over a time.

        Raises:
            BackendError: nobody answers, or the query is wrong.
        """
        asked = {"query": promql, "start": span.start, "end": span.end, "step": span.step}
        found = self._get(f"/api/v1/query_range?{urllib.parse.urlencode(asked)}").data.result
        return [Answer(one.metric, tuple((at, float(value)) for at, value in one.values)) for one in found]

    def _get(self, path: str) -> "_Reply":
        try:
            with urllib.request.urlopen(self.address + path, timeout=_PATIENCE) as answer:  # noqa: S310 - http alone
                return _decode(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise BackendError(f"Prometheus at {self.address} refuses a query: {said}") from error
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            reason = getattr(error, "reason", error)
            raise BackendError(
                f"No Prometheus answers at {self.address} ({reason}). `segdist dashboards up` starts one; "
                "`--prometheus` names another."
            ) from error


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Data(msgspec.Struct):
    result: list[_Series]


class _Reply(msgspec.Struct):
    """Of Prometheus to a query over a time."""

    data: _Data


_decode = msgspec.json.Decoder(_Reply).decode


def _span(start: float, end: float) -> Span:
    return Span(start, end, max(_LEAST_STEP, math.ceil((end - start) / _VALUES)))


def render_dashboards(
    out: Path, *, prometheus: str = PROMETHEUS, hours: float = 1.0, sweep: str = "", only: Sequence[str] = ()
) -> None:
    """Write the page of all dashboards.

    Args:
        out: an HTML file.
        prometheus: where it answers.
        hours: that are shown, up to now.
        sweep: that is shown alone; "" for all.
        only: names of dashboards; none for all.

    Raises:
        BackendError: nobody answers there.
        SpecError: there is no such dashboard.
    """
    server, end = Prometheus(prometheus), time.time()
    span = _span(end - hours * 3600, end)
    if seen := [at for one in server.range("count(up)", span) for at, _ in one.points]:
        span = _span(min(seen[0], end - _LEAST_SPAN), end)  # what was before it began is an empty chart

    def answers(query: Query) -> list[Curve]:
        return [Curve(query.named(one.labels), one.points) for one in server.range(query.promql(sweep), span)]

    known = {board.name: board for board in dashboards(dashboard_files() / "grafana")}
    for name in only:
        if name not in known:
            raise SpecError(f"There is no dashboard `{name}`. {did_you_mean(name, known)}")
    boards = [board for name, board in known.items() if not only or name in only]
    write_dashboards(str(out), boards, span, answers, source=server.address)
