"""What reaches a terminal, and the only place that writes to one.

Names of classes and files come from outside: control characters in them would move the cursor, hide lines or turn text
around, so they are shown escaped; what no one would read to its end is shortened; secrets are redacted.
"""

import json
import logging
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import typer
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table as RichTable
from rich.text import Text

from segdist.core.redaction import redact, redact_all, redactor

_WORD, _LINE = 1_000, 20_000
"""Characters of the longest word and the longest line that are shown whole."""
_LONG_WORD = re.compile(rf"\S{{{_WORD + 1},}}")
_NOT_PLAIN = re.compile(r"[^\x20-\x7e\n\t]")
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control and format characters (zero-width and bidirectional ones among them), of halves of
characters, and of separators of lines."""
_LOG_WIDTH = 10_000
"""Characters of a table's line in a log or a pipe, which has no width of its own; Rich would take 80 and cut names."""


def shown(text: str, *, reveal: str = "", hide: Callable[[str], str] = redact) -> str:
    """The text as a terminal may have it: line breaks and tabs stay, everything else that cannot be seen is escaped.

    Args:
        text: any length, anything.
        reveal: a secret that the user is to see, e.g. the token that was just drawn for him.
        hide: what takes out secrets.
    """
    parts = text.split(reveal) if reveal else [text]
    text = reveal.join(map(hide, parts))
    text = _LONG_WORD.sub(lambda word: _shortened(word[0], _WORD), text)
    text = "\n".join(_shortened(line, _LINE) for line in text.split("\n"))
    return _NOT_PLAIN.sub(_visible, text)


def say(text: str, *, err: bool = False, color: str | None = None, reveal: str = "") -> None:
    """Lines for people.

    Args:
        text: see `shown`.
        err: to standard error.
        color: of the text, where there is a terminal.
        reveal: a secret that the user is to see.
    """
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    writable = shown(text, reveal=reveal).encode(encoding, "backslashreplace").decode(encoding)
    typer.secho(writable, err=err, fg=color, reset=color is not None)


def say_json(content: object) -> None:
    """JSON for machines: no NaN; names with accents as they are, what cannot be seen as JSON escapes it."""
    text = json.dumps(redact_all(content), indent=1, allow_nan=False, ensure_ascii=False)
    typer.echo(_NOT_PLAIN.sub(lambda found: json.dumps(found[0])[1:-1] if _is_unseen(found[0]) else found[0], text))


def guard_logs() -> None:
    """Show log lines that have no handler of their own, as those of libraries, in the same way."""
    if logging.lastResort:
        logging.lastResort.setFormatter(_Shown())


def guard_warnings() -> None:
    """Show a warning as one line for people; Python's own way adds the line of code that it came from."""
    warnings.showwarning = lambda message, category, *_, **__: say(
        f"warning: {message}" if category.__module__.startswith("segdist.") else f"{category.__name__}: {message}",
        err=True,
        color="yellow",
    )


class Table(RichTable):
    """A table whose headers and cells are shown safely."""

    @cached_property
    def _hide(self) -> Callable[[str], str]:
        return redactor()  # of a thousand rows no cell looks through the environment for itself

    def add_column(self, header: RenderableType = "", *args: Any, **options: Any) -> None:
        """Add a column."""
        super().add_column(_safe(header, self._hide), *args, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row."""
        super().add_row(*(_safe(cell, self._hide) for cell in cells), **options)


class Console:
    """Where texts and tables are printed; outside a terminal lines are neither cut nor broken.

    Args:
        console: of Rich; the process's own by default.
    """

    def __init__(self, console: RichConsole | None = None) -> None:
        self._console = console or RichConsole()
        if not self._console.is_terminal:
            self._console.width = _LOG_WIDTH

    def print(self, *content: object) -> None:
        """One text or table a line; texts in Rich's markup."""
        self._console.print(*map(_safe, content))


def live(table: Callable[[], Table]) -> Live | None:
    """A table that is drawn anew twice a second once it is started; None where there is no terminal to draw it in."""
    console = RichConsole()
    return Live(get_renderable=table, console=console, refresh_per_second=2) if console.is_terminal else None


@contextmanager
def filling(what: str, size: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error that is told how many of so many bytes are here; nothing where that is no terminal."""
    console = RichConsole(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(shown(what), total=size or None)
        yield lambda here: bar.update(task, completed=here)


class _Shown(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def _safe(value: object, hide: Callable[[str], str] = redact) -> Any:
    """A renderable without what a terminal would obey."""
    if isinstance(value, str):
        return shown(value, hide=hide)
    if isinstance(value, Text):
        value = value.copy()
        value.plain = shown(value.plain, hide=hide)
    return value


def _visible(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii") if _is_unseen(found[0]) else found[0]


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    head, tail = most * 7 // 10, most // 5
    return f"{text[:head]}[... {len(text) - head - tail:,} of {len(text):,} characters ...]{text[-tail:]}"
