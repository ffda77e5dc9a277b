"""What the steps of the main job say when they are cut short."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segdist.core.errors import BackendError, DataError
from segdist.datasets.shards import Dataset
from segdist.pipeline import steps
from segdist.searching import Ledger, Trial
from segdist.searching.cost import Held
from tests.searching.sweeps import sweep
from tests.tracking.conftest import DATASET


@pytest.mark.parametrize("error", [KeyboardInterrupt, BackendError])
def test_a_search_that_is_cut_short_says_what_it_cost_and_how_far_it_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    ledger, done = Ledger(str(tmp_path)), list[str]()
    ledger.write(Trial(number=0, values={}, state="failed", spent=Held(cpu_seconds=30)))
    ledger.write(Trial(number=1, values={}, state="finished", spent=Held(cpu_seconds=90)))
    with pytest.raises(error), steps._counting(done, str(tmp_path), 3):
        raise error("cut short")
    assert done == ["2 of 3 trials"]
    assert "spent     120 CPU-seconds, of which 30 (25 %)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"metric": "val/iou/crak"}, "no class `crak`. Did you mean `crack`"),
        ({"objectives": ["model/bytes", "val/dice/seams"]}, "`val/dice/seams` is measured of no trial"),
        ({"metric": "val/iou/crack", "objectives": ["model/bytes", "val/dice/seam"]}, ""),
    ],
)
def test_what_is_searched_for_is_of_a_class_that_there_is(search: dict[str, Any], said: str) -> None:
    dataset = Dataset("unread", DATASET)
    if not said:
        steps._check_learnable(sweep(**search), dataset)
        return
    with pytest.raises(DataError) as error:
        steps._check_learnable(sweep(**search), dataset)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluate.post.stuff", ["crak"]),
        ("evaluate.post.min_scores", {"crak": 0.5}),
        ("train.augment_classes", {"crak": ["flip"]}),
    ],
)
def test_a_key_that_is_about_some_classes_names_such_as_there_are(key: str, value: object) -> None:
    right = json.loads(json.dumps(value).replace("crak", "crack"))
    steps._check_learnable(sweep().override({key: right}), Dataset("unread", DATASET))
    with pytest.raises(DataError, match=f"`{key}` names `crak`, which is no class. Did you mean `crack`"):
        steps._check_learnable(sweep().override({key: value}), Dataset("unread", DATASET))


def test_who_drives_a_sweep_needs_no_torch_and_ray_and_mlflow_only_when_they_are_called() -> None:
    heavy = ("torch", "ray", "mlflow", "optuna")
    code = f"import sys, segdist.pipeline.steps; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_who_runs_the_trials_of_a_search_imports_no_torch() -> None:
    code = "import sys, segdist.pipeline.sweep, segdist.pipeline.tune_trials; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"], "it makes the driver more than twice as large"
