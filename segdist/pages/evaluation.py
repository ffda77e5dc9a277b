"""What `segdist evaluate` found, in the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.text import Text

from segdist.core.json_values import JsonObject
from segdist.core.terminal import Console, Table
from segdist.core.text import counted
from segdist.metrics import shown_in
from segdist.pages.tables import number_text, plain_table

_WORST_SHOWN = 5
_COLUMNS = 3


def print_evaluation(found: JsonObject, console: RichConsole | None = None) -> None:
    """Print the metrics, those of each class, and where the model is least consistent.

    Args:
        found: what `commands.evaluate` returned.
        console: where to print.
    """
    out = Console(console)
    values = found["metrics"]
    out.print(
        f"[bold]{escape(str(found.get('model') or found['predictions']))}[/bold]  "
        f"{counted(len(found['images']), 'image')}"
    )
    for note in found["notes"]:
        out.print(f"note  {escape(note)}")
    out.print(_overall(values))
    out.print(_classes(values, found["classes"]))
    if any(found.get("by_class", {}).values()):
        out.print(_by_class(found["by_class"]))
    for details in found["consistency"]:
        out.print(_spread(details))
        for kind, parts in details["parts"].items():
            if kind != "class":
                out.print(_parts(kind, details["metric"], parts))


def print_checkpoints(found: Sequence[JsonObject], console: RichConsole | None = None) -> None:
    """Print several models over the same data, one a line."""
    out = Console(console)
    columns = [*shown_in("leaderboard"), "runtime/latency_p50_ms"]
    table = plain_table("trial", *columns)
    for one in found:
        table.add_row(str(one["trial"]), *(number_text(one["metrics"].get(name)) for name in columns))
    out.print(table)


def _overall(values: Mapping[str, float]) -> Table:
    """All values over all classes, read down the columns."""
    shown = [
        (n, number_text(v))
        for n, v in values.items()
        if "/" not in n or n.startswith(("decoding/", "runtime/", "model/"))
    ]
    height = -(-len(shown) // _COLUMNS)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for row in range(height):
        cells = [shown[k] for k in range(row, len(shown), height)]
        table.add_row(*(Text(text) for cell in cells for text in cell))
    return table


def _classes(values: Mapping[str, float], classes: Sequence[str]) -> Table:
    shown = [name for name in shown_in("classes") if any(f"{name}/{label}" in values for label in classes)]
    table = plain_table("class", *shown)
    for label in classes:
        table.add_row(Text(label), *(number_text(values.get(f"{name}/{label}")) for name in shown))
    return table


def _by_class(spreads: Mapping[str, JsonObject]) -> Table:
    """How each class, or what a model is asked for, varies over single images; what was not found counts 0."""
    shown = {"mean": "mean", "std": "std", "min": "low", "P10": "p10", "P50": "p50", "P90": "p90", "max": "high"}
    table = plain_table("of single images", "", "images", *shown)
    for label, measures in spreads.items():
        for name, spread in measures.items():
            numbers = (number_text(spread[key]) for key in shown.values())
            table.add_row(Text(label), name, str(spread["images"]), *numbers)
    return table


def _spread(details: JsonObject) -> str:
    whole = details["whole"]
    spread, interval = whole["spread"], whole["interval"]
    if spread is None:
        return f"{details['metric']}: undefined in every image"
    between = f", 95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    return (
        f"{details['metric']} of single images: mean {spread['mean']:.3f}, std {spread['std']:.3f}, "
        f"min {spread['low']:.3f}, P10 {spread['p10']:.3f}, P50 {spread['p50']:.3f}, P90 {spread['p90']:.3f}, "
        f"max {spread['high']:.3f}; of all {number_text(whole['value'])}{between}"
    )


def _parts(kind: str, metric: str, parts: Sequence[JsonObject]) -> Table:
    table = plain_table(kind, metric, "95 % interval", "images", "P10", "P50", "P90")
    for part in parts[:_WORST_SHOWN]:
        spread, interval = part["spread"] or {}, part["interval"]
        between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        numbers = (number_text(spread.get(p)) for p in ("p10", "p50", "p90"))
        table.add_row(Text(part["name"]), number_text(part["value"]), between, str(spread.get("images", 0)), *numbers)
    if len(parts) > _WORST_SHOWN:
        table.caption = f"the worst {_WORST_SHOWN} of {len(parts)}"
    return table
