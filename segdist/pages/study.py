"""The models that one training kept, over steps: loss and decoding part ways when it overfits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.text import Text

from segdist.core.json_values import JsonObject
from segdist.core.terminal import Console, Table
from segdist.metrics import shown_in
from segdist.pages import charts
from segdist.pages.rendering import render
from segdist.pages.tables import number_text, plain_table

_BAR = 40
StudyRows = Sequence[JsonObject]


def columns() -> tuple[str, ...]:
    """What is measured of each model."""
    return "loss", *shown_in("study"), "decoding/parse_failure_rate"


def print_study(found: StudyRows, console: RichConsole | None = None) -> None:
    """Print the curve of mIoU over steps, and the best checkpoint.

    Args:
        found: what `commands.checkpoints` returned for a run, in the order of steps.
        console: where to print.
    """
    out = Console(console)
    out.print(_table(found))
    best = _best(found)
    iou = number_text(best["metrics"].get("iou"))
    out.print(f"best: step {best['step']}, iou {iou}, {escape(best['model'])}")
    if said := _overfitting_note(found):
        out.print(said)


def write_study(found: StudyRows, path: Path) -> Path:
    """Write a self-contained page with the curves.

    Args:
        found: what `commands.checkpoints` returned for a run, in the order of steps.
        path: the file to write.
    """
    curves = {name: _curve(found, name) for name in columns()}
    page = render(
        "study.html.jinja",
        found=found,
        best=_best(found),
        parting=_overfitting_note(found),
        columns=columns(),
        curves={name: chart for name, chart in curves.items() if chart},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, "utf-8")
    return path


def _table(found: StudyRows) -> Table:
    table = plain_table("step", *columns(), "iou")
    table.columns[-1].justify = "left"
    for one in found:
        bar = "\u2588" * round(_BAR * one["metrics"].get("iou", 0.0)) + (" best" if one["is_best"] else "")
        table.add_row(str(one["step"]), *(number_text(one["metrics"].get(name)) for name in columns()), Text(bar))
    return table


def _curve(found: StudyRows, name: str) -> Any:
    points = [(one["step"], one["metrics"][name]) for one in found if name in one["metrics"]]
    return charts.curves([charts.Line(0, name, 1.0, "best", points)], title=name, over="step", each="training")


def _best(found: StudyRows) -> JsonObject:
    return next(one for one in found if one["is_best"])


def _overfitting_note(found: StudyRows) -> str:
    """A sentence where the loss alone would have chosen another checkpoint."""
    measured = [one for one in found if "loss" in one["metrics"]]
    least = min(measured, key=lambda one: float(one["metrics"]["loss"]), default=None)
    if least is None or least["is_best"]:
        return ""
    when = "before" if _best(found)["step"] < least["step"] else "after"
    return f"The loss is least at step {least['step']}; what is predicted was best {when} that."
