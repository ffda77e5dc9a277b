"""A copy of an empty MLflow database for each test, and a small sweep."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from segdist.core.spec import SweepSpec
from segdist.datasets.shards import Manifest, SplitCounts
from segdist.tracking import Measured, Tracker


@pytest.fixture
def storage(empty_storage: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_storage, tmp_path / "my storage"))


@pytest.fixture
def tracker(storage: Path) -> Tracker:
    return Tracker.at(str(storage))


@pytest.fixture
def spec(storage: Path) -> SweepSpec:
    return make_spec(storage)


def make_spec(storage: Path) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "cracks",
            "question": "Where is the wall cracked?",
            "storage": str(storage),
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam"},
            "space": {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        }
    )


def start_sweep(tracker: Tracker, spec: SweepSpec, file: str = "sweeps/cracks.yaml") -> str:
    return tracker.start_sweep(
        spec.name,
        spec.sweep_fingerprint,
        spec_text=spec.model_dump_json(),
        spec_file=file,
        tags={"segdist.kind": "sweep", "segdist.question": spec.question},
        params={"search.trials": spec.search.trials},
        dataset=DATASET,
    )


def start_trial(tracker: Tracker, parent: str, number: int = 0, params: Mapping[str, Any] | None = None) -> str:
    tags = {"segdist.baseline": str(number == 0)}
    return tracker.start_trial(parent, f"key-{number}", number=number, params=params or {"train.lr": 1e-3}, tags=tags)


def log_epochs(tracker: Tracker, run: str, *epochs: Mapping[str, object], seconds: float = 2.0) -> None:
    """What the epochs of a trial measured, the first to the last."""
    tracker.log_epochs(run, [Measured(epoch, one, seconds) for epoch, one in enumerate(epochs, start=1)])


def counts(images: int) -> SplitCounts:
    return SplitCounts(images=images, instances=2 * images, masks=images, empty_images=0, per_class={"crack": images})


DATASET = Manifest(
    kind="dataset",
    classes=("crack", "seam"),
    splits={"train": counts(80), "val": counts(20)},
    shards=("0.parquet",),
    findings={"skipped": {"image-unreadable": 1}},
    content_hash="0123456789abcdef",
)
