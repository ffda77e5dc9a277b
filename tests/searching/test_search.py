"""A search goes on from its ledger as if it had never stopped, and may be widened, narrowed and moved meanwhile."""

from pathlib import Path

import optuna
import pytest

from segdist.searching import Ledger
from segdist.searching.proposals import Proposals
from segdist.searching.space import baseline
from tests.searching.sweeps import begun, run, score, sweep

SLOW = pytest.mark.slow


def test_numbers_are_unique_and_the_first_trial_alone_is_the_baseline_over_any_number_of_starts(tmp_path: Path) -> None:
    spec = sweep(trials=5)
    for most in (1, 2, 100):
        run(begun(spec, tmp_path), most=most)
    trials = Ledger(str(tmp_path)).trials
    assert [t.number for t in trials] == [0, 1, 2, 3, 4]
    assert [t.is_baseline for t in trials] == [True, False, False, False, False]
    assert trials[0].values == baseline(spec)
    assert len({tuple(t.values.values()) for t in trials}) == 5


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi_random", "cmaes", "gp"])
def test_starts_in_between_change_no_value_and_no_verdict(tmp_path: Path, sampler: str) -> None:
    spec = sweep(sampler=sampler, trials=9 if sampler != "cmaes" else 15, seed=4)
    run(begun(spec, tmp_path / "whole"))
    for most in (2, 1, 3, 100):
        run(begun(spec, tmp_path / "parts"), most=most)
    whole, parts = (Ledger(str(tmp_path / name)).trials for name in ("whole", "parts"))
    assert [t.values for t in whole] == [t.values for t in parts]
    assert [(t.state, [e.metrics for e in t.epochs]) for t in whole] == [
        (t.state, [e.metrics for e in t.epochs]) for t in parts
    ]
    assert {t.state for t in whole} == {"finished", "stopped"}


FAMILIES = {
    "model.family": ["unet_cbam", "sam"],
    "model.unet_cbam.width": {"low": 8, "high": 16, "when": {"model.family": "unet_cbam"}},
    "train.adapter.kind": {"choices": ["full", "lora"], "when": {"model.family": "sam"}},
    "train.adapter.rank": {"low": 2, "high": 8, "when": {"train.adapter.kind": "lora"}},
}


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi_random", "cmaes", pytest.param("gp", marks=SLOW)])
def test_starts_in_between_change_nothing_where_keys_exist_for_some_families_alone(
    tmp_path: Path, sampler: str
) -> None:
    points = [{"model.family": "sam", "train.adapter.kind": "lora", "train.adapter.rank": 4}]
    spec = sweep(space=FAMILIES, sampler=sampler, trials=14, seed=2, asha=None, points=points)
    run(begun(spec, tmp_path / "whole"), epochs=1)
    for most in (1, 1, 4, 100):
        run(begun(spec, tmp_path / "parts"), most=most, epochs=1)
    whole, parts = (Ledger(str(tmp_path / name)).trials for name in ("whole", "parts"))
    assert [t.values for t in whole] == [t.values for t in parts]
    assert whole[1].values == {**points[0], "train.lr": 1e-3, "train.loss.dice": 1.0}
    assert len({t.values["model.family"] for t in whole}) == 2
    for trial in whole:
        applying = {key for key, range_ in spec.space.items() if range_.applies(trial.values)}
        assert trial.values.keys() == applying
    told = begun(spec, tmp_path / "parts")._proposals._study.trials
    assert [t.params for t in told] == [t.values for t in whole]


def test_a_trial_that_was_killed_goes_on_from_its_checkpoint_under_its_number(tmp_path: Path) -> None:
    first = begun(sweep(asha=None), tmp_path)
    trial = first.next()
    assert trial
    first.start(trial.number)
    for epoch in (1, 2, 3):
        checkpoint = f"place/{epoch}" if epoch < 3 else ""
        first.report(trial.number, {"epoch": epoch, "val/iou": 0.1 * epoch}, checkpoint)
    other = first.next()  # suggested, never started
    assert other

    second = begun(sweep(asha=None), tmp_path)
    again, then = second.next(), second.next()
    assert again
    assert then
    assert (again.number, again.values, [e.epoch for e in again.epochs]) == (0, trial.values, [1, 2])
    assert again.latest
    assert again.latest.uri == "place/2"
    assert (then.number, then.values) == (1, other.values)
    assert second.start(0).starts == 2


def test_more_trials_than_before_are_more_trials_and_fewer_run_none(tmp_path: Path) -> None:
    run(begun(sweep(trials=4), tmp_path))
    fewer = begun(sweep(trials=2), tmp_path)
    assert fewer.is_done
    assert fewer.next() is None
    wider = begun(sweep(trials=6), tmp_path)
    assert (wider.done, wider.total, wider.is_done) == (4, 6, False)
    assert run(wider) == [4, 5]
    assert wider.is_done


def test_of_interrupted_trials_only_as_many_go_on_as_are_wanted(tmp_path: Path) -> None:
    first = begun(sweep(trials=4), tmp_path)
    for _ in range(4):
        first.next()
    assert run(begun(sweep(trials=1), tmp_path)) == [0]


def test_a_range_may_become_wider_or_narrower(tmp_path: Path) -> None:
    run(begun(sweep(trials=6, asha=None), tmp_path))
    best = begun(sweep(), tmp_path).best
    narrow = sweep(space={"train.loss.dice": {"low": 1.9, "high": 2.0}}, trials=10, asha=None)
    search = begun(narrow, tmp_path)
    assert search.best == best, "what lies outside counts as before"
    numbers = run(search)
    assert numbers == [6, 7, 8, 9]
    assert all(1.9 <= search.ledger[n].values["train.loss.dice"] <= 2.0 for n in numbers)
    wide = sweep(space={"train.loss.dice": {"low": 0.1, "high": 4.0}}, trials=12, asha=None)
    assert run(begun(wide, tmp_path)) == [10, 11]


def test_a_key_with_other_choices_goes_on_too(tmp_path: Path) -> None:
    keys = {"model.unet_cbam.width": [8, 12]}
    run(begun(sweep(space=keys, trials=4), tmp_path))
    other = sweep(space={"model.unet_cbam.width": [12, 16]}, trials=7)
    search = begun(other, tmp_path)
    assert all(search.ledger[n].values["model.unet_cbam.width"] in (12, 16) for n in run(search))


def test_failed_trials_are_tried_again_by_the_next_start_alone(tmp_path: Path) -> None:
    first = begun(sweep(trials=2), tmp_path)
    trial = first.next()
    assert trial
    first.start(0)
    first.fail(0, "no memory")
    assert first.ledger[0].reason == "no memory"
    assert begun(sweep(trials=2), tmp_path, retry=False).next() != trial
    again = begun(sweep(trials=2), tmp_path).next()
    assert again
    assert (again.number, again.values) == (0, trial.values)


def test_the_best_epoch_is_told_not_the_last_and_stopped_trials_are_pruned(tmp_path: Path) -> None:
    spec = sweep(trials=3, asha={"grace_epochs": 1, "reduction_factor": 2, "pause": False})
    search = begun(spec, tmp_path)
    for values in ((0.2, 0.9, 0.4), (0.1, 0.1, 0.1), (0.3, 0.95, 0.45)):
        trial = search.next()
        assert trial
        search.start(trial.number)
        for epoch, iou in enumerate(values, 1):
            if search.report(trial.number, {"epoch": epoch, "val/iou": iou}, f"place/{trial.number}/{epoch}"):
                break
        search.end(trial.number)
    assert [t.state for t in search.ledger.trials] == ["finished", "stopped", "finished"]
    assert [t.best and t.best.epoch for t in search.ledger.trials] == [2, 1, 2]
    told = Proposals(spec, search.ledger.trials)._study.trials
    states = optuna.trial.TrialState
    assert [(t.state, t.value) for t in told] == [
        (states.COMPLETE, 0.9),
        (states.PRUNED, 0.1),
        (states.COMPLETE, 0.95),
    ]


def test_a_metric_that_is_an_error_is_minimised(tmp_path: Path) -> None:
    spec = sweep(trials=2, metric="val/hausdorff_95", asha=None)
    search = begun(spec, tmp_path)
    trial = search.next()
    assert trial
    search.start(trial.number)
    for epoch, pixels in enumerate((9.0, 3.0, 5.0), 1):
        search.report(0, {"epoch": epoch, "val/hausdorff_95": pixels}, f"place/{epoch}")
    search.end(0)
    assert search.best == 3.0
    best = search.ledger[0].best
    assert best
    assert best.epoch == 2
    assert Proposals(spec, search.ledger.trials)._study.best_value == 3.0


def test_a_trial_that_found_nothing_to_measure_a_distance_to_is_evidence_and_one_that_failed_is_none(
    tmp_path: Path,
) -> None:
    spec = sweep(trials=2, metric="val/hausdorff_95", asha=None)
    search = begun(spec, tmp_path)
    for number in range(2):
        search.next()
        search.start(number)
        search.report(number, {"epoch": 1, "val/hausdorff_95": float("inf")})
    search.end(0)
    search.fail(1, "no memory")
    told = Proposals(spec, search.ledger.trials)._study.trials
    assert [t.state for t in told] == [optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL]


def test_a_sweep_without_a_space_is_one_trial(tmp_path: Path) -> None:
    spec = sweep().model_copy(update={"space": {}})
    search = begun(spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 1})}), tmp_path)
    trial = search.next()
    assert trial
    assert (trial.values, trial.is_baseline) == ({}, True)
    assert search.next() is None


def test_a_crash_of_the_driver_costs_early_stopping_nothing(tmp_path: Path) -> None:
    """What is stopped after a start depends on what trials of earlier starts reached."""
    spec = sweep(trials=4, asha={"grace_epochs": 2, "reduction_factor": 3, "pause": False})
    run(begun(spec, tmp_path), most=3)
    search = begun(spec, tmp_path)
    trial = search.next()
    assert trial
    search.start(trial.number)
    reached = max(score(t.values, 2) for t in search.ledger.trials if t.number != trial.number)
    assert not search.report(trial.number, {"epoch": 1, "val/iou": 0.0})
    assert search.report(trial.number, {"epoch": 2, "val/iou": reached / 100})
