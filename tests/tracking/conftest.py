"""An empty MLflow database, made once and copied for each test, and a small sweep."""

import shutil
from pathlib import Path

import pytest

from segdist.spec import SweepSpec
from segdist.tracking import DatasetInfo, Tracker


@pytest.fixture(scope="session")
def empty_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty storage")  # the space in the name must do no harm
    Tracker.for_storage(str(folder)).check()
    return folder


@pytest.fixture
def storage(empty_storage: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_storage, tmp_path / "my storage"))


@pytest.fixture
def tracker(storage: Path) -> Tracker:
    return Tracker.for_storage(str(storage))


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


DATASET = DatasetInfo("walls", "0123456789abcdef", "/storage/datasets/0123", {"images": {"train": 80, "val": 20}})
