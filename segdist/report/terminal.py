"""Where tables are printed: as wide as a terminal is, or as wide as they are where there is none."""

from rich.console import Console

_LINE = 10_000
"""Characters of a line in a log or a pipe, which has no width of its own; Rich would take 80 and cut names short."""


def console_for(console: Console | None = None) -> Console:
    """This console, or the process's own; outside a terminal its lines are neither cut nor broken."""
    console = console or Console()
    if not console.is_terminal:
        console.width = _LINE
    return console
