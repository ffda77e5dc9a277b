"""A sweep that runs elsewhere, by the lines of its log: the same table as here, where there is a terminal."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.live import Live

from segdist.core.terminal import Table, live, say
from segdist.core.text import counted
from segdist.pipeline.progress import LINE

_MOST_SHOWN = 20


class Watch:
    """Lines of trials change a table, where there is a terminal; others are printed above it."""

    def __init__(self) -> None:
        self._trials: dict[int, Mapping[str, str]] = {}
        self._summary = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._live = live(self.table)
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str) -> None:
        """A line came."""
        found = LINE.fullmatch(text.rstrip()) if self._live else None
        if found is None:
            say(text)
            return
        self._trials[int(found["trial"])] = found.groupdict("")
        self._summary = found["summary"]

    def table(self) -> Table:
        """The latest of each trial; of many, those that were heard of last."""
        table = Table(title=self._summary, title_justify="left", expand=False)
        for column in ("trial", "says", "values"):
            table.add_column(column, justify="right" if column == "trial" else "left")
        shown = sorted(self._trials)[-_MOST_SHOWN:]
        if more := len(self._trials) - len(shown):
            table.caption, table.caption_justify = f"and {counted(more, 'trial')} more", "left"
        for number in shown:
            table.add_row(str(number), self._trials[number]["text"], self._trials[number]["values"])
        return table
