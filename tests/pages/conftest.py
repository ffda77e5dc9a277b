"""The tracking fixtures, and one invented sweep for all tests that only read it."""

import shutil
from pathlib import Path

import pytest

from segdist.pages import Leaderboard, leaderboard
from segdist.tracking import Tracker
from tests.pages.fake import fill
from tests.tracking.conftest import spec, storage, tracker

__all__ = ["spec", "storage", "tracker"]


@pytest.fixture(scope="session")
def filled(empty_storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = Path(shutil.copytree(empty_storage, tmp_path_factory.mktemp("filled") / "storage"))
    tracker = Tracker.at(str(folder))
    fill(tracker, folder)
    return tracker


@pytest.fixture
def board(filled: Tracker) -> Leaderboard:
    return leaderboard(filled, "quickstart")
