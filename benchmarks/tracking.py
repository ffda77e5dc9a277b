"""What MLflow costs a trial, and what a thousand trials in one experiment cost who looks at them.

First one trial of a hundred epochs is told to a real server behind a proxy that counts requests. Then two experiments
are filled, one of them with a thousand trials, and `segdist compare`, the report and the look-up of a sweep are timed.
"""

import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np

from benchmarks._process import run as run_command
from segdist.core.panels import encode_jpeg
from segdist.core.spec import SweepSpec
from segdist.datasets.shards import Manifest, SplitCounts
from segdist.pages.report import write_html
from segdist.pipeline.recording import Recording
from segdist.pipeline.trial import Job
from segdist.searching import Ledger, Search
from segdist.tracking import Measured, Tracker, names
from tests.proxy import Proxy

EPOCHS, TRIAL_SECONDS, EPOCH_SECONDS = 100, 60.0, 0.6
MANY, FEW = 1000, 10
REQUESTS, SHARE, COMPARE, REPORT = 3.0, 0.01, 3.0, 10.0
"""The targets: requests an epoch and trial; share of a trial of a minute; seconds of a look at a thousand trials."""
METRICS = 60
"""Measured in an epoch: those of a dozen classes, and of the node."""


def main() -> None:
    """Print both tables."""
    with TemporaryDirectory(prefix="segdist-bench-") as folder:
        _tell_one(Path(folder))
    with TemporaryDirectory(prefix="segdist-bench-") as folder:
        _look_at_many(Path(folder))


def _tell_one(folder: Path) -> None:
    waited: list[float] = []
    with _server(folder) as server, Proxy(server) as proxy:
        tracker = Tracker(proxy.address)
        spec = _spec(folder, "one", trials=1)
        parent = _start(tracker, spec)
        job = Job(spec.run, "", "", (), str(folder / "sweep"), "val/iou")
        search = Search(spec, Ledger(job.storage_path))
        recording = Recording(tracker, parent, job, {}, search.ledger)
        before, cpu, began = proxy.requests.copy(), _ThreadClock(), time.perf_counter()
        with patch.object(Recording, "_work", cpu.around(Recording._work)), recording.running():
            trial = search.next()
            assert trial
            search.start(trial.number)
            for epoch in range(1, EPOCHS + 1):
                time.sleep(EPOCH_SECONDS)
                search.report(trial.number, _metrics(epoch), _checkpoint(folder, epoch))
                start = time.perf_counter()
                recording.changed(trial.number)
                waited.append(time.perf_counter() - start)
            search.end(trial.number)
            recording.changed(trial.number)
        took = time.perf_counter() - began
        asked = proxy.requests - before
        (shown,) = tracker.trials(parent)
        assert len(tracker.history(shown.run_id, "val/iou")) == EPOCHS
    print(f"one trial of {EPOCHS} epochs and {METRICS} metrics, a server behind a proxy: {took:.0f} s in all")
    each = asked.total() / EPOCHS
    print(f"  requests an epoch           {each:8.2f}  {_verdict(f'<= {REQUESTS:.0f}', met=each <= REQUESTS)}")
    for path, count in asked.most_common(6):
        print(f"    {count:5}  {path[:70]}")
    share = sum(waited) / TRIAL_SECONDS
    said = _verdict(f"< {SHARE:.0%}", met=share < SHARE)
    print(f"  share of the trial's time   {share:8.4%}  {said}; the longest wait {1000 * max(waited):.1f} ms")
    print(f"  the driver's thread, beside it: {cpu.seconds:.2f} CPU-s, {cpu.seconds / TRIAL_SECONDS:.1%} of a core")


def _look_at_many(folder: Path) -> None:
    place = str(folder / "storage")
    tracker = Tracker.at(place)
    for name, trials in (("few", FEW), ("many", FEW)):
        _fill(tracker, _spec(folder, name, trials=trials), trials)
    alone = _seconds(lambda: tracker.find_sweep("many", "many-0"))
    spec = _spec(folder, "many", trials=MANY)
    parent = _fill(tracker, spec, FEW, fingerprint="many-1")
    _multiply(folder / "storage" / "mlflow.db", parent, MANY // FEW)
    beside = _seconds(lambda: tracker.find_sweep("many", "many-0"))
    print(f"{MANY} trials in one experiment (SQLite)")
    words = [sys.executable, "-m", "segdist.cli", "compare", "many", "--storage", place]
    cost = run_command(words)
    said = _verdict(f"< {COMPARE:.0f} s", met=cost.seconds < COMPARE)
    print(f"  segdist compare             {cost.seconds:6.2f} s, {cost.cpu_seconds:.2f} CPU-s  {said}")
    cpu, start = time.process_time(), time.perf_counter()
    page = write_html(tracker, "many", folder / "report.html", parent_run_id=parent)
    took = time.perf_counter() - start
    said, cpu = _verdict(f"< {REPORT:.0f} s", met=took < REPORT), time.process_time() - cpu
    print(f"  report                      {took:6.2f} s, {cpu:.2f} CPU-s  {said}; {page.stat().st_size / 1e6:.1f} MB")
    print(f"  find_sweep of {FEW} trials     {1000 * alone:6.1f} ms alone, {1000 * beside:.1f} ms beside {MANY} others")


def _seconds(call: object) -> float:
    assert callable(call)
    found = []
    for _ in range(7):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _fill(tracker: Tracker, spec: SweepSpec, trials: int, *, fingerprint: str = "") -> str:
    parent = _start(tracker, spec, fingerprint or f"{spec.name}-0")
    rng = np.random.default_rng(0)
    params = spec.run.model_dump(mode="json", exclude_defaults=True)
    with TemporaryDirectory(prefix="segdist-bench-") as scratch:
        for number in range(trials):
            searched = {"train.lr": float(rng.uniform(1e-4, 1e-2)), "train.weight_decay": float(rng.uniform(0, 0.1))}
            run = tracker.start_trial(parent, f"{number:04d}", number=number, params={**params, **searched}, tags={})
            epochs = [Measured(e, _metrics(e, scale=rng.uniform()), 1.0, 1.8e9 + e) for e in range(1, 11)]
            tracker.log_epochs(run, epochs)
            for picture in range(4):
                noise = rng.integers(0, 255, (120, 480, 3), np.uint8)
                Path(scratch, f"{picture:03d}.jpg").write_bytes(encode_jpeg(noise))
            tracker.log_files(run, Path(scratch), "pictures")
            tracker.end(run)
    tracker.save_view(parent, searched={"train.lr": True, "train.weight_decay": True})
    tracker.end(parent)
    return parent


def _multiply(database: Path, parent: str, times: int) -> None:
    """Copy the trials of a sweep inside MLflow's tables: told one after the other, a thousand of them take minutes."""
    with closing(sqlite3.connect(database)) as tables, tables:
        found = tables.execute("SELECT run_uuid FROM tags WHERE key = ? AND value = ?", (names.PARENT, parent))
        for number, (run_id,) in enumerate(found.fetchall() * (times - 1), start=FEW):
            copy = uuid.uuid4().hex
            for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
                columns = [row[1] for row in tables.execute(f"PRAGMA table_info({table})") if row[1] != "run_uuid"]
                named = ", ".join(f'"{column}"' for column in columns)
                tables.execute(
                    f"INSERT INTO {table} (run_uuid, {named}) SELECT ?, {named} FROM {table} WHERE run_uuid = ?",
                    (copy, run_id),
                )
            for tag, value in ((names.NUMBER, str(number)), (names.TRIAL, f"{number:04d}")):
                tables.execute("UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", (value, copy, tag))


def _start(tracker: Tracker, spec: SweepSpec, fingerprint: str = "0" * 16) -> str:
    return tracker.start_sweep(
        spec.name, fingerprint, spec_text=spec.model_dump_json(), spec_file=spec.name, tags={"segdist.kind": "sweep"},
        params={}, dataset=_DATA,
    )  # fmt: skip


def _metrics(epoch: int, *, scale: float = 1.0) -> dict[str, float]:
    grown = scale * (1 - 0.97**epoch)
    of_classes = {f"val/iou/class {number}": grown for number in range(METRICS - 4)}
    return {"epoch": float(epoch), "seconds": EPOCH_SECONDS, "val/iou": grown, "train/loss": 1 - grown, **of_classes}


def _checkpoint(folder: Path, epoch: int) -> str:
    """As after each epoch: the pictures of the validation images."""
    place = folder / "checkpoints" / f"{epoch:05d}"
    (place / "pictures").mkdir(parents=True)
    for number in range(4):
        noise = np.random.default_rng(epoch).integers(0, 255, (240, 960, 3), np.uint8)
        (place / "pictures" / f"{number:03d}.jpg").write_bytes(encode_jpeg(noise))
    (place / "complete.json").write_text(json.dumps({"sha256": {}}))
    return str(place)


class _ThreadClock:
    """CPU seconds of the thread that tells MLflow."""

    seconds = 0.0

    def around(self, work: object) -> object:
        assert callable(work)

        def timed(recording: Recording) -> None:
            start = time.thread_time()
            work(recording)
            self.seconds += time.thread_time() - start

        return timed


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """An MLflow server on loopback over SQLite."""
    with Proxy("http://127.0.0.1:1") as free:
        port = int(free.address.rpartition(":")[2])
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", "artifacts"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, cwd=folder, env=env, stdout=quiet, stderr=quiet, start_new_session=True) as server:
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    threading.Event().wait(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def _spec(folder: Path, name: str, *, trials: int) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": name,
            "storage": str(folder / "storage"),
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam"},
            "train": {"epochs": EPOCHS},
            "space": {
                "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
                "train.weight_decay": {"low": 0.0, "high": 0.1},
            },
            "search": {"trials": trials, "sampler": "random", "asha": None},
        }
    )


def _verdict(target: str, *, met: bool) -> str:
    return f"{target}: {'met' if met else 'MISSED'}"


_COUNTS = SplitCounts(images=20, instances=40, masks=40, empty_images=0, per_class={"roof": 20})
_DATA = Manifest(
    kind="dataset", content_hash="0" * 16, classes=("roof",), splits={"val": _COUNTS}, findings={}, shards=()
)

if __name__ == "__main__":
    main()
