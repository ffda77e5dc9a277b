"""A trial's model is one of MLflow's models: measured on named splits, kept once, and loaded by MLflow alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from segdist.core.panels import encode_png
from segdist.core.spec import SweepSpec
from segdist.engine import checkpoint
from segdist.formats.synthetic.scenes import draw
from segdist.tracking import Measured, Tracker, names
from tests.engine.shipped import model_folder
from tests.tracking.conftest import start_sweep, start_trial

EPOCH = Measured(2, {"val/iou": 0.7, "train/loss": 0.1}, 2.0, 1.8e9)


@pytest.fixture
def run_id(tracker: Tracker, spec: SweepSpec) -> str:
    run = start_trial(tracker, start_sweep(tracker, spec))
    tracker.log_epochs(run, [Measured(1, {"val/iou": 0.5}, 2.0, 1.7e9), EPOCH])
    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("trained") / "model", "unet_cbam")


def keep(tracker: Tracker, run_id: str, files: Path, measured: Measured = EPOCH) -> None:
    tracker.keep_model(run_id, files, epoch=measured.epoch, family="unet_cbam", measured=measured)


def models(tracker: Tracker, run_id: str) -> list[LoggedModel]:
    client = MlflowClient(tracking_uri=tracker.uri)
    return list(client.search_logged_models([client.get_run(run_id).info.experiment_id]))


def test_a_model_has_what_its_run_was_searched_by_and_is_measured_on_splits_of_the_data_set(
    tracker: Tracker, run_id: str, files: Path
) -> None:
    keep(tracker, run_id, files)
    tracker.log_metrics(run_id, {"test/iou": 0.6, "model/bytes": 7}, step=0, of_model=True)
    [model] = models(tracker, run_id)
    assert (model.name, model.model_type, str(model.status)) == ("cracks-000", "image-segmentation", "READY")
    assert (model.params, model.tags[names.EPOCH]) == ({"train.lr": "0.001"}, "2")
    found = {m.key: (m.value, m.step, m.dataset_name, m.dataset_digest) for m in model.metrics or ()}
    assert found == {
        "val/iou": (0.7, 2, "cracks/val", "0123456789abcdef"),
        "test/iou": (0.6, 0, "cracks/test", "0123456789abcdef"),
        "model/bytes": (7, 0, None, None),
    }
    client = MlflowClient(tracking_uri=tracker.uri)
    run = client.get_run(run_id)
    assert run.inputs
    assert {(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs} == {
        ("cracks", "0123456789abcdef", "training"),
        ("cracks/val", "0123456789abcdef", "validation"),
        ("cracks/test", "0123456789abcdef", "test"),
    }
    assert len(client.get_metric_history(run_id, "val/iou")) == 2


def test_a_model_that_is_told_again_or_was_left_half_done_is_kept_once(
    tracker: Tracker, run_id: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "finalize_logged_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            keep(tracker, run_id, files)
    assert not tracker.has_model(run_id)
    for _ in range(2):
        keep(tracker, run_id, files)
    [model] = models(tracker, run_id)
    run = MlflowClient(tracking_uri=tracker.uri).get_run(run_id)
    assert run.outputs
    assert [(o.model_id, o.step) for o in run.outputs.model_outputs] == [(model.model_id, 2)]
    assert len(model.metrics or ()) == 1


def test_a_trial_that_went_on_has_its_later_model_and_the_registered_one_stays(
    tracker: Tracker, run_id: str, files: Path, tmp_path: Path
) -> None:
    keep(tracker, run_id, files)
    [first] = models(tracker, run_id)
    assert [tracker.register_champion("cracks", run_id) for _ in range(2)] == [1, 1]
    client = MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)
    assert client.get_model_version("cracks", "1").source == f"models:/{first.model_id}"
    for epoch in (3, 4):
        keep(tracker, run_id, files, Measured(epoch, {"val/iou": 0.7 + epoch / 100}, 2.0, 1.9e9))
    assert {m.tags[names.EPOCH] for m in models(tracker, run_id)} == {"2", "4"}
    assert tracker.register_champion("cracks", run_id) == 2
    for which in ("cracks@1", "cracks@champion"):
        assert checkpoint.describe(tracker.model_files(which, tmp_path / which)).classes
    tracker.discard(run_id)
    assert models(tracker, run_id) == []


def test_what_a_model_predicts_with_can_be_changed_and_comes_back(
    tracker: Tracker, run_id: str, files: Path, tmp_path: Path
) -> None:
    keep(tracker, run_id, files)
    described = checkpoint.describe(files)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / checkpoint.DESCRIPTION).write_bytes((files / checkpoint.DESCRIPTION).read_bytes())
    checkpoint.redescribe(tmp_path / "new", described.evaluate.model_copy(update={"min_score": 0.25}))
    tracker.change_model(run_id, tmp_path / "new")
    again = tracker.model(run_id, tmp_path / "again")
    assert checkpoint.describe(again).evaluate.min_score == 0.25
    assert checkpoint.load(again)
    assert tracker.read_model_json(run_id, checkpoint.DESCRIPTION)["evaluate"]["min_score"] == 0.25


LOAD = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
for name in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(name)
    print(model.metadata.model_id)
    print(model.predict(model.input_example)["predictions"][0])
"""


@pytest.mark.timeout(300)
def test_mlflow_alone_loads_a_trial_s_model_by_its_id_and_by_its_registered_name(
    tracker: Tracker, run_id: str, files: Path, tmp_path: Path
) -> None:
    image, _ = draw("roofs", 5, 96)
    tracker.keep_model(run_id, files, epoch=2, family="unet_cbam", example=encode_png(image))
    tracker.register_champion("cracks", run_id)
    [model] = models(tracker, run_id)
    names = [f"models:/{model.model_id}", "models:/cracks@champion"]
    words = [sys.executable, "-W", "ignore", "-c", LOAD, tracker.uri, *names]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    *_, first_id, first, second_id, second = done.stdout.splitlines()
    assert first_id == second_id == model.model_id
    assert json.loads(first)["size_hw"] == json.loads(second)["size_hw"] == [96, 96]
