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
@pytest.mark.timeout(4 * PATIENCE)
def test_a_driver_that_is_killed_again_and_again_labels_as_one_that_is_not(tmp_path: Path, segdist: Command) -> None:
    calm, troubled = _sweep(tmp_path, "calm"), _sweep(tmp_path, "troubled")
    _finished(command("label", calm), environment(tmp_path))
    moments, watch = random.Random(0), _Watch(tmp_path)
    for driver in range(KILLS):
        if driver < DURING_START:
            _killed(tmp_path, troubled, driver=driver, after_seconds=moments.uniform(0.5, 15))
        else:
            images, seconds = moments.randint(1, LATEST), moments.uniform(0, 0.1)
            _killed(tmp_path, troubled, driver=driver, after_images=images, after_seconds=seconds)
        watch.look()
    _finished(_driver(troubled), _recording(tmp_path, KILLS))
    watch.look()
    begun = [_begun(tmp_path, driver) for driver in range(KILLS + 1)]
    assert all(len(set(images)) == len(images) for images in begun), "no driver labels an image twice"
    assert sum(bool(images) for images in begun[:KILLS]) >= KILLS - DURING_START, "the kills fall into the labelling"
    assert begun[KILLS], "the last driver was left something to do"
    assert len({image for images in begun for image in images}) == IMAGES
    assert watch.rewritten == 0, "a shard that was finished was labelled again"
    redone = [len(set(begun[n]) & {i for images in begun[:n] for i in images}) for n in range(1, KILLS + 1)]
    assert max(redone) <= ACTORS * IMAGES_PER_SHARD, f"a kill costs no more than a shard for each teacher: {redone}"
    assert _report(segdist, calm)["content_hash"] == _report(segdist, troubled)["content_hash"]
    assert _report(segdist, calm)["quality"] == pytest.approx(_report(segdist, troubled)["quality"])


@dataclass
class _Watch:
    """What each driver left behind.

    Attributes:
        rewritten: shards that were there before and are other files now.
    """

    folder: Path
    rewritten: int = 0
    _first_seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def look(self) -> None:
        """Compare with the last look."""
        for shard in self.folder.glob("troubled/labels/*/*.parquet"):
            found = shard.stat().st_ino, shard.stat().st_mtime_ns
            self.rewritten += self._first_seen.setdefault(shard.name, found) != found


def _killed(folder: Path, sweep: Path, *, driver: int, after_seconds: float, after_images: int = 0) -> None:
    """Start a driver, and kill it and all of its process group once it has begun so many images, and then some."""
    late, said = time.monotonic() + PATIENCE, folder / "said.txt"
    with said.open("w") as out:
        process = subprocess.Popen(
            _driver(sweep), env=_recording(folder, driver), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while len(_begun(folder, driver)) < after_images:
            assert process.poll() is None, f"the driver ended before it was killed: {said.read_text()}"
            assert time.monotonic() < late, f"the driver labelled nothing within {PATIENCE} seconds"
            time.sleep(0.02)
        time.sleep(after_seconds)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _finished(words: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


def _driver(sweep: Path) -> list[str]:
    return [sys.executable, "-m", "tests.pipeline.recorded", "label", str(sweep)]


def _recording(folder: Path, driver: int) -> dict[str, str]:
    return {**environment(folder), "SEGDIST_TEST_RECORD": str(folder / f"begun-{driver}.txt")}


def _begun(folder: Path, driver: int) -> list[str]:
    """The images that the teachers of a driver have begun to label, in order."""
    file = folder / f"begun-{driver}.txt"
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
