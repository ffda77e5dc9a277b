"""What a sweep begins from is read from MLflow once, and named where it is nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from segdist.core.errors import SegdistError
from segdist.core.spec import SweepSpec
from segdist.pipeline.warm_start import take_warm_start
from segdist.searching import warm_start
from segdist.tracking import Tracker, names
from tests.searching.sweeps import begun, sweep
from tests.tracking.conftest import DATASET, storage

__all__ = ["storage"]

EARLIER = {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "train.epochs": [3, 9]}
TRIALS: list[dict[str, Any]] = [
    {"lr": 1e-3, "dice": 0.5, "val/iou": 0.4},
    {"lr": 2e-3, "val/iou": 0.6},
    {"lr": 3e-3, "val/iou": 0.5},
    {"lr": 4e-3, "val/iou": 0.9, "status": "FAILED"},
    {"lr": 5e-3, "val/iou": 0.95, "broken": True},
    {"lr": 6e-3},
    {"lr": 3e-3, "val/iou": 0.99, "repeats": "key-2"},  # with another seed, a lucky one
]


def recorded(tracker: Tracker, trials: list[dict[str, Any]], *, fingerprint: str = "e" * 16, **changes: Any) -> str:
    content = {**sweep().model_dump(mode="json"), "name": "walls", "space": EARLIER, **changes}
    spec = SweepSpec.model_validate(content)
    text = spec.model_dump_json()
    parent = tracker.start_sweep(
        spec.name,
        fingerprint,
        spec_text=text,
        spec_file="w.yaml",
        tags={names.KIND: "sweep"},
        params={},
        dataset=DATASET,
    )
    for number, one in enumerate(trials):
        params = {**spec.run.model_dump(mode="json"), "train.lr": one["lr"], "train.loss.dice": one.get("dice", 1.5)}
        tags = {names.REPEATS: one["repeats"]} if "repeats" in one else {}
        run = tracker.start_trial(parent, f"key-{number}", number=number, params=params, tags=tags)
        scores = {name: value for name, value in one.items() if name.startswith("val/")}
        if scores:
            tracker.log_metrics(run, scores, step=1)
        if one.get("broken"):
            tracker.tag(run, names.BROKEN, '{"model/bytes": 3.0}')
        tracker.end(run, one.get("status", "FINISHED"))
    return parent


def taken(tracker: Tracker, folder: Path, spec: SweepSpec, fingerprint: str = "f" * 16) -> list[tuple[int, Any]]:
    take_warm_start(tracker, spec, folder=str(folder), fingerprint=fingerprint)
    found = warm_start.read(str(folder))
    return [(t.number, t.values) for t in found.trials] if found else []


@pytest.fixture
def tracker(storage: Path) -> Tracker:
    return Tracker.at(str(storage))


def test_the_trials_of_an_earlier_sweep_are_taken_by_rank_and_what_is_left_out_is_said(
    tracker: Tracker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = recorded(tracker, TRIALS)
    best = {"train.lr": 2e-3, "train.loss.dice": 1.5}  # dice was not searched there, and is known all the same
    found = taken(tracker, tmp_path, sweep(warm_start="walls"))
    assert [number for number, _ in found] == [1, 2, 0]
    assert found[0][1] == best
    said = capsys.readouterr().out
    assert "3 trials of walls by val/iou; left out 1 infeasible, 2 without a score at its end" in said
    assert "searched there and not here: train.epochs" in said
    assert taken(tracker, tmp_path / "by id", sweep(warm_start=[parent])) == found
    search = begun(sweep(warm_start="walls"), tmp_path)
    search.next()
    second = search.next()
    assert second
    assert second.values == best


def test_what_was_taken_stays_when_the_earlier_sweep_and_mlflow_are_gone(
    tracker: Tracker, tmp_path: Path, storage: Path
) -> None:
    recorded(tracker, TRIALS)
    spec = sweep(warm_start="walls")
    before = taken(tracker, tmp_path, spec)
    shutil.rmtree(storage)
    assert taken(tracker, tmp_path, spec) == before
    assert taken(tracker, tmp_path / "other", sweep()) == [], "nobody asked"


def test_ranks_are_those_of_todays_metric_or_else_of_that_of_the_earlier_sweep(
    tracker: Tracker, tmp_path: Path
) -> None:
    both = [{"lr": 1e-3, "val/iou": 0.4, "val/dice": 0.9}, {"lr": 2e-3, "val/iou": 0.6, "val/dice": 0.7}]
    recorded(tracker, both)
    for metric, order in (("val/dice", [0, 1]), ("val/hausdorff_95", [1, 0])):
        found = taken(tracker, tmp_path / metric, sweep(warm_start="walls", metric=metric))
        assert [number for number, _ in found] == order


def test_of_several_sweeps_the_ranks_are_merged(tracker: Tracker, tmp_path: Path) -> None:
    recorded(tracker, TRIALS)
    recorded(tracker, [{"lr": 9e-3, "val/iou": 0.1}, {"lr": 8e-3, "val/iou": 0.0}], name="roofs")
    found = taken(tracker, tmp_path, sweep(warm_start=["walls", "roofs"]))
    assert [values["train.lr"] for _, values in found] == [2e-3, 9e-3, 3e-3, 8e-3, 1e-3]


def test_the_name_of_this_sweep_means_the_one_before_it(tracker: Tracker, tmp_path: Path) -> None:
    own = "f" * 16
    earlier = recorded(tracker, TRIALS, fingerprint="e" * 16)
    latest = recorded(tracker, TRIALS[:1], fingerprint=own)
    spec = sweep(warm_start="walls")
    assert len(taken(tracker, tmp_path, spec, own)) == 3
    assert len(taken(tracker, tmp_path / "a", sweep(warm_start=[earlier]), own)) == 3
    with pytest.raises(SegdistError, match=r"must name an earlier sweep, but .* is this one"):
        taken(tracker, tmp_path / "b", sweep(warm_start=[latest]), own)


@pytest.mark.parametrize(
    ("trials", "asked", "changes", "said"),
    [
        (TRIALS, "wals", {}, "There is no sweep `wals` in MLflow at .* Did you mean `walls`"),
        (TRIALS, "f" * 32, {}, "not found"),
        ([], "walls", {}, "of its 0 trials none is: none was started. Run it, or name another one"),
        (TRIALS[3:6], "walls", {}, "of its 3 trials none is: 1 infeasible, 2 without a score"),
        (TRIALS, "walls", {"space": {"train.epochs": [3]}}, "it searched train.epochs, and this one train.loss.dice"),
        (TRIALS, "walls", {"space": {}}, "it searched nothing, and this one"),
    ],
)
def test_a_sweep_with_nothing_to_take_is_an_error_that_says_why(
    tracker: Tracker, tmp_path: Path, trials: list[dict[str, Any]], asked: str, changes: dict[str, Any], said: str
) -> None:
    recorded(tracker, trials, **changes)
    with pytest.raises(SegdistError, match=said):
        taken(tracker, tmp_path, sweep(warm_start=asked))
    assert warm_start.read(str(tmp_path)) is None


def test_this_sweep_alone_under_its_name_is_no_earlier_one(tracker: Tracker, tmp_path: Path) -> None:
    recorded(tracker, TRIALS, fingerprint="f" * 16)
    with pytest.raises(SegdistError, match=r"no sweep `walls` in MLflow at .* but this very one"):
        taken(tracker, tmp_path, sweep(warm_start="walls"))


def test_choices_that_are_gone_are_left_out(tracker: Tracker, tmp_path: Path) -> None:
    recorded(tracker, TRIALS)
    spec = sweep(space={"train.lr": [1e-3, 3e-3]}, warm_start="walls")
    assert [number for number, _ in taken(tracker, tmp_path, spec)] == [2, 0]
    gone = sweep(space={"train.lr": [7e-3]}, warm_start="walls")
    with pytest.raises(SegdistError, match="3 with a choice that is gone"):
        taken(tracker, tmp_path / "gone", gone)
