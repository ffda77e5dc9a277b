"""Every trial's kept model gets the full look once; one that cannot be measured does not cost the sweep."""

import json
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from segdist import pages
from segdist.commands.diff import diff, standing
from segdist.core import storage as stores
from segdist.core.spec import SweepSpec
from segdist.datasets.shards import read_rows
from segdist.engine import checkpoint
from segdist.metrics import lower_is_better
from segdist.metrics import names as metric_names
from segdist.pipeline.evaluate import evaluate_on_test, evaluate_trials
from segdist.pipeline.ingest import ingest
from segdist.pipeline.steps import _compare_with_next
from segdist.pipeline.trial import Job
from segdist.tracking import Tracker, names
from tests.pipeline.inline import Inline
from tests.tracking.conftest import start_sweep, start_trial, storage, tracker

RAY = cast("ModuleType", Inline)

__all__ = ["storage", "tracker"]


@pytest.fixture
def sweep(storage: Path, monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    monkeypatch.setenv("SEGDIST_CACHE", str(storage / "cache"))
    return make_sweep(storage)


def make_sweep(storage: Path) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "roofs",
            "storage": str(storage),
            "data": {"sources": [{"format": "synthetic", "scene": "roofs", "count": 20, "size": 32}]},
            "model": {"family": "unet_cbam", "unet_cbam": {"image_size": 32, "width": 8, "depth": 1}},
            "evaluate": {"pictures": 1},
        }
    )


def job_of(sweep: SweepSpec) -> Job:
    return Job(sweep.run, ingest(sweep).uri, "", (), str(sweep.storage), sweep.search.metric)


def trial(tracker: Tracker, sweep: SweepSpec, parent: str, number: int, *, keeps: str = "model") -> str:
    run = start_trial(tracker, parent, number)
    tracker.log_metrics(run, {"val/iou": 0.1 * number, "val/dice": 0.2}, step=1)
    folder = Path(sweep.storage) / f"model-{number}"
    if keeps:
        network = checkpoint.build(sweep.model, ("roof",), seed=number)
        checkpoint.save(network, folder, sweep.run, ("roof",))
        if keeps == "damaged":
            (folder / checkpoint.WEIGHTS).write_bytes(b"cut")
        tracker.log_files(run, folder, "model")
    tracker.end(run)
    return run


def test_each_trial_gets_every_metric_its_cost_and_pictures_once_and_failures_are_said(
    tracker: Tracker, sweep: SweepSpec, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, job = start_sweep(tracker, sweep), job_of(sweep)
    good = trial(tracker, sweep, parent, 1)
    trial(tracker, sweep, parent, 2, keeps="")
    trial(tracker, sweep, parent, 3, keeps="damaged")
    evaluate_trials(RAY, tracker, parent, job)
    said = capsys.readouterr().out
    assert "evaluate  3 trials" in said
    assert "trial 2 has only the metrics of its epochs: it kept no model" in said
    assert "trial 3 has only the metrics of its epochs: WeightsError" in said
    by_run = {t.run_id: t.metrics for t in tracker.trials(parent)}
    measured = by_run.pop(good)
    known = {n for n in metric_names() if f"val/{n}" in measured}
    assert known >= {"boundary_iou", "mask_ap", "box_ap", "panoptic_quality", "cldice"}
    assert measured["val/iou"] == pytest.approx(0.1), "the search's own history is not overwritten"
    assert {"runtime/latency_p50_ms", "runtime/gflops", "model/bytes", "runtime/best_batch"} <= measured.keys()
    assert all("runtime/latency_p50_ms" not in metrics for metrics in by_run.values())
    look = tracker.read_json(good, "evaluation/val.json")
    assert len(look["images"]) == ingest(sweep).manifest.splits["val"].images
    assert {c["metric"] for c in look["consistency"]} == {"iou", "boundary_iou"}
    predictions = tracker.download(good, "evaluation/val.parquet", storage / "fetched")
    assert [s.image_id for s, _ in read_rows(str(predictions))] == [i["image_id"] for i in look["images"]]
    assert {p.name.partition("-")[0] for p in tracker.download(good, "pictures_ranked", storage).iterdir()} >= {"worst"}

    evaluate_trials(RAY, tracker, parent, job)
    assert "trial 1 " not in capsys.readouterr().out, "what is measured is not measured again"


def test_the_best_trial_is_compared_with_the_next_by_what_their_evaluation_kept(
    tracker: Tracker, sweep: SweepSpec
) -> None:
    parent, job = start_sweep(tracker, sweep), job_of(sweep)
    for number in (1, 2, 3):
        trial(tracker, sweep, parent, number, keeps="model" if number > 1 else "")
    evaluate_trials(RAY, tracker, parent, job)
    _compare_with_next(tracker, sweep, parent, job)
    (tag,) = (v for k, v in tracker.sweep(parent).tags.items() if k == "segdist.standing")
    found = json.loads(tag)
    assert (found["best"], found["compared"], found["images"]) == (3, [2], 3), "the first kept no model"
    runs = {t.number: t.run_id for t in tracker.trials(parent)}
    alone = diff(runs[3], runs[2], storage=sweep.storage, tracking="embedded", pictures=0).found
    assert found["close"] == ([] if alone.winner == 1 else [2])
    assert 0 <= found["chance"] <= 1
    assert "On 3 validation images trial 3 is" in pages.leaderboard(tracker, sweep.name, parent_run_id=parent).standing


def test_trials_that_were_trained_again_are_compared_over_images_and_seeds(tracker: Tracker, sweep: SweepSpec) -> None:
    parent, job = start_sweep(tracker, sweep), job_of(sweep)
    runs = {number: trial(tracker, sweep, parent, number) for number in range(1, 4)}
    tracker.tag(runs[3], names.REPEATS, "key-2")
    tracker.tag(parent, names.CONFIRMED, "[1, 2]")
    evaluate_trials(RAY, tracker, parent, job)
    _compare_with_next(tracker, sweep, parent, job)
    board = pages.leaderboard(tracker, sweep.name, parent_run_id=parent)
    assert [t.number for t in board.trials] == [2, 1], "repeats are no trials of the search"
    found = board.compared
    assert found
    assert (found.best, found.compared, found.images) == (2, (1,), 3)
    alone = standing(tracker, [[runs[3], runs[2]], [runs[1]]], metric="iou")
    assert found.chances == {2: alone.chances[0], 1: alone.chances[1]}
    assert found.gaps == {1: alone.gaps[0]}
    assert found.close == ((1,) if alone.close else ())
    assert board.best
    assert board.best.run_id == runs[3]
    assert "On 3 validation images and 3 trainings trial 2 is" in board.standing

    assert evaluate_on_test(RAY, tracker, board.best.run_id, job)
    again = pages.leaderboard(tracker, sweep.name, parent_run_id=parent)
    assert again.test_looks.endswith("looked at once")


def test_scores_tuned_on_validation_images_are_logged_and_kept_with_the_model(
    tracker: Tracker, sweep: SweepSpec, storage: Path
) -> None:
    post = sweep.evaluate.post.model_copy(update={"tune": True})
    sweep = sweep.model_copy(update={"evaluate": sweep.evaluate.model_copy(update={"post": post})})
    parent, job = start_sweep(tracker, sweep), job_of(sweep)
    run = trial(tracker, sweep, parent, 1)
    evaluate_trials(RAY, tracker, parent, job)
    (record,) = tracker.trials(parent)
    described = checkpoint.describe(tracker.model(run, storage / "model")).evaluate
    assert described.post.min_scores == {"roof": record.metrics["post/min_score/roof"]}
    evaluate_on_test(RAY, tracker, run, job)
    again = checkpoint.describe(tracker.model(run, storage / "again")).evaluate
    assert again == described, "the test split tunes nothing"


def test_the_winner_alone_is_scored_on_the_test_split(tracker: Tracker, sweep: SweepSpec, storage: Path) -> None:
    parent = start_sweep(tracker, sweep)
    run = trial(tracker, sweep, parent, 1)
    found = evaluate_on_test(RAY, tracker, run, job_of(sweep))
    assert all(name.startswith("test/") for name in found)
    (record,) = tracker.trials(parent)
    assert record.metrics["test/iou"] == pytest.approx(found["test/iou"])
    assert not any(name.startswith("runtime/") for name in found), "costs are those of the validation look"
    assert len(list(tracker.download(run, "pictures_test", storage).iterdir())) == 1
    assert len(tracker.read_json(run, "evaluation/test.json")["images"]) == 3
    assert lower_is_better("hausdorff_95")


def test_the_test_split_is_looked_at_once_by_each_winner_and_the_leaderboard_says_how_often(
    tracker: Tracker, sweep: SweepSpec
) -> None:
    parent, job = start_sweep(tracker, sweep), job_of(sweep)
    first = trial(tracker, sweep, parent, 1)
    found = evaluate_on_test(RAY, tracker, first, job)
    assert found

    def conclusion() -> str:
        board = pages.leaderboard(tracker, sweep.name, parent_run_id=parent)
        return next(line for line in pages.leaderboard_text(board).splitlines() if line.startswith("test "))

    class Away:  # whoever asks a worker to look again is told
        def __getattr__(self, name: str) -> object:
            raise AssertionError("the test split is looked at again")

    again = evaluate_on_test(cast("ModuleType", Away()), tracker, first, job)
    assert again == {name: value for name, value in found.items() if isfinite(value)}
    assert conclusion().endswith("looked at once")
    second = trial(tracker, sweep, parent, 2)  # the sweep is widened, and has another winner
    assert evaluate_on_test(RAY, tracker, second, job)
    assert "looked at 2 times: trial 1 won an earlier start" in conclusion()


def test_without_a_test_split_nothing_is_scored_on_it(tracker: Tracker, sweep: SweepSpec) -> None:
    data = sweep.data.model_copy(update={"split": sweep.data.split.model_copy(update={"test": 0.0})})
    assert evaluate_on_test(RAY, tracker, "no run", job_of(sweep.model_copy(update={"data": data}))) == {}
    assert stores.exists(sweep.storage)
