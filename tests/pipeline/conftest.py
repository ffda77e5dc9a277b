"""A sweep small enough for a test: drawn roofs, a debug-sized network, minutes of patience."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SWEEP = """\
name: tiny
question: Where are the roofs?
storage: {storage}
data:
  sources:
    - {{format: synthetic, scene: roofs, count: 24, size: 64, seed: 1}}
model:
  family: unet_cbam
  unet_cbam: {{image_size: 64, width: 8}}
train: {{epochs: 6, batch_size: 8, lr: 1e-3}}
evaluate: {{pictures: 2}}
space:
  train.lr: {{low: 1e-4, high: 1e-2, log: true}}
search: {{trials: 3, startup_trials: 2}}
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep file whose storage is its own folder."""
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP.format(storage=tmp_path / "storage"))
    return file


@pytest.fixture
def segdist(tmp_path: Path) -> Command:
    """The command line in a process of its own, as users run it."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            timeout=500,
            env={**environment(tmp_path), **(env or {})},
            check=False,
        )

    return run


def command(*arguments: str | Path) -> list[str]:
    """The words of a segdist command line in this environment."""
    return [sys.executable, "-m", "segdist.cli", *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    """This environment, with nothing of the user's: no storage, cache or cluster outside the test's folder."""
    outside = {"RAY_ADDRESS", "SEGDIST_STORAGE", "MLFLOW_TRACKING_URI"}
    kept = {k: v for k, v in os.environ.items() if k not in outside}
    return {**kept, "SEGDIST_CACHE": str(folder / "cache")}


def processes(folder: Path, title: str) -> list[int]:
    """Ids of the processes that Ray calls by a title and whose environment names this test's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = f"SEGDIST_CACHE={folder}" in (process / "environ").read_text(errors="replace")
            if is_ours and (process / "cmdline").read_bytes().startswith(title.encode()):
                found.append(int(process.name))
        except OSError:  # it ended, or is not ours to look at
            continue
    return sorted(found)


def draw_roofs(file: Path) -> None:
    """Write a picture of roofs, 96 pixels wide."""
    import cv2

    from segdist.data.scenes import draw

    image, _ = draw("roofs", 5, 96)
    assert cv2.imwrite(str(file), image[..., ::-1])


def wait_for(log: Path, pattern: str, driver: subprocess.Popen[bytes]) -> None:
    """Until a driver has written what is looked for; one that ends before has failed."""
    deadline = time.monotonic() + 200
    while not re.search(pattern, log.read_text()):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
