"""`segdist promote`: the alias moves only where the new model is better beyond chance on the same validation images."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from segdist.commands import promote as module
from segdist.commands.export import origin_of
from segdist.commands.promote import promote, register_winner
from segdist.core import storage as files
from segdist.core.errors import PromotionError
from segdist.core.records import LabelledImages
from segdist.core.spec import SweepSpec
from segdist.datasets.shards import MANIFEST, Dataset
from segdist.metrics import Difference, Evaluator, OneImage
from segdist.pipeline.ingest import ingest
from segdist.tracking import Tracker
from tests.engine.shipped import model_folder
from tests.pipeline.conftest import SWEEP


@pytest.fixture
def runs(tmp_path: Path, empty_storage: Path) -> tuple[Path, list[str]]:
    """A sweep with two trials that kept models over the same data; the first is champion."""
    shutil.copytree(empty_storage, tmp_path / "storage")
    spec = SweepSpec.model_validate(yaml.safe_load(SWEEP.format(storage=tmp_path / "storage")))
    dataset = ingest(spec)
    tracker = Tracker.for_sweep(spec)
    parent = tracker.start_sweep(
        "tiny", "f", spec_text=spec.model_dump_json(), spec_file="tiny.yaml", tags={}, params={},
        dataset=dataset.manifest,
    )  # fmt: skip
    trials = []
    for number in range(2):
        run = tracker.start_trial(parent, f"key-{number}", number=number, params={}, tags={})
        folder = model_folder(tmp_path / f"model{number}", "unet_cbam", seed_of_move=number)
        tracker.log_files(run, folder, "model")
        trials.append(run)
    tracker.register_champion("tiny", trials[0])
    return tmp_path / "storage", trials


def compared(monkeypatch: pytest.MonkeyPatch, low: float, high: float) -> None:
    images = (OneImage("a", 0.6, 0.5), OneImage("b", 0.6, 0.5))
    found = Difference("iou", False, 0.5 + (low + high) / 2, 0.5, (low, high), {}, images)
    monkeypatch.setattr(module, "difference", lambda *_, **__: found)


def test_a_model_is_measured_on_the_validation_split_and_promoted_only_if_the_interval_says_so(
    runs: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, (champion, candidate) = runs
    tracker = Tracker.at(str(storage))
    how: dict[str, Any] = {"storage": str(storage), "tracking": "embedded"}

    found = promote(candidate, **how)  # really measured
    assert found.difference is not None
    assert len(found.difference.images) >= 2
    assert found.promoted == (found.difference.winner == 1)
    (dataset,) = (
        Dataset.open(e.uri.rpartition("/")[0]) for e in files.find(str(storage / "datasets"), suffix=MANIFEST)
    )
    of_split = {s: [row.image_id for row, _ in dataset.reader(s, files.cache_dir())] for s in ("val", "test")}
    assert sorted(i.image_id for i in found.difference.images) == sorted(of_split["val"]), (
        "the test split decides nothing"
    )
    assert of_split["test"]
    assert len(found.images_hash) == 16
    assert f"on {len(found.difference.images)} validation images" in found.text
    tracker.register_champion("tiny", champion)

    compared(monkeypatch, -0.01, 0.2)
    assert not promote(candidate, **how).promoted
    assert tracker.champion_run("tiny") == champion
    forced = promote(candidate, force=True, **how)
    assert forced.promoted
    assert "not better" in forced.reason
    assert tracker.champion_run("tiny") == candidate

    compared(monkeypatch, 0.01, 0.2)
    assert promote(champion, **how).promoted
    assert tracker.champion_run("tiny") == champion
    assert promote(champion, **how).reason == "it is the champion"

    for entry in files.find(str(storage / "datasets")):
        Path(entry.uri).unlink()
    with pytest.raises(PromotionError, match="no longer in"):
        promote(candidate, **how)
    assert promote(candidate, name="another", **how).reason.startswith("there was no champion")


def test_a_trial_is_exported_and_promoted_by_the_name_that_it_is_predicted_with(runs: tuple[Path, list[str]]) -> None:
    storage, trials = runs
    how: dict[str, Any] = {"storage": str(storage), "tracking": "embedded"}
    assert [origin_of(f"tiny#{number}", **how).run_id for number in range(2)] == trials
    assert promote("tiny#0", **how).reason == "it is the champion"


def test_a_sweep_registers_its_winner_by_the_same_rule(
    runs: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, (champion, winner) = runs
    tracker = Tracker.at(str(storage))
    spec = SweepSpec.model_validate(yaml.safe_load(SWEEP.format(storage=storage)))
    measured = []

    def measure(run_id: str, rows: LabelledImages, metric: str) -> Evaluator:
        measured.append((run_id, len(rows), metric))
        return Evaluator(("roof",), min_score=0.5, metrics=(metric,))

    compared(monkeypatch, -0.01, 0.2)
    said = register_winner(tracker, spec, winner, measure=measure)
    assert [run for run, _, _ in measured] == [winner, champion]
    assert "the champion stays" in said
    assert f"tiny@2; segdist promote {winner}" in said
    assert tracker.champion_run("tiny") == champion
    assert tracker.run_of_model("tiny@2") == winner, "it is a model with a name all the same"

    compared(monkeypatch, 0.01, 0.2)
    assert register_winner(tracker, spec, winner, measure=measure).endswith("it is better, beyond the interval")
    assert tracker.champion_run("tiny") == winner
    before = len(measured)
    assert "it is the champion" in register_winner(tracker, spec, winner, measure=measure)
    assert len(measured) == before, "what is decided is not measured again"

    for entry in files.find(str(storage / "datasets")):
        Path(entry.uri).unlink()
    said = register_winner(tracker, spec, champion, measure=measure)
    assert "stays what it was" in said
    assert "no longer in" in said
    assert tracker.champion_run("tiny") == winner


def test_the_first_winner_of_a_sweep_is_champion(runs: tuple[Path, list[str]]) -> None:
    storage, (_, winner) = runs
    spec = SweepSpec.model_validate(yaml.safe_load(SWEEP.format(storage=storage))).model_copy(update={"name": "new"})

    def measure(*_: object) -> Evaluator:
        raise AssertionError("there is nothing to compare with")

    said = register_winner(Tracker.at(str(storage)), spec, winner, measure=measure)
    assert said == "new@champion is now version 1: there was no champion to be better than"
