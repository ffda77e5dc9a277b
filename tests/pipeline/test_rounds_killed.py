"""A round of self-training survives `kill -9`: students and shards that are there stay, and the labels are the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Command, environment

PATIENCE = 600
SWEEP = """\
name: killed
storage: {storage}
data:
  sources: [{{format: synthetic, scene: roofs, count: 60, size: 64, seed: 3, empty_share: 0.0}}]
  boxes_only: [train, val, test]
label:
  teacher: {{family: classical, classical: {{method: otsu}}}}
  rounds: 1
  student:
    model: {{family: unet_cbam, unet_cbam: {{image_size: 64, width: 8, depth: 2}}}}
    epochs: 20
    batch_size: 4
  images_per_shard: 2
  actors: 1
model: {{family: unet_cbam}}
"""


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_a_round_that_is_killed_in_its_training_and_in_its_labelling_ends_as_one_that_is_not(
    tmp_path: Path, segdist: Command
) -> None:
    calm, troubled = (_sweep(tmp_path, name) for name in ("calm", "troubled"))
    segdist("label", calm)
    storage = tmp_path / "troubled"
    _killed(tmp_path, troubled, once=lambda: _students(storage) == 1)
    first = {file: file.stat().st_mtime_ns for file in storage.glob("labels/*/students/*/*")}
    assert len(list(storage.glob("labels/*/manifest.json"))) == 1, "the first labels are done, the round is not"
    _killed(tmp_path, troubled, once=lambda: len(_of_round(storage)) >= 3)
    shards = {file: file.stat().st_mtime_ns for file in _of_round(storage)}
    assert 3 <= len(shards) < 30
    said = segdist("label", troubled).stdout
    assert "to learn" not in said, "both students are there"
    assert {file: file.stat().st_mtime_ns for file in [*first, *shards]} == {**first, **shards}
    assert _hash(segdist, calm) == _hash(segdist, troubled)


def _students(storage: Path) -> int:
    return len(list(storage.glob("labels/*/students/*/model.json")))


def _of_round(storage: Path) -> list[Path]:
    """The shards that the round has made."""
    return [file for folder in storage.glob("labels/*/students") for file in folder.parent.glob("*.parquet")]


def _killed(folder: Path, sweep: Path, *, once: Callable[[], bool]) -> None:
    """Start the command, and kill it with all of its processes once something is there."""
    late, said = time.monotonic() + PATIENCE, folder / "said.txt"
    words = [sys.executable, "-m", "segdist.cli", "label", str(sweep)]
    with said.open("w") as out:
        process = subprocess.Popen(
            words, env=environment(folder), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while not once():
            assert process.poll() is None, f"the command ended before it was killed: {said.read_text()}"
            assert time.monotonic() < late, f"nothing came within {PATIENCE} seconds: {said.read_text()}"
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _sweep(folder: Path, name: str) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(SWEEP.format(storage=folder / name))
    return file


def _hash(segdist: Command, file: Path) -> str:
    (found,) = json.loads(segdist("label", "report", file, "--json").stdout)
    return str(found["content_hash"])
