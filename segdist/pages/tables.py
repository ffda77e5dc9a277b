"""Tables for people."""

from segdist.core.terminal import Table


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
