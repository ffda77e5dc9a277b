"""What a sweep prints while it runs: every line says which trial, how good, and how long it will take."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from segdist.pipeline.progress import Progress
from segdist.searching import Ledger, Search, Trial
from tests.searching.sweeps import begun, sweep


def searched(folder: Path, *, trials: int = 2) -> tuple[Search, Progress]:
    search = begun(sweep(trials=trials, asha={"grace_epochs": 1, "reduction_factor": 2, "pause": False}), folder)
    return search, shown(search)


def shown(search: Search) -> Progress:
    progress = Progress(search, metric="val/iou", epochs=4, searched=["train.lr", "model.family"])
    progress.start()
    return progress


def report(search: Search, progress: Progress, number: int, *, epoch: int, iou: float) -> None:
    search.report(number, {"val/iou": iou, "epoch": epoch})
    progress.epoch(number)


def end(search: Search, progress: Progress, number: int) -> None:
    search.end(number)
    progress.ended(number)


def begin(search: Search) -> Trial:
    trial = search.next()
    assert trial
    return search.start(trial.number)


def test_lines_of_a_log_name_the_trial_as_the_tables_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search, progress = searched(tmp_path)
    for number in (0, 1):
        begin(search)
        search.ledger.change(number, values={"train.lr": 3.14159e-4, "model.family": "sam"} if number else {})
    report(search, progress, 0, epoch=4, iou=0.5)
    end(search, progress, 0)
    report(search, progress, 1, epoch=4, iou=0.25)
    end(search, progress, 1)
    lines = [re.sub(r" +", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    assert [re.sub(r"left \d+:\d\d", "left T", line) for line in lines] == [
        "trial 0 epoch 4/4 val/iou 0.500 best 0.500 done 0/2 left T",
        "trial 0 finished best 0.500 done 1/2 left T",
        "trial 1 epoch 4/4 val/iou 0.250 best 0.500 done 2/2 left T lr=0.000314 family=sam",
        "trial 1 stopped early best 0.500 done 2/2 left T lr=0.000314 family=sam",
    ]


def test_after_a_start_in_between_it_goes_on_counting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search, progress = searched(tmp_path, trials=4)
    begin(search)
    report(search, progress, 0, epoch=1, iou=0.71)
    end(search, progress, 0)
    again = Search(sweep(trials=4), Ledger(str(tmp_path)))
    progress = shown(again)
    begin(again)
    capsys.readouterr()
    report(again, progress, 1, epoch=1, iou=0.3)
    assert "best 0.710  done 1/4  left" in capsys.readouterr().out


def test_the_time_left_counts_what_this_start_did_and_a_trial_that_ended_early_as_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    search, progress = searched(tmp_path)
    begin(search)
    search.report(0, {"val/iou": 0.4, "epoch": 1})
    clock[0] = 100.0
    report(search, progress, 0, epoch=2, iou=0.5)  # two of eight epochs in 100 s
    end(search, progress, 0)  # now four of eight
    left = re.findall(r"left (\d+:\d\d)", capsys.readouterr().out)
    assert left == ["5:00", "1:40"]


def test_a_trial_that_failed_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search, progress = searched(tmp_path)
    begin(search)
    search.fail(0, "the card's memory did not suffice")
    progress.ended(0)
    assert "trial 0   FAILED: the card's memory did not suffice" in capsys.readouterr().out


def test_the_table_of_a_terminal_shows_the_same_numbers(tmp_path: Path) -> None:
    search, progress = searched(tmp_path)
    for _ in range(2):
        begin(search)
    search.ledger.change(1, values={"train.lr": 0.1})
    report(search, progress, 1, epoch=2, iou=0.75)
    report(search, progress, 1, epoch=3, iou=0.625)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(progress._table())
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines() if "running" in line]
    assert [row[:3] for row in rows] == [["0", "running", "0/4"], ["1", "running", "3/4"]]
    assert rows[1][3:] == ["0.625", "0.750", "lr=0.1"]


def test_the_table_of_many_trials_fits_the_terminal_with_the_best_and_those_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "20")
    search, progress = searched(tmp_path, trials=30)
    for number in range(30):
        begin(search)
        report(search, progress, number, epoch=4, iou=0.9 if number == 3 else 0.1)
        if number != 5:
            end(search, progress, number)
    out = io.StringIO()
    Console(file=out, width=120).print(progress._table())
    assert len(lines := out.getvalue().splitlines()) < 20
    assert [int(found[1]) for line in lines if (found := re.match(r"│ *(\d+) │", line))] == [3, 5, *range(20, 30)]
    assert "and 18 trials more" in lines[-1]


def test_the_time_left_of_trials_that_wait_counts_on_few_of_them_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    search = begun(sweep(trials=9, asha={"grace_epochs": 1, "reduction_factor": 3, "pause": True}), tmp_path)
    progress = shown(search)
    begin(search)
    search.report(0, {"val/iou": 0.4, "epoch": 1})
    clock[0] = 10.0
    end(search, progress, 0)
    # Of 9 trials 3 come to epoch 3 and one to epoch 9, and the untuned one: 9 + 3 * 2 + 6 + 8, of which one is done.
    assert "waits for the others               best 0.400  done 0/9  left 4:40" in capsys.readouterr().out
