"""A whole search over trials that only count, as a process of its own that may kill itself or be killed.

The trials are real ones to Ray Tune, the ledger and MLflow; instead of training they count their epochs.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from segdist.core import storage
from segdist.core.spec import SweepSpec
from segdist.core.terminal import say
from segdist.datasets.shards import Manifest
from segdist.pipeline import sweep as pipeline
from segdist.pipeline.checkpoints import CHECKPOINT
from segdist.pipeline.cluster import connected
from segdist.pipeline.trial import Job
from segdist.searching import Search
from segdist.searching.budget import Meter
from segdist.tracking import Tracker


def spec_of(folder: str, *, trials: int, epochs: int, repeats: int = 0) -> SweepSpec:
    confirm = {"trials": 1, "seeds": repeats} if repeats else None
    return SweepSpec.model_validate(
        {
            "name": "killed",
            "storage": folder,
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam"},
            "train": {"lr": 1e-3, "epochs": epochs},
            "space": {
                "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
                "train.loss.dice": {"low": 0.5, "high": 2.0},
            },
            "search": {"trials": trials, "startup_trials": 2, "concurrency": 2, "asha": None, "confirm": confirm},
            "resources": {"cpus_per_worker": 0.5},
        }
    )


def count(config: dict[str, Any], job: Job) -> None:
    """A trial: each epoch is a little better, by what its values are worth, and takes a moment."""
    from ray import tune

    checkpoints = job.checkpoints(config["number"])
    with checkpoints.latest(say) as found:
        done = int((found / "epoch").read_text()) if found else 0
        for one in checkpoints.reported():
            if one["epoch"] > config["known"]:
                tune.report(one)
    for epoch in range(done + 1, job.run.train.epochs + 1):
        time.sleep(0.05)
        if epoch > 2:
            _fit(Path(job.storage_path), config)
        _eat(Path(job.storage_path, f"hungry-{config['number']}-{epoch}"))
        iou = config["values"]["train.loss.dice"] / 2 * (1 - 0.5**epoch)
        metrics = {"epoch": epoch, "seconds": 0.05, "val/iou": iou}
        with Path(job.storage_path, f"epochs-{config['number']}").open("a") as record:
            record.write(f"{epoch}\n")
        checkpoints.note(metrics)
        with TemporaryDirectory() as made:
            (Path(made) / "epoch").write_text(str(epoch))
            uri = checkpoints.save(Path(made), epoch=epoch, score=iou)
        tune.report({**metrics, CHECKPOINT: uri})


def _fit(folder: Path, config: dict[str, Any]) -> None:
    """Where a mark says how many images fit, run out of memory with more: on a card, or by the kernel's hand."""
    at_once, card, node = (
        config["micro_batch"] or 8,
        *(folder / f"{kind}-{config['number']}" for kind in ("card", "node")),
    )
    if card.exists() and at_once > int(card.read_text()):
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    if node.exists() and at_once > int(node.read_text()):
        os.kill(os.getpid(), signal.SIGKILL)


def _eat(mark: Path) -> None:
    """Where there is a mark, take memory until Ray's monitor ends this process; once."""
    if mark.exists():
        mark.unlink()
        eaten = []
        for _ in range(80):  # 8 GB
            eaten.append(b"1" * 100_000_000)
            time.sleep(0.1)


class Fuse:
    """Kills this process by SIGKILL at the n-th write into the storage: before it, or right after it."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._left, self._after, self._write = at, after, storage.write_atomic

    def __call__(self, uri: str, content: bytes) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        self._write(uri, content)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: str, *, trials: int, epochs: int, repeats: int = 0, at: int = 0, after: bool = False) -> Search:
    """Go on with the search in a folder."""
    spec = spec_of(folder, trials=trials, epochs=epochs, repeats=repeats)
    tracker = Tracker.for_sweep(spec)
    manifest = Manifest(kind="dataset", content_hash="0" * 16, classes=("roof",), splits={}, findings={}, shards=())
    parent = tracker.start_sweep(
        "killed", "f" * 16, spec_text=spec.model_dump_json(), spec_file="k.yaml", tags={}, params={}, dataset=manifest
    )
    place = storage.join(folder, "sweep")
    job = Job(run=spec.run, dataset_uri="", labels_uri="", boxes_only=(), storage_path=place, metric="val/iou")
    with (
        connected() as ray,
        patch.object(pipeline, "train_trial", count),
        patch.object(storage, "write_atomic", Fuse(at, after=after)),
    ):
        return pipeline.search(spec, job, ray, tracker, parent, {}, Meter(place))


if __name__ == "__main__":
    found = run(**json.loads(sys.argv[1]))
    say(f"{'done' if found.is_done else 'stopped'} {found.done} {found.total}")
