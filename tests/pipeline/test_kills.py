"""A search that is killed again and again, anywhere, ends as one that was not."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from segdist.searching import Ledger
from segdist.tracking import Tracker
from tests.pipeline.conftest import environment, processes

pytestmark = pytest.mark.timeout(1800)


class Killed:
    """A search in a folder of its own."""

    def __init__(self, root: Path, *, trials: int, epochs: int, repeats: int = 0) -> None:
        self.root, self.folder, self.log = root, root / "storage", root / "log"
        self.trials, self.epochs, self.repeats, self.kills = trials, epochs, repeats, 0
        self.folder.mkdir()

    def start(self, **more: Any) -> subprocess.Popen[bytes]:
        asked = {"trials": self.trials, "epochs": self.epochs, "repeats": self.repeats}
        given = {"folder": str(self.folder), **asked, **more}
        with self.log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.pipeline.kills", json.dumps(given)],
                stdout=out,
                stderr=out,
                env=environment(self.root),
                start_new_session=True,
            )

    def finish(self, driver: subprocess.Popen[bytes]) -> int:
        """Its exit code, when it has come to its end, whatever that is."""
        try:
            code = driver.wait(400)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()
        self.kills += code == -signal.SIGKILL
        return code

    def worker(self, driver: subprocess.Popen[bytes], title: str = "ray::ImplicitFunc.train") -> int:
        """A process in which a trial runs; 0 where the search ends before there is one."""
        while driver.poll() is None:
            if found := processes(self.root, title):
                return found[0]
            time.sleep(0.05)
        return 0

    def kill_worker(
        self, driver: subprocess.Popen[bytes], title: str = "ray::ImplicitFunc.train", *, after: float = 0.0
    ) -> None:
        victim = self.worker(driver, title)
        time.sleep(after)
        with suppress(ProcessLookupError):
            if victim:
                os.kill(victim, signal.SIGKILL)
                self.kills += 1

    def assert_whole(self) -> None:
        """Numbers unique, one baseline, each trial once in MLflow; a kill costs a trial at most one epoch."""
        found = Ledger(str(self.folder / "sweep")).trials
        every, numbers = list(range(1, self.epochs + 1)), list(range(self.trials + self.repeats))
        assert [t.number for t in found] == numbers
        assert [t.is_baseline for t in found] == [True] + [False] * (len(numbers) - 1)
        assert [bool(t.repeats) for t in found] == [number >= self.trials for number in numbers]
        assert {t.state for t in found} == {"finished"}
        for trial in found:
            worth = trial.values["train.loss.dice"] / 2
            assert [(e.epoch, e.metrics["val/iou"]) for e in trial.epochs] == [(e, worth * (1 - 0.5**e)) for e in every]
            done = Counter(map(int, (self.folder / "sweep" / f"epochs-{trial.number}").read_text().split()))
            assert sorted(done) == every
            assert sum(done.values()) <= self.epochs + self.kills
        tracker = Tracker.at(str(self.folder))
        sweep = tracker.latest_sweep("killed")
        spent, wasted = (sweep.metrics[f"{part}/cpu_seconds"] for part in ("spent", "wasted"))
        assert spent > wasted > 0
        assert wasted == pytest.approx(sum(trial.lost.cpu_seconds for trial in found))
        shown = tracker.trials(sweep.run_id)
        assert sorted(t.number for t in shown) == numbers
        assert {t.status for t in shown} == {"FINISHED"}
        for one in shown:
            assert [step for step, _ in tracker.history(one.run_id, "val/iou")] == every
            assert one.metrics["val/iou"] == pytest.approx(found[one.number].epochs[-1].metrics["val/iou"])


def test_killed_between_two_writes_and_by_its_worker_it_ends_whole(tmp_path: Path) -> None:
    search = Killed(tmp_path, trials=4, epochs=6)
    for at, after in ((3, True), (9, False)):  # when a trial was suggested and not yet started, and in its epochs
        assert search.finish(search.start(at=at, after=after)) == -signal.SIGKILL, search.log.read_text()
    driver = search.start()
    search.kill_worker(driver)
    assert search.finish(driver) == 0, search.log.read_text()
    assert search.kills == 3
    assert "done 4 4" in search.log.read_text()
    search.assert_whole()


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_as_it_is_made_or_for_memory_is_taken_up_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{psutil.virtual_memory().percent / 100 + 0.15:.2f}")
    search = Killed(tmp_path, trials=4, epochs=6)
    hungry = search.folder / "sweep" / "hungry-1-3"
    hungry.parent.mkdir()
    hungry.touch()
    driver = search.start()
    search.kill_worker(driver, "ray::ImplicitFunc")
    assert search.finish(driver) == 0, search.log.read_text()
    said = search.log.read_text()
    assert not hungry.exists()
    assert "begins again: A process died on this machine. Somebody killed it" in said
    assert re.search(
        r"trial 1   goes on after epoch 2: .*A process was killed because this machine ran out of memory", said
    )
    assert "Traceback" not in said
    search.kills += 4  # Ray's monitor takes as many trials as it finds right
    search.assert_whole()


@pytest.mark.slow
def test_trials_that_memory_does_not_hold_go_on_with_half_the_images_at_once_and_none_has_failed(
    tmp_path: Path,
) -> None:
    search = Killed(tmp_path, trials=4, epochs=5)
    folder = search.folder / "sweep"
    folder.mkdir()
    for name, fitting in (("card-1", 2), ("node-2", 1), ("card-3", 0)):
        (folder / name).write_text(str(fitting))
    assert search.finish(search.start()) == 0, search.log.read_text()
    said, trials = search.log.read_text(), Ledger(str(folder)).trials
    assert "trial 1   goes on after epoch 2: with 4 images at once instead of 8: The card's memory" in said
    assert "Traceback" not in said
    assert [t.state for t in trials] == ["finished", "finished", "finished", "infeasible"]
    assert [t.micro_batch for t in trials[1:]] == [2, 1, 1]
    assert [[e.epoch for e in t.epochs] for t in trials] == [[1, 2, 3, 4, 5]] * 3 + [[1, 2]]
    assert trials[3].reason.startswith("with one image at a time: The card's memory did not suffice")
    tracker = Tracker.at(str(search.folder))
    shown = {t.number: t for t in tracker.trials(tracker.latest_sweep("killed").run_id)}
    assert {t.status for t in shown.values()} == {"FINISHED"}
    assert [shown[n].micro_batch for n in range(4)] == [0, 2, 1, 1]
    assert shown[3].broken == {"memory": 1.0}


@pytest.mark.slow
def test_killed_while_its_best_trial_is_trained_again_it_ends_whole(tmp_path: Path) -> None:
    search = Killed(tmp_path, trials=2, epochs=20, repeats=3)

    def repeated() -> int:
        """Epochs of the repeats so far; a file that is being written is read the next time."""
        folder = search.folder / "sweep"
        return sum(
            len((folder / f"epochs-{n}").read_text().split()) for n in (2, 3, 4) if (folder / f"epochs-{n}").exists()
        )

    def wait_until(epochs: int, driver: subprocess.Popen[bytes]) -> None:
        while repeated() < epochs:
            assert driver.poll() is None, search.log.read_text()
            time.sleep(0.05)

    driver = search.start()
    wait_until(5, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    search.finish(driver)
    driver = search.start()
    wait_until(30, driver)
    search.kill_worker(driver)
    assert search.finish(driver) == 0, search.log.read_text()
    assert search.kills == 2
    assert "done 2 2" in search.log.read_text(), "repeats are no trials of the search"
    search.assert_whole()
    assert len({t.seed for t in Ledger(str(search.folder / "sweep")).repeats}) == 3


@pytest.mark.slow
def test_a_trial_that_was_killed_after_its_last_epoch_and_before_its_end_just_ends(tmp_path: Path) -> None:
    search = Killed(tmp_path, trials=2, epochs=2)
    assert search.finish(search.start()) == 0, search.log.read_text()
    Ledger(str(search.folder / "sweep")).change(1, state="running", tracked="")
    assert search.finish(search.start()) == 0, search.log.read_text()
    assert "begins anew" not in search.log.read_text()
    search.assert_whole()


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    search, chance, driver_kills = Killed(tmp_path, trials=12, epochs=60), random.Random(0), 0
    while search.kills < 20:
        what = chance.choice(["write", "driver", "worker"])
        if what == "write":
            search.finish(search.start(at=chance.randint(2, 40), after=chance.random() < 0.5))
        else:
            driver = search.start()
            if what == "worker":
                search.kill_worker(driver, after=chance.random())
            search.worker(driver)
            time.sleep(chance.random())
            os.killpg(driver.pid, signal.SIGKILL)
            search.finish(driver)
        driver_kills += 1
    assert driver_kills >= 10
    assert search.finish(search.start()) == 0, search.log.read_text()
    search.assert_whole()
