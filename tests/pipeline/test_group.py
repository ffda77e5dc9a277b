"""Trials of several data-parallel workers: searched, recorded and resumed like those of one."""

import os
import re
import signal
from pathlib import Path

import pytest

from segdist.tracking import Tracker
from tests.pipeline.conftest import command, driving, environment, processes, wait_for

EPOCHS = 12
OVERRIDES = (
    "resources.workers=2",
    "resources.cpus_per_worker=0.9",  # two and the search's own hundredth fit two CPUs
    "search.trials=2",
    f"train.epochs={EPOCHS}",
    f"search.asha.grace_epochs={EPOCHS}",
)


@pytest.mark.slow  # three starts of a worker group: a minute on two idle CPUs
def test_a_killed_worker_goes_on_from_its_checkpoint_and_leaves_its_cpus_to_the_next_trial(
    sweep: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with driving(command("run", sweep, *OVERRIDES), log, environment(tmp_path)) as driver:
        wait_for(log, r"trial 0 +epoch +2/", driver)
        victim = processes(tmp_path, "ray::RayTrainWorker")[1]
        os.kill(victim, signal.SIGKILL)
        assert not re.search(rf"epoch +{EPOCHS}/", log.read_text()), "it was killed in the middle"
        assert driver.wait(480) == 0, log.read_text()

    text = log.read_text()
    reported = [int(epoch) for epoch in re.findall(r"trial 0 +epoch +(\d+)/", text)]
    assert reported == list(range(1, EPOCHS + 1)), "it went on, and did not begin again"
    tracker = Tracker.at(str(tmp_path / "storage"))
    trials = tracker.trials(tracker.latest_sweep("tiny").run_id)
    assert [trial.status for trial in trials] == ["FINISHED", "FINISHED"]
    for trial in trials:
        assert [step for step, _ in tracker.history(trial.run_id, "val/iou")] == list(range(1, EPOCHS + 1))
        model = tracker.model(trial.run_id, tmp_path / trial.run_id)
        assert (model / "weights.safetensors").is_file()
        assert list(tracker.download(trial.run_id, "pictures", tmp_path / trial.run_id).glob("*.jpg"))


@pytest.mark.slow  # two starts of a worker group
def test_a_worker_that_hangs_is_named_and_the_trial_goes_on_from_its_checkpoint(sweep: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    overrides = (*OVERRIDES, "search.trials=1", "resources.collective_timeout=20")
    try:
        with driving(command("run", sweep, *overrides), log, environment(tmp_path)) as driver:
            wait_for(log, r"trial 0 +epoch +2/", driver)
            os.kill(processes(tmp_path, "ray::RayTrainWorker")[1], signal.SIGSTOP)
            assert driver.wait(480) == 0, log.read_text()
    finally:
        for left in processes(tmp_path, "ray::RayTrainWorker"):
            os.kill(left, signal.SIGKILL)

    text = log.read_text()
    assert re.search(
        r"trial 0 +goes on after epoch \d+: Worker \d of 2 workers waited in .* for the others in vain "
        r"\(20 seconds are `resources\.collective_timeout`\)\. No sign of life comes from worker \d on ",
        text,
    ), text
    reported = [int(epoch) for epoch in re.findall(r"trial 0 +epoch +(\d+)/", text)]
    assert reported == list(range(1, EPOCHS + 1)), "it went on, and did not begin again"
