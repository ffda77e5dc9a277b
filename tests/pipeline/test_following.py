"""A sweep that runs elsewhere, shown by the lines of its log."""

import re
from typing import Any, cast

import pytest

from segdist.pipeline import following
from segdist.pipeline.following import Watch
from segdist.pipeline.progress import LINE, Progress

LOG = """\
data      images train 17, val 4, test 3; classes roof; 8b516735c763c15a
trial 0   epoch   1/6  val/iou 0.483         best 0.483  done 0/2  left 3:04  lr=0.001
trial 12  waits for the others               best 0.588  done 0/2  left 1:48  lr=0.00884 family=sam
trial 0   FAILED: it ran  out of memory      best ?  done 1/2  repeats 0/3  time left ?  spent 3 GPU-hours  lr=0.001
trial 3   goes on after epoch 2: its process died
champion  tiny@champion is now version 1
"""


class Screen:
    """A terminal that keeps what it is told to draw."""

    def __init__(self) -> None:
        self.calls = list[str]()

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


def test_without_a_terminal_every_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch() as watch:
        for line in LOG.splitlines():
            watch.line(line)
    assert capsys.readouterr().out == LOG


def test_in_a_terminal_lines_of_trials_become_a_table_and_others_are_printed_above_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(following, "live", lambda table: screen)
    with Watch() as watch:
        for line in LOG.splitlines():
            watch.line(line)
        table = watch.table()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["data", "trial", "champion"]
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [
        ["0", "12"],
        ["FAILED: it ran  out of memory", "waits for the others"],
        ["lr=0.001", "lr=0.00884 family=sam"],
    ]
    assert str(table.title) == "best ?  done 1/2  repeats 0/3  time left ?  spent 3 GPU-hours"
    assert screen.calls == ["start", "stop"]


def test_of_many_trials_the_latest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "live", lambda table: Screen())
    with Watch() as watch:
        for number in range(25):
            watch.line(f"trial {number:<3} finished                           best 0.5  done 1/25  left 3:04  lr=0.001")
        table = watch.table()
    assert [str(cell) for cell in table.columns[0].cells] == [str(number) for number in range(5, 25)]
    assert str(table.caption) == "and 5 trials more"


@pytest.mark.parametrize("values", ["lr=0.001", "repeats trial 3, seed 5", ""])
@pytest.mark.parametrize("text", ["epoch   1/6  val/iou 0.483", "stopped: the budget is spent", "FAILED: a  b"])
@pytest.mark.parametrize(
    "summary", ["best ?  done 0/2  time left ?", "best 0.483  done 0/2  repeats 1/2  left 3:04  spent 1 h"]
)
def test_what_progress_prints_is_understood(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, summary: str, values: str
) -> None:
    monkeypatch.setattr(Progress, "_summary", lambda self: summary)
    monkeypatch.setattr(Progress, "_values", lambda self, trial: values)
    progress = Progress.__new__(Progress)
    progress._live = None
    progress._line(cast("Any", type("Trial", (), {"number": 7})), text)
    found = re.fullmatch(LINE, capsys.readouterr().out.rstrip())
    assert found
    assert found.groupdict("") == {"trial": "7", "text": text, "summary": summary, "values": values}
