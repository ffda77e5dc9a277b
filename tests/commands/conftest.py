"""A sweep whose trials were evaluated, for all tests that only read it: each of its trials takes a second of work."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from segdist.core.spec import SweepSpec
from segdist.pipeline.evaluate import evaluate_trials
from segdist.pipeline.ingest import ingest
from segdist.tracking import Tracker
from tests.pipeline.inline import Inline
from tests.pipeline.test_evaluate import job_of, make_sweep, trial
from tests.tracking.conftest import start_trial


@dataclass(frozen=True)
class Evaluated:
    """Trials 1 and 2 of the sweep `roofs` were evaluated; trial 3 failed."""

    sweep: SweepSpec
    tracker: Tracker
    parent: str
    runs: tuple[str, ...]

    @property
    def storage(self) -> Path:
        return Path(self.sweep.storage)


@pytest.fixture
def evaluated(evaluated_once: Evaluated, monkeypatch: pytest.MonkeyPatch) -> Evaluated:
    monkeypatch.setenv("SEGDIST_CACHE", str(evaluated_once.storage / "cache"))
    return evaluated_once


@pytest.fixture(scope="session")
def evaluated_once(empty_storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    storage = Path(shutil.copytree(empty_storage, tmp_path_factory.mktemp("evaluated") / "my storage"))
    sweep, tracker = make_sweep(storage), Tracker.at(str(storage))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGDIST_CACHE", str(storage / "cache"))
        parent = tracker.start_sweep(
            sweep.name,
            sweep.sweep_fingerprint,
            spec_text=sweep.model_dump_json(),
            spec_file="",
            tags={"segdist.kind": "sweep"},
            params={},
            dataset=ingest(sweep).manifest,
        )
        runs = tuple(trial(tracker, sweep, parent, number) for number in (1, 2))
        tracker.end(start_trial(tracker, parent, 3), "FAILED")
        evaluate_trials(cast("ModuleType", Inline), tracker, parent, job_of(sweep))
    return Evaluated(sweep, tracker, parent, runs)
