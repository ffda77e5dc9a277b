from pathlib import Path

import pytest

from segdist.core.errors import BackendError
from segdist.core.spec import SweepSpec
from segdist.tracking import Tracker
from tests.tracking.conftest import start_sweep


@pytest.fixture
def run_id(tracker: Tracker, spec: SweepSpec) -> str:
    run = start_sweep(tracker, spec)
    tracker.log_text(run, "weights", "model/model.safetensors")
    return run


def test_the_same_champion_stays_one_version_and_a_new_one_takes_the_alias(
    tracker: Tracker, spec: SweepSpec, run_id: str, tmp_path: Path
) -> None:
    assert tracker.register_champion("cracks", run_id) == 1
    assert tracker.register_champion("cracks", run_id) == 1
    other = start_sweep(tracker, spec.model_copy(update={"seed": 1}))
    tracker.log_text(other, "better weights", "model/model.safetensors")
    assert tracker.register_champion("cracks", other) == 2
    for model, text in (("cracks@champion", "better weights"), ("cracks@1", "weights")):
        files = tracker.model_files(model, tmp_path / model)
        assert (files / "model.safetensors").read_text() == text


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("crack@champion", r"no model `crack`.*Did you mean `cracks`\?"),
        ("cracks@champoin", r"no alias or version `champoin`\. Did you mean `champion`\?"),
        ("cracks@7", r"no alias or version `7`"),
        ("cracks", r"NAME@ALIAS.*Try `cracks@champion`"),
    ],
)
def test_a_model_that_is_not_there_is_an_error_with_the_nearest_name(
    tracker: Tracker, run_id: str, tmp_path: Path, model: str, message: str
) -> None:
    tracker.register_champion("cracks", run_id)
    with pytest.raises(BackendError, match=message):
        tracker.model_files(model, tmp_path)


def test_an_empty_registry_says_how_to_fill_it(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="registers its winner"):
        tracker.model_files("cracks@champion", tmp_path)
