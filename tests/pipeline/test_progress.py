"""What a sweep prints while it runs: every line says which trial, how good, and how long it will take."""

import io
import pickle
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from segdist.pipeline.progress import Progress


def trial(number: int, **config: Any) -> Any:
    return SimpleNamespace(trial_id=f"id{number}", config=config, status="RUNNING", last_result={})


def progress() -> Progress:
    made = Progress(metric="val/iou", trials=2, epochs=4, searched=["train.lr", "model.family"])
    made.setup()
    return made


def report(to: Progress, trials: list[Any], number: int, *, epoch: int, iou: float) -> None:
    trials[number].last_result = {"val/iou": iou, "epoch": epoch}
    to.on_trial_result(epoch, trials, trials[number], trials[number].last_result)


def test_lines_of_a_log_name_the_trial_as_the_tables_do(capsys: pytest.CaptureFixture[str]) -> None:
    shown, trials = progress(), [trial(0), trial(1, **{"train.lr": 3.14159e-4, "model.family": "sam"})]
    report(shown, trials, 0, epoch=4, iou=0.5)
    shown.on_trial_complete(4, trials, trials[0])
    report(shown, trials, 1, epoch=1, iou=0.25)
    shown.on_trial_complete(5, trials, trials[1])
    lines = [re.sub(r" +", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    assert [re.sub(r"left \d+:\d\d", "left T", line) for line in lines] == [
        "trial 0 epoch 4/4 val/iou 0.500 best 0.500 done 0/2 left T",
        "trial 0 finished best 0.500 done 1/2 left T",
        "trial 1 epoch 1/4 val/iou 0.250 best 0.500 done 1/2 left T lr=0.000314 family=sam",
        "trial 1 stopped early best 0.500 done 2/2 left T lr=0.000314 family=sam",
    ]


def test_the_time_left_counts_a_trial_that_ended_early_as_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    shown, trials = progress(), [trial(0), trial(1)]
    clock[0] = 100.0
    report(shown, trials, 0, epoch=2, iou=0.5)  # two of eight epochs in 100 s
    shown.on_trial_complete(2, trials, trials[0])  # now four of eight
    left = re.findall(r"left (\d+:\d\d)", capsys.readouterr().out)
    assert left == ["5:00", "1:40"]


def test_a_trial_that_failed_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("segdist.pipeline.progress.error_text", lambda _: "Traceback\nRuntimeError: CUDA out of memory")
    shown, trials = progress(), [trial(0), trial(1)]
    shown.on_trial_error(1, trials, trials[1])
    assert "trial 1   FAILED: RuntimeError: CUDA out of memory" in capsys.readouterr().out


def test_the_table_of_a_terminal_shows_the_same_numbers() -> None:
    shown, trials = progress(), [trial(0), trial(1, **{"train.lr": 0.1})]
    report(shown, trials, 1, epoch=3, iou=0.625)
    restored = pickle.loads(pickle.dumps(shown))  # Ray restores it with the search
    restored.on_step_end(1, trials)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(restored._table())
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines() if "running" in line]
    assert rows == [["0", "running", "0/4"], ["1", "running", "3/4", "0.625", "0.625", "lr=0.1"]]
