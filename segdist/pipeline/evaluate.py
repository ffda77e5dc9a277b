"""The winner, and it alone, on the test split: on a worker with a trial's resources."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segdist import storage
from segdist.data.shards import Dataset
from segdist.pipeline.trial import Job
from segdist.tracking import Tracker


def score_on_test(ray: Any, tracker: Tracker, run_id: str, job: Job) -> dict[str, float]:
    """Metrics named `test/...` of a trial's kept model, logged to its run with the panels; empty without a test split.

    Args:
        ray: the connected `ray` module.
        tracker: where the trial was recorded.
        run_id: the trial's run.
        job: what the sweep's trials have in common.
    """
    if not Dataset.open(job.dataset_uri).manifest.splits.get("test"):
        return {}
    with TemporaryDirectory(prefix="segdist-") as folder:
        model = tracker.download(run_id, "model", Path(folder))
        packed = {file.name: file.read_bytes() for file in model.iterdir()}
    resources = job.run.resources
    remote = ray.remote(_score).options(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker)
    values, panels = ray.get(remote.remote(packed, job))
    metrics = {f"test/{name}": value for name, value in values.items()}
    tracker.log_metrics(run_id, metrics, step=0)
    with TemporaryDirectory(prefix="segdist-") as folder:
        for name, picture in panels.items():
            (Path(folder) / name).write_bytes(picture)
        tracker.log_files(run_id, Path(folder), "pictures_test")
    return metrics


def _score(packed: dict[str, bytes], job: Job) -> tuple[dict[str, float], dict[str, bytes]]:
    from segdist.engine import checkpoint, pictures
    from segdist.engine.predict import score
    from segdist.engine.workers import Workers

    workers = Workers.here()
    with TemporaryDirectory(prefix="segdist-") as folder:
        for name, content in packed.items():
            (Path(folder) / name).write_bytes(content)
        network: Any = checkpoint.load(Path(folder), device=workers.device)
    labels = Dataset.open(job.labels_uri) if job.labels_uri else None
    hide = "test" in job.boxes_only
    rows = Dataset.open(job.dataset_uri).reader("test", storage.cache_dir(), labels=labels, hide_masks=hide)
    values, pairs = score(network, rows, job.run.evaluate, workers=workers)
    with TemporaryDirectory(prefix="segdist-") as folder:
        shown = Path(folder) / "pictures"
        pictures.save(shown, rows, pairs, job.run.evaluate, classes=network.classes)
        return values, {p.name: p.read_bytes() for p in sorted(shown.glob("*.jpg"))}
