"""The dashboards of Grafana's files, as far as segdist draws them itself: panels of lines and of numbers.

What of a file is not read here is for Grafana alone; a test opens every file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segdist.core.bounded_json import load_json
from segdist.core.errors import DataError
from segdist.core.storage import read_bytes

RATE_WINDOW = "1m"
"""What stands for Grafana's `$__rate_interval`: six exports of Ray's."""
_FIRST = ("sweep",)
_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Query:
    """What a panel asks Prometheus, and how it names the answers: `{{label}}` stands for the value of a label."""

    expr: str
    legend: str

    def promql(self, sweep: str = "") -> str:
        """The query without Grafana's variables; of one sweep, or of all."""
        chosen = re.escape(sweep) if sweep else ".+"
        return self.expr.replace("$sweep", chosen.replace("\\", "\\\\")).replace("$__rate_interval", RATE_WINDOW)

    def named(self, labels: Mapping[str, str]) -> str:
        """What an answer is called."""
        return _LABEL.sub(lambda found: _short(labels.get(found[1], "")), self.legend).strip()


@dataclass(frozen=True)
class Panel:
    """One panel: numbers ("stat") or lines over time ("timeseries")."""

    title: str
    says: str
    kind: str
    unit: str
    queries: tuple[Query, ...]
    columns: int
    """Of the 24 that a row has."""
    least: float | None = None
    most: float | None = None
    decimals: int | None = None
    is_stacked: bool = False

    @property
    def needs_card(self) -> bool:
        """Whether there is something to show only where a node has a card."""
        return "Needs a card" in self.says


@dataclass(frozen=True)
class Dashboard:
    """One file."""

    name: str
    title: str
    says: str
    panels: tuple[Panel, ...]


def dashboards(folder: Path) -> list[Dashboard]:
    """Those of a folder, that of a sweep first, then by name.

    Raises:
        DataError: a file is none.
    """
    files = sorted(folder.glob("*.json"), key=lambda file: (file.stem not in _FIRST, file.stem))
    return [_dashboard(file) for file in files]


def _dashboard(file: Path) -> Dashboard:
    content = load_json(read_bytes(str(file)), str(file), error=DataError)
    try:
        panels = tuple(_panel(one) for one in content["panels"])
        return Dashboard(file.stem, content["title"], content["description"], panels)
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} must be a dashboard of Grafana, but lacks {error}.") from error


def _panel(content: Mapping[str, object]) -> Panel:
    place, how = content["gridPos"], content["fieldConfig"]
    assert isinstance(place, dict)
    assert isinstance(how, dict)
    asked, defaults = content["targets"], how["defaults"]
    assert isinstance(asked, list)
    return Panel(
        title=str(content["title"]),
        says=str(content["description"]),
        kind=str(content["type"]),
        unit=str(defaults["unit"]),
        queries=tuple(Query(one["expr"], one["legendFormat"]) for one in asked),
        columns=int(place["w"]),
        least=defaults.get("min"),
        most=defaults.get("max"),
        decimals=defaults.get("decimals"),
        is_stacked=defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal",
    )


def _short(value: str) -> str:
    """Ray's ids have 56 digits."""
    return value[:8] if len(value) > 40 else value
