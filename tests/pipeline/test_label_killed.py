"""Labelling survives `kill -9`: what is finished stays, and the set in the end is that of an undisturbed run.

A start of the driver costs about 20 CPU-seconds (imports, Ray, two teachers), its labelling here one or two: moments
drawn from the clock would nearly all fall into the start. So most are drawn from the images labelled.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.pipeline.conftest import Command, command, environment

KILLS = int(os.environ.get("SEGDIST_TEST_KILLS", "10"))
DURING_START = 2
"""So many of the kills come before the first image is labelled, at a random moment after the command."""
IMAGES, IMAGES_PER_SHARD, ACTORS = 240, 4, 2
LATEST = IMAGES // KILLS - 2 * IMAGES_PER_SHARD
"""A driver is killed once it has begun this many images at most, so that some are left for the next."""
PATIENCE = 900
"""Seconds for a driver to begin: ten on a quiet machine of two cores, a hundred times as long on a crowded one."""
SWEEP = """\
name: killed
storage: {storage}
data:
  sources: [{{format: synthetic, scene: roofs, count: {images}, size: 64, seed: 3, empty_share: 0.0}}]
  boxes_only: [train, val, test]
label:
  teacher: {{family: sam, sam: {{size: tiny}}}}
  images_per_shard: {images_per_shard}
  actors: {actors}
model: {{family: unet_cbam}}
"""


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_a_driver_that_is_killed_again_and_again_labels_as_one_that_is_not(tmp_path: Path, segdist: Command) -> None:
    calm, troubled = _sweep(tmp_path, "calm"), _sweep(tmp_path, "troubled")
    _finished(command("label", calm), environment(tmp_path))
    moments, watch = random.Random(0), _Watch(tmp_path)
    for number in range(KILLS):
        if number < DURING_START:
            _killed(tmp_path, troubled, after_seconds=moments.uniform(0.5, 15))
        else:
            images = moments.randint(1, LATEST)
            _killed(tmp_path, troubled, after_images=images, after_seconds=moments.uniform(0, 0.1))
        watch.look()
    _finished(_driver(troubled), _recording(tmp_path))
    watch.look()
    assert watch.kills_while_labelling >= KILLS - DURING_START - 1, "the kills must fall into the labelling"
    assert watch.rewritten == 0, "a shard that was finished was labelled again"
    assert max(watch.redone) <= ACTORS * IMAGES_PER_SHARD, "a kill costs no more than a shard for each teacher"
    assert _report(segdist, calm)["content_hash"] == _report(segdist, troubled)["content_hash"]
    assert _report(segdist, calm)["quality"] == pytest.approx(_report(segdist, troubled)["quality"])


@dataclass
class _Watch:
    """What each driver left behind.

    Attributes:
        rewritten: shards that were there before and are other files now.
        redone: for each driver, the images it labelled although one before had begun them.
        kills_while_labelling: drivers that had begun to label and left images for the next.
    """

    folder: Path
    rewritten: int = 0
    redone: list[int] = field(default_factory=list)
    kills_while_labelling: int = 0
    _first_seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    _begun: int = 0

    def look(self) -> None:
        """Compare with the last look."""
        for shard in self.folder.glob("troubled/labels/*/*.parquet"):
            found = shard.stat().st_ino, shard.stat().st_mtime_ns
            self.rewritten += self._first_seen.setdefault(shard.name, found) != found
        begun = _begun(self.folder)
        before, now = Counter(begun[: self._begun]), Counter(begun[self._begun :])
        assert max(now.values(), default=1) == 1, "no driver labels an image twice"
        self.redone.append(sum(image in before for image in now))
        self.kills_while_labelling += bool(now) and len(before | now) < IMAGES
        self._begun = len(begun)


def _killed(folder: Path, sweep: Path, *, after_seconds: float, after_images: int = 0) -> None:
    """Start a driver, and kill it and all of its process group once it has begun so many images, and then some."""
    begun, late = len(_begun(folder)), time.monotonic() + PATIENCE
    said = folder / "said.txt"
    with said.open("w") as out:
        driver = subprocess.Popen(
            _driver(sweep), env=_recording(folder), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while len(_begun(folder)) < begun + after_images:
            assert driver.poll() is None, f"the driver ended before it was killed: {said.read_text()}"
            assert time.monotonic() < late, f"the driver labelled nothing within {PATIENCE} seconds"
            time.sleep(0.02)
        time.sleep(after_seconds)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()


def _finished(words: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


def _driver(sweep: Path) -> list[str]:
    return [sys.executable, "-m", "tests.pipeline.recorded", "label", str(sweep)]


def _recording(folder: Path) -> dict[str, str]:
    return {**environment(folder), "SEGDIST_TEST_RECORD": str(folder / "begun.txt")}


def _begun(folder: Path) -> list[str]:
    """The images of which labelling has begun, in order."""
    file = folder / "begun.txt"
    return file.read_text().split() if file.exists() else []


def _sweep(folder: Path, name: str) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(
        SWEEP.format(storage=folder / name, images=IMAGES, images_per_shard=IMAGES_PER_SHARD, actors=ACTORS)
    )
    return file


def _report(segdist: Command, file: Path) -> dict[str, object]:
    (found,) = json.loads(segdist("label", "report", file, "--json").stdout)
    assert isinstance(found, dict)
    return {**found, "quality": {k: v for k, v in found["quality"].items() if isinstance(v, float)}}
