"""Nothing that reaches a terminal can command it, and nothing but `segdist.core.terminal` writes to one."""

import ast
import json
import logging
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console as RichConsole
from rich.text import Text

from segdist.core.terminal import Console, Table, guard_logs, say, say_json, shown
from segdist.reading.codes import finding

HOSTILE = "a\x1b]0;title\x07\x9b31m\u202eb\u200b\r\x08\x7f\u2028\ud800"
ESCAPED = "a\\x1b]0;title\\x07\\x9b31m\\u202eb\\u200b\\r\\x08\\x7f\\u2028\\ud800"
LONG = "z" * 1_000_000


def test_what_cannot_be_seen_is_shown_escaped() -> None:
    assert shown(HOSTILE) == ESCAPED
    assert shown("straße\t日本\n\u05e2\u05d1 é") == "straße\t日本\n\u05e2\u05d1 é"


def test_a_long_name_is_shortened_with_its_length() -> None:
    text = shown(f"the class `{LONG}` is unknown")
    assert len(text) < 2_000
    assert text.startswith("the class `zzz")
    assert text.endswith("zzz` is unknown")
    assert "of 1,000,002 characters" in text
    assert len(shown("z " * 1_000_000)) < 30_000
    path = "/".join(["folder"] * 100)
    assert shown(path) == path


def test_secrets_are_not_shown_but_for_the_one_that_was_just_drawn() -> None:
    assert shown("http://host/#token=0123456789") == "http://host/#token=***"
    assert shown("http://host/#token=0123456789 s3://a:b@c", reveal="0123456789") == (
        "http://host/#token=0123456789 s3://***@c"
    )


def test_lines_for_people_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say(HOSTILE, err=True, color="red")
    out, err = capsys.readouterr()
    assert out == ESCAPED + "\n"
    assert err == ESCAPED + "\n", "no colour where there is no terminal"


def test_json_stays_exact_and_keeps_its_accents(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"ü" + HOSTILE: [HOSTILE, 1.5, None, "\U000e0041"], "password": "hunter22"}
    say_json(content)
    text = capsys.readouterr().out
    assert json.loads(text) == {**content, "password": "***"}
    assert "ü" in text
    assert text.replace("\n", "").isprintable()


def test_tables_and_marked_up_text() -> None:
    out = StringIO()
    table = Table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    table.add_row(LONG)
    console = Console(RichConsole(file=out, width=4_000, force_terminal=True))
    console.print(table)
    console.print(f"[bold]{HOSTILE}[/bold]")
    console.print(Text(HOSTILE))
    text = out.getvalue().replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[1;35m", "")
    assert text.count("\\x1b]0;") >= 4, "the last may be coloured"
    assert "\x1b]" not in text
    assert "\u202e" not in text
    assert "of 1,000,000 characters" in text
    assert len(text) < 200_000


def test_log_lines_of_libraries_are_shown_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    guard_logs()
    logger = logging.getLogger("a library")
    assert logging.lastResort
    record = logger.makeRecord("x", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    assert logging.lastResort.format(record) == ESCAPED


def test_a_finding_cannot_look_like_two() -> None:
    one = finding("image-missing", "there is none", file="a\nerror[image-missing] b: there is none")
    assert "\nerror" not in str(one)


def test_a_terminal_without_unicode_shows_what_it_can(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from segdist.core.terminal import say; say('stra\\xdfe \\u65e5')"]
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, text=True, check=True
    )
    assert done.stdout == "stra\\xdfe \\u65e5\n"


_WRITERS = {"typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write", "click.echo", "traceback.print_exc"}
_WRITERS |= {"traceback.print_exception", "print"}
_OWNED = {"rich.console.Console", "rich.table.Table", "rich.live.Live", "rich.print"}
_BORROWED = {("segdist/pages", "rich.console.Console"), ("segdist/pipeline", "rich.live.Live")}
"""As types of arguments only."""


def _written(tree: ast.AST) -> list[str]:
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [name for name in calls if name in _WRITERS]


def _imported(tree: ast.AST) -> list[str]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [f"{node.module}.{name.name}" for node in nodes for name in node.names]


def test_no_other_module_writes_to_the_terminal() -> None:
    files = [file for file in Path("segdist").rglob("*.py") if file != Path("segdist/core/terminal.py")]
    assert len(files) > 200
    for file in files:
        tree = ast.parse(file.read_text("utf-8"))
        assert not _written(tree), f"{file}: use segdist.core.terminal"
        borrowed = [name for name in _imported(tree) if name in _OWNED and (str(file.parent), name) not in _BORROWED]
        assert not borrowed, f"{file}: use segdist.core.terminal"
