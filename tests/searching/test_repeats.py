"""When a search has come to its end, its best trials are trained again with other seeds, and nothing else changes."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from segdist.core.spec import SweepSpec
from segdist.searching import Ledger, Search, Trial
from tests.searching.sweeps import begun, run, sweep

CONFIRM = {"trials": 2, "seeds": 2}


def asked(**search: Any) -> SweepSpec:
    return sweep(**{"trials": 5, "asha": None, "confirm": CONFIRM, **search})


def best_first(search: Search) -> list[Trial]:
    return sorted(search.ledger.searched, key=lambda t: -max(t.scores("val/iou"), default=-1.0))


def described(search: Search) -> list[tuple[object, ...]]:
    return [(t.number, t.values, t.seed, t.repeats, t.state, len(t.epochs)) for t in search.ledger.trials]


def test_the_best_trials_are_trained_again_with_fresh_seeds_and_numbers_of_their_own(tmp_path: Path) -> None:
    search = begun(asked(), tmp_path)
    assert search.repeats == (0, 4)
    assert run(search) == list(range(9))
    assert (search.done, search.total, search.repeats, search.is_done) == (5, 5, (4, 4), True)
    first, second = best_first(search)[:2]
    assert search.confirmed == [first.number, second.number]
    repeats = search.ledger.repeats
    assert [(t.repeats, t.values) for t in repeats] == [(t.key, t.values) for t in (first, first, second, second)]
    assert len({t.seed for t in repeats} | {0}) == 5, "no seed twice, and none that the search has used"
    assert [t.settings["seed"] for t in repeats] == [t.seed for t in repeats]
    assert not any(t.is_baseline for t in repeats)
    assert len({t.key for t in search.ledger.trials}) == 9
    assert run(begun(asked(), tmp_path)) == [], "a further start has nothing to do"


def test_none_begins_before_the_last_trial_of_the_search_has_ended(tmp_path: Path) -> None:
    search = begun(asked(trials=2), tmp_path)
    for number in (0, 1):
        trial = search.next()
        assert trial
        search.start(trial.number)
        search.report(number, {"epoch": 1, "val/iou": 0.5}, f"place/{number}")
    search.end(0)
    assert search.next() is None
    assert search.is_waiting, "so Tune asks again"
    search.end(1)
    again = search.next()
    assert again
    assert again.repeats


def test_a_search_that_is_killed_between_any_two_of_them_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = begun(asked(), tmp_path / "whole")
    run(whole)
    for _ in range(12):
        run(begun(asked(), tmp_path / "parts"), most=1)
    parts = begun(asked(), tmp_path / "parts")
    assert parts.is_done
    assert described(parts) == described(whole)


def test_a_repeat_goes_on_from_its_checkpoint_with_its_seed(tmp_path: Path) -> None:
    run(begun(asked(), tmp_path), most=5)
    first = begun(asked(), tmp_path)
    repeat = first.next()
    assert repeat
    first.start(repeat.number)
    first.report(repeat.number, {"epoch": 1, "val/iou": 0.5}, "place/1")
    first.report(repeat.number, {"epoch": 2, "val/iou": 0.6})
    again = begun(asked(), tmp_path).next()
    assert again
    assert (again.number, again.seed, again.repeats) == (repeat.number, repeat.seed, repeat.repeats)
    assert [e.epoch for e in again.epochs] == [1]


@pytest.mark.parametrize("sampler", ["tpe", "quasi_random"])
def test_what_the_search_proposes_is_the_same_with_and_without_them(tmp_path: Path, sampler: str) -> None:
    for folder, confirm in (("with", CONFIRM), ("without", None)):
        for trials in (4, 7):  # widened after the repeats of the first four
            run(begun(asked(sampler=sampler, trials=trials, confirm=confirm), tmp_path / folder))
    one, other = (Ledger(str(tmp_path / folder)) for folder in ("with", "without"))
    assert [t.values for t in one.searched] == [t.values for t in other.trials]
    assert [t.is_baseline for t in one.trials].count(True) == 1
    assert len(one.repeats) >= 4
    study = begun(asked(sampler=sampler, trials=7), tmp_path / "with")._proposals._study
    assert len(study.trials) == 7, "Optuna hears of the search alone"


@pytest.mark.parametrize(
    "stop",
    [
        {"asha": {"grace_epochs": 1, "reduction_factor": 2, "pause": False}},
        {"asha": {"grace_epochs": 1, "reduction_factor": 2, "pause": True}},
        {"stop": {"top_after": 1, "keep": 2}},
        {"stop": {"median_after": 1}, "startup_trials": 1},
        {"stop": {"patience": 1}},
    ],
)
def test_no_rule_stops_one_early(tmp_path: Path, stop: dict[str, Any]) -> None:
    search = begun(asked(trials=6, **stop), tmp_path)
    run_with_bad_repeats(search)
    assert len(search.ledger.repeats) == 4
    assert {(t.state, len(t.epochs)) for t in search.ledger.repeats} == {("finished", 9)}


def run_with_bad_repeats(search: Search) -> None:
    """Trials whose repeats get worse from epoch to epoch."""
    while trial := search.next():
        trial = search.start(trial.number)
        for epoch in range(trial.last_epoch + 1, 10):
            iou = 0.01 / epoch if trial.repeats else trial.values["train.loss.dice"] * (1 - 0.5**epoch)
            if search.report(trial.number, {"epoch": epoch, "val/iou": iou}, f"place/{trial.number}/{epoch}"):
                break
        search.end(trial.number)


def test_a_wider_search_confirms_its_new_best_and_does_not_forget_those_of_before(tmp_path: Path) -> None:
    before = begun(asked(trials=3), tmp_path)
    run(before)
    search = begun(asked(points=[{"train.loss.dice": 2.0}, {"train.loss.dice": 1.999}]), tmp_path)
    run(search)
    best = [t.number for t in best_first(search)]
    assert not set(best[:2]) & set(before.confirmed), "the case is of use"
    assert search.confirmed == [n for n in best if n in {*best[:2], *before.confirmed}]
    assert len(search.ledger.repeats) == 8


def test_more_seeds_are_more_repeats_and_fewer_leave_what_is_there(tmp_path: Path) -> None:
    run(begun(asked(), tmp_path))
    more = begun(asked(confirm={"trials": 2, "seeds": 3}), tmp_path)
    assert (more.repeats, more.is_done, more.confirmed) == ((4, 6), False, [])
    assert run(more) == [9, 10]
    fewer = begun(asked(confirm={"trials": 1, "seeds": 1}), tmp_path)
    assert (fewer.repeats, fewer.is_done) == ((1, 1), True)
    assert len(fewer.ledger.repeats) == 6
    none = begun(asked(confirm=None), tmp_path)
    assert (none.repeats, none.is_done, none.confirmed) == ((0, 0), True, [])


def test_failed_and_infeasible_trials_are_not_trained_again(tmp_path: Path) -> None:
    search = begun(asked(trials=3, constraints={"model/bytes": 10.0}), tmp_path)
    for number, size in enumerate((5.0, 20.0, 5.0)):
        trial = search.next()
        assert trial
        search.start(number)
        search.report(number, {"epoch": 1, "val/iou": 0.5 + 0.1 * number, "model/bytes": size}, f"place/{number}")
        if number == 2:
            search.fail(2, "no memory")
        else:
            search.end(number)
    repeat = search.next()
    assert repeat
    assert repeat.repeats == search.ledger[0].key
    assert search.repeats == (0, 2), "one trial is fit, although two were asked for"


def test_where_every_trial_failed_nothing_is_trained_again(tmp_path: Path) -> None:
    search = begun(asked(trials=2), tmp_path)
    while trial := search.next():
        search.start(trial.number)
        search.fail(trial.number, "no memory")
    assert (search.is_done, search.confirmed, len(search.ledger.trials)) == (True, [], 2)


def test_a_failed_repeat_is_tried_again_by_the_next_start_alone(tmp_path: Path) -> None:
    run(begun(asked(), tmp_path), most=5)
    search = begun(asked(), tmp_path)
    repeat = search.next()
    assert repeat
    search.start(repeat.number)
    search.fail(repeat.number, "no memory")
    run(search)
    assert search.is_done
    assert repeat.number in [t.number for t in search.ledger.repeats if t.state == "failed"]
    assert begun(asked(), tmp_path, retry=False).is_done
    assert run(begun(asked(), tmp_path)) == [repeat.number]


def test_repeats_of_a_trial_whose_file_was_deleted_are_not_those_of_the_one_that_takes_its_number(
    tmp_path: Path,
) -> None:
    spec = asked(trials=3, confirm={"trials": 3, "seeds": 1})
    run(begun(spec, tmp_path))
    (tmp_path / "trials" / "0002.json").unlink()
    other = asked(trials=3, confirm={"trials": 3, "seeds": 1}, seed=9, sampler="random")
    search = begun(other, tmp_path)
    assert run(search) == [2, 6]
    assert search.ledger[6].repeats == search.ledger[2].key
    assert search.ledger[6].values == search.ledger[2].values != search.ledger[5].values


def test_of_an_error_the_lowest_are_trained_again(tmp_path: Path) -> None:
    search = begun(asked(metric="val/hausdorff_95", confirm={"trials": 1, "seeds": 1}), tmp_path)
    while trial := search.next():
        search.start(trial.number)
        search.report(trial.number, {"epoch": 1, "val/hausdorff_95": 9.0 - trial.number}, f"place/{trial.number}")
        search.end(trial.number)
    assert search.confirmed == [4]


@pytest.mark.parametrize(
    ("space", "search", "said"),
    [
        ({}, {"confirm": {"trials": 9}}, "`search.confirm.trials` must be at most `search.trials`, but got 9 of 5"),
        ({"seed": [1, 2]}, {"confirm": {}}, "`space` must not hold `seed`"),
        ({}, {"confirm": {"seeds": 0}}, "greater than 0"),
        ({}, {"confirm": {"trials": 0}}, "greater than 0"),
        ({}, {"confirm": True}, "ConfirmSpec"),
    ],
)
def test_what_cannot_be_confirmed_is_refused(space: dict[str, Any], search: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        sweep(space=space, trials=5, **search)


def test_without_a_space_there_is_nothing_to_confirm(tmp_path: Path) -> None:
    content = asked().model_dump(mode="json")
    with pytest.raises(ValidationError, match="compares trials, but `space` is empty"):
        SweepSpec.model_validate({**content, "space": {}})
    once = asked().model_copy(update={"space": {}})  # as `segdist train` takes the file
    search = begun(once, tmp_path)
    assert run_one(search) == 1
    assert (search.repeats, search.confirmed, search.is_done) == ((0, 0), [], True)


def run_one(search: Search) -> int:
    """Runs what there is, and says how many that were."""
    count = 0
    while trial := search.next():
        search.start(trial.number)
        search.report(trial.number, {"epoch": 1, "val/iou": 0.5}, "place")
        search.end(trial.number)
        count += 1
    return count
