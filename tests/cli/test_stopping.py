"""Whoever stops a command by a real signal is told what is done and how to go on, and nothing further is started."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segdist.core.interruption import Interrupted, Stops, interruptible, signals_kept
from tests.pipeline.conftest import SWEEP, command, environment, wait_for

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


def sweeps(folder: Path, *, images: int = 24, side: int = 64) -> list[Path]:
    """Two sweep files, each with a storage of its own."""
    files = [folder / "a.yaml", folder / "b.yaml"]
    for file in files:
        text = SWEEP.format(storage=folder / file.stem)
        file.write_text(text.replace("count: 24, size: 64", f"count: {images}, size: {side}"))
    return files


def test_stopped_while_data_are_read_nothing_further_starts_and_the_way_to_go_on_is_told(tmp_path: Path) -> None:
    files = sweeps(tmp_path, images=512, side=1024)
    log = tmp_path / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(command("run", *files), stdout=out, stderr=out, env=environment(tmp_path))
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "a" / "mlflow.db").exists():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        time.sleep(1)  # to draw that many large images takes many
        child.terminate()
        assert child.wait(60) == 128 + signal.SIGTERM, log.read_text()
    finally:
        child.kill()
    said = log.read_text()
    assert "Traceback" not in said
    assert "stopped by SIGTERM. No step was done." in said
    assert f"segdist run {files[0]} {files[1]}" in said
    assert f"{files[0]}  stopped\n{files[1]}  not started" in said
    assert not (tmp_path / "b").exists()


LOSES_IT = """
import os, signal, sys
from segdist.cli.sweeps import _each
sys.argv = ["segdist", "run", "one.yaml", "two.yaml", "tracking.uri=http://me:secret@host:1"]
def action(file, overrides):
    print("began", file, flush=True)
    try:
        os.kill(os.getpid(), {number})
    except KeyboardInterrupt:  # as in a callback of C
        pass
_each(sys.argv[2:], action, debug=False)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_whose_error_a_library_lost_still_keeps_the_next_file_from_starting(number: signal.Signals) -> None:
    code = "import typer\ntry:" + LOSES_IT.format(number=int(number)).replace("\n", "\n    ")
    code += "\nexcept typer.Exit as end:\n    sys.exit(end.exit_code)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 128 + number, found.stderr
    assert "began one.yaml" in found.stdout
    assert "began two.yaml" not in found.stdout
    assert "two.yaml  not started" in found.stdout
    assert f"stopped by {SIGNALS[number]}" in found.stderr
    assert "secret" not in found.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "segdist run one.yaml two.yaml tracking.uri="),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, "ray job submit --working-dir . -- segdist run one.yaml two.yaml "),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "SEGDIST_TYPED": "sbatch sweep.sbatch one.yaml"}, "sbatch sweep.sbatch"),
    ],
)
def test_the_way_to_go_on_is_what_was_typed_also_where_that_was_elsewhere(env: dict[str, str], said: str) -> None:
    code = [sys.executable, "-c", LOSES_IT.format(number=int(signal.SIGTERM))]
    found = subprocess.run(code, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False)
    assert f"Run the same command again to go on:\n  {said}" in found.stderr


def test_two_signals_at_once_are_one_stop_and_a_later_one_ends_the_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stops = Stops()
    with interruptible(stops):
        with pytest.raises(Interrupted) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 5
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.value.exit_code == 143
    assert stops.first == signal.SIGTERM


def test_what_was_ignored_stays_ignored_and_a_library_gives_signals_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(Stops()):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            ours = signal.getsignal(signal.SIGTERM)
            with signals_kept():
                signal.signal(signal.SIGTERM, lambda *_: None)
            assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGHUP, before)


LABELLED = "\nlabel:\n  teacher: {family: sam, sam: {size: tiny}}\n  splits: [train]\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("moment", "done"),
    [
        ("data  ", "Done: data."),
        ("labels  ", "Done: data, labels"),
        (r"trial 0   epoch   1", "Done: data, labels, 0 of 3 trials."),
        ("done 3/3", "Done: data, labels, 3 of 3 trials"),
    ],
)
def test_stopped_anywhere_it_is_marked_told_and_finished_by_the_same_command(
    tmp_path: Path, moment: str, done: str, number: signal.Signals
) -> None:
    first, second = sweeps(tmp_path)
    first.write_text(first.read_text() + LABELLED)
    log = tmp_path / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(command("run", first, second), stdout=out, stderr=out, env=environment(tmp_path))
    try:
        wait_for(log, moment, child)
        time.sleep(1)
        child.send_signal(number)
        assert child.wait(100) == 128 + number, log.read_text()
    finally:
        child.kill()
    said = log.read_text()
    assert "Traceback" not in said
    assert done in said
    assert not (tmp_path / "b").exists()
    assert not _running(tmp_path / "a")
    subprocess.run(command("run", first), env=environment(tmp_path), check=True, timeout=400)


def _running(storage: Path) -> list[str]:
    """Runs that MLflow shows as running."""
    if not (storage / "mlflow.db").exists():
        return []
    with sqlite3.connect(storage / "mlflow.db") as database:
        return [row[0] for row in database.execute("select name from runs where status = 'RUNNING'")]
