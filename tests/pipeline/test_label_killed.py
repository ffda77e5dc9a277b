"""Labelling survives `kill -9`: what is finished stays, and the set in the end is that of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import Command, command, environment

KILLS = int(os.environ.get("SEGDIST_TEST_KILLS", "10"))
SWEEP = """\
name: killed
storage: {storage}
data:
  sources: [{{format: synthetic, scene: roofs, count: 120, size: 96, seed: 3}}]
  boxes_only: [train, val, test]
label:
  teacher: {{family: sam, sam: {{size: tiny}}}}
  images_per_shard: 4
  actors: 2
model: {{family: unet_cbam}}
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_driver_that_is_killed_again_and_again_labels_as_one_that_is_not(tmp_path: Path, segdist: Command) -> None:
    calm, troubled = _sweep(tmp_path, "calm"), _sweep(tmp_path, "troubled")
    started = time.monotonic()
    whole = segdist("label", calm)
    assert whole.returncode == 0, whole.stderr
    seconds = time.monotonic() - started
    moments = random.Random(0)
    first_seen: dict[str, tuple[int, int]] = {}
    rewritten = 0
    for _ in range(KILLS):
        driver = subprocess.Popen(
            command("label", troubled), env=environment(tmp_path), stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            driver.wait(moments.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
        rewritten += _seen(tmp_path / "troubled", first_seen)
    last = segdist("label", troubled)
    assert last.returncode == 0, last.stderr
    rewritten += _seen(tmp_path / "troubled", first_seen)
    assert rewritten == 0, "a shard that was finished was labelled again"
    assert _report(segdist, calm)["content_hash"] == _report(segdist, troubled)["content_hash"]
    assert _report(segdist, calm)["quality"] == pytest.approx(_report(segdist, troubled)["quality"])


def _sweep(folder: Path, name: str) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(SWEEP.format(storage=folder / name))
    return file


def _seen(storage: Path, first_seen: dict[str, tuple[int, int]]) -> int:
    """Shards that were there before and are other files now."""
    again = 0
    for shard in storage.glob("labels/*/*.parquet"):
        found = shard.stat().st_ino, shard.stat().st_mtime_ns
        again += first_seen.setdefault(shard.name, found) != found
    return again


def _report(segdist: Command, file: Path) -> dict[str, object]:
    (found,) = json.loads(segdist("label", "report", file, "--json").stdout)
    assert isinstance(found, dict)
    return {**found, "quality": {k: v for k, v in found["quality"].items() if isinstance(v, float)}}
