"""A disk that is full, anywhere in a sweep: a message of a screen, and once there is space the same command goes on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from segdist.searching import Ledger
from segdist.tracking import Tracker, names
from tests.pipeline.conftest import SWEEP, Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

KILOBYTES = {
    700: "MLflow's database",
    1_050: "datasets/",
    7_000: "trials/",
}
"""Sizes of a disk, and what no longer fits on it: the database, the shards, or what trials keep."""


def _mount(folder: Path, *words: str) -> bool:
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of the least size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _mount(folder, "-t", "tmpfs", "-o", f"size={min(KILOBYTES)}k", "tmpfs"):
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_sweep_on_a_disk_that_fills_goes_on_when_there_is_space_as_if_nothing_had_been(
    tmp_path: Path, disk: Path, segdist: Command
) -> None:
    file = tmp_path / "tiny.yaml"
    # Nothing that depends on which trial is done first: no early stopping, and every point is drawn by its number.
    alone = SWEEP.replace("epochs: 6", "epochs: 2").replace("startup_trials: 2", "startup_trials: 3, asha: null")
    file.write_text(alone.format(storage=disk / "storage"))
    for kilobytes, place in KILOBYTES.items():
        assert _mount(disk, "-o", f"remount,size={kilobytes}k")
        full = segdist("run", file)
        assert full.returncode == 2, full.stdout + full.stderr
        assert "Free some space" in full.stderr
        assert place in full.stderr
        assert "Traceback" not in full.stderr
        assert len(full.stdout.splitlines() + full.stderr.splitlines()) < 24
    assert _mount(disk, "-o", "remount,size=200m")
    whole = segdist("run", file)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    undisturbed = segdist("run", file, f"storage={tmp_path / 'undisturbed'}")
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    assert _values(disk / "storage") == _values(tmp_path / "undisturbed")


PLACES = {
    "TMPDIR": (64, "(TMPDIR)"),
    "SEGDIST_CACHE": (64, "data cache"),
    "RAY_TMPDIR": (1_600, "set RAY_TMPDIR"),
}
"""Disks that everything writes to, the size in kilobytes that is too small, and what the message names."""


def test_a_disk_beside_the_storage_that_is_full_is_named_and_a_search_goes_on_when_it_has_space(
    tmp_path: Path, short_folder: Path, segdist: Command
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(
        SWEEP.replace("epochs: 6", "epochs: 2")
        .replace("startup_trials: 2", "startup_trials: 3, asha: null")
        .format(storage=tmp_path / "storage")
    )
    for name, (kilobytes, said) in PLACES.items():
        if not _mount(short_folder, "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs"):
            pytest.skip("only root may mount a disk")
        try:
            full = segdist("run", file, env={"RAY_TMPDIR": "/tmp", name: str(short_folder)})
        finally:
            subprocess.run(["umount", "--lazy", short_folder], check=True)
        assert full.returncode == 2, full.stdout + full.stderr
        assert said in full.stderr
        assert full.stderr.splitlines()[-1].startswith("Then go on: segdist run ")
        assert "Traceback" not in full.stderr
        assert len(full.stdout.splitlines() + full.stderr.splitlines()) < 24
    tracker = Tracker.at(str(tmp_path / "storage"))
    ended = tracker.latest_sweep("tiny")
    assert ended.status == "FAILED"
    assert "space" in str(ended.tags[names.END])
    assert "RUNNING" not in {trial.status for trial in tracker.trials(ended.run_id)}
    whole = segdist("run", file)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    undisturbed = segdist("run", file, f"storage={tmp_path / 'undisturbed'}")
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    assert _values(tmp_path / "storage") == _values(tmp_path / "undisturbed")


def _values(storage: Path) -> list[list[float]]:
    """What each trial scored after each epoch."""
    (ledger,) = {file.parent.parent for file in storage.glob("sweeps/tiny/*/trials/*.json")}
    return [trial.scores("val/iou") for trial in Ledger(str(ledger)).trials]
