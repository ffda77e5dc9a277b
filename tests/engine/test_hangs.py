"""Two workers over gloo, one of which is stopped: the other says who, where and in what it waited."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed

from segdist.core.errors import BackendError
from segdist.engine.hangs import hangs_named
from segdist.engine.workers import Workers

SECONDS = 6.0


def test_a_worker_that_hangs_is_named_by_the_one_that_waits(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.engine.test_hangs", str(tmp_path)]
    workers = [subprocess.Popen([*words, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    try:
        _wait_for(tmp_path / "together-1", workers[1])
        os.kill(workers[1].pid, signal.SIGSTOP)
        said, _ = workers[0].communicate(timeout=200)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    waited = r"Worker 0 of 2 workers waited in all_reduce \(`totals`\) for the others in vain \(6 seconds are "
    silent = rf"No sign of life comes from worker 1 on \S+ \(process {workers[1].pid}\)\."
    assert re.search(rf"{waited}`resources\.collective_timeout`\)\. {silent}", said), said


def test_other_errors_and_a_worker_alone_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), hangs_named(1.0):
        raise RuntimeError("shapes do not match")


def _wait_for(file: Path, worker: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not file.exists():
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _work(folder: Path, rank: int) -> None:
    """Add up with the other worker until it answers no more."""
    distributed.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=SECONDS),
    )
    workers = Workers(rank, 2, torch.device("cpu"))
    try:
        with hangs_named(SECONDS):
            for count in range(10_000):
                assert workers.totals([1.0]) == [2.0]
                if count == 20:
                    (folder / f"together-{rank}").touch()
                time.sleep(0.05)
    except BackendError as error:
        sys.stdout.write(str(error))
        sys.stdout.flush()
        os._exit(0)  # without waiting for the one that hangs


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]))
