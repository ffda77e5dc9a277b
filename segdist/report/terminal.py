"""Tables for people: as wide as a terminal is, or as wide as they are where there is none."""

from rich.console import Console
from rich.table import Table

_LINE = 10_000
"""Characters of a line in a log or a pipe, which has no width of its own; Rich would take 80 and cut names short."""


def console_for(console: Console | None = None) -> Console:
    """This console, or the process's own; outside a terminal its lines are neither cut nor broken."""
    console = console or Console()
    if not console.is_terminal:
        console.width = _LINE
    return console


def plain_table(first: str, *columns: str) -> Table:
    """A table without lines: text in the first column, numbers in the others."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def number_text(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3f}"
