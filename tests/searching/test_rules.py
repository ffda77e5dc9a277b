"""A search goes on from its ledger alone: each trial once, nothing forgotten, wherever it was stopped."""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from segdist.core.spec import SweepSpec
from segdist.searching import Ledger, Search, Trial

EPOCHS = 6


def spec(**search: Any) -> SweepSpec:
    lr = search.pop("lr", {"low": 1e-4, "high": 1e-1, "log": True})
    return SweepSpec.model_validate(
        {
            "name": "s",
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam", "unet_cbam": {"width": 12}},
            "train": {"epochs": EPOCHS, "lr": 1e-3},
            "space": {"train.lr": lr, "model.unet_cbam.width": [8, 12]},
            "search": {"trials": 6, "startup_trials": 3, "asha": None, **search},
        }
    )


def score(number: int, epoch: int) -> float:
    """Of a stand-in trial: each rises, then falls a little; the higher numbers are better."""
    return (number + 1) * min(epoch, EPOCHS - 1) / 100 - 0.001 * (epoch == EPOCHS)


def epoch(search: Search, number: int, which: int) -> bool:
    metrics = {"epoch": which, "seconds": 1.0, "val/iou": score(number, which)}
    return search.report(number, metrics, f"c/{number}/{which}")


def run(search: Search, trial: Trial, *, until: int = EPOCHS) -> None:
    """A trial to its end, or to an epoch in which its driver is killed."""
    trial = search.start(trial.number)
    for which in range(trial.last_epoch + 1, until + 1):
        if epoch(search, trial.number, which):
            search.end(trial.number)
            return
    if until == EPOCHS:
        search.end(trial.number)


def finish(search: Search) -> None:
    while trial := search.next():
        run(search, trial)


def number_of(search: Search) -> int:
    """That of the next trial."""
    trial = search.next()
    assert trial
    return trial.number


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Search]:
    return lambda **search: Search(spec(**search), Ledger(str(tmp_path)))


def test_a_trial_is_in_the_ledger_before_it_starts_with_its_number_and_whether_it_is_the_baseline(
    start: Callable[..., Search], tmp_path: Path
) -> None:
    search = start()
    given = [search.next() for _ in range(3)]
    assert list(Ledger(str(tmp_path)).trials) == given
    assert [t.is_baseline for t in given if t] == [True, False, False]
    assert given[0]
    assert given[0].values == {"train.lr": 1e-3, "model.unet_cbam.width": 12}


def test_a_search_that_is_killed_again_and_again_ends_as_one_that_was_not(
    start: Callable[..., Search], tmp_path: Path
) -> None:
    whole = Search(spec(), Ledger(str(tmp_path / "whole")))
    finish(whole)
    kills = 0
    for until in (0, 1, 3, 5, 2, 4, 0, 1, 5, 3):
        search = start()
        if trial := search.next():
            run(search, trial, until=max(until, trial.last_epoch))
            kills += 1
    search = start()
    finish(search)
    assert kills == 10
    assert search.is_done
    assert _said(search) == _said(whole)
    assert sum(t.is_baseline for t in search.ledger.trials) == 1
    assert search.best == whole.best == pytest.approx(0.3)


def test_a_sweep_is_widened_and_its_range_narrowed_and_no_trial_is_forgotten(start: Callable[..., Search]) -> None:
    finish(start(trials=4))
    before = start(trials=4).ledger.trials
    narrow = {"low": 5e-3, "high": 2e-2, "log": True}
    search = start(trials=8, lr=narrow, seed=3)
    assert not search.is_done
    finish(search)
    assert search.ledger.trials[:4] == before
    assert [t.number for t in search.ledger.trials] == list(range(8))
    assert all(5e-3 <= t.values["train.lr"] <= 2e-2 for t in search.ledger.trials[4:])
    assert any(not 5e-3 <= t.values["train.lr"] <= 2e-2 for t in before)
    told = search._proposals._study.trials
    assert [t.state.name for t in told] == ["COMPLETE"] * 8, "what lies outside is evidence all the same"


def test_optuna_is_told_the_best_epoch(start: Callable[..., Search]) -> None:
    finish(start())
    told = start()._proposals._study.trials
    assert [t.value for t in told] == pytest.approx([(n + 1) * (EPOCHS - 1) / 100 for n in range(6)])
    assert all(list(t.intermediate_values) == list(range(1, EPOCHS + 1)) for t in told)


def test_a_trial_of_which_a_file_was_deleted_is_suggested_anew_without_its_checkpoints(
    start: Callable[..., Search], tmp_path: Path
) -> None:
    finish(start())
    old = tmp_path / "checkpoints" / "0002" / "00001" / "model.pt"
    old.parent.mkdir(parents=True)
    old.touch()
    (tmp_path / "trials" / "0002.json").unlink()
    search = start()
    again = search.next()
    assert again
    assert (again.number, again.is_baseline, again.epochs) == (2, False, ())
    assert search.next() is None
    assert not old.exists()


def test_what_failed_is_tried_again_by_the_next_start_and_optuna_is_told_how_it_ended(
    start: Callable[..., Search],
) -> None:
    search = start(trials=2)
    for _ in range(2):
        trial = search.next()
        assert trial
        search.start(trial.number)
        search.fail(trial.number, "the card fell off")
    assert search.is_done
    assert Search(search.spec, search.ledger, retry=False).next() is None
    search = start(trials=2)
    finish(search)
    assert [t.state for t in search.ledger.trials] == ["finished", "finished"]
    assert [t.state.name for t in search._proposals._study.trials] == ["COMPLETE", "COMPLETE"]


def test_an_infeasible_trial_tells_the_sampler_so(start: Callable[..., Search]) -> None:
    search = start(constraints={"model/bytes": 10})
    for size in (8, 12.5, None, 10):
        trial = search.next()
        assert trial
        search.start(trial.number)
        cost = {} if size is None else {"model/bytes": size}
        search.report(trial.number, {"epoch": 1, "val/iou": 0.5, **cost})
        search.end(trial.number)
    said = [{"model/bytes": by} for by in (-2.0, 2.5, 1.0, 0.0)]
    assert [t.constraints for t in search._proposals._study.trials] == said
    again = start(constraints={"model/bytes": 10})
    assert [t.constraints for t in again._proposals._study.trials] == said
    assert [t.state for t in again.ledger.trials] == ["finished", "infeasible", "infeasible", "finished"]
    assert [t.broken for t in again.ledger.trials] == [{}, {"model/bytes": 2.5}, {"model/bytes": None}, {}]


def test_other_bounds_judge_anew_what_ended_and_have_it_recorded_again(start: Callable[..., Search]) -> None:
    search = start(constraints={"model/bytes": 10}, trials=2)
    for size, iou in ((8, 0.5), (12, 0.9)):
        trial = search.next()
        assert trial
        search.start(trial.number)
        search.report(trial.number, {"epoch": 1, "val/iou": iou, "model/bytes": size})
        search.end(trial.number)
        search.ledger.change(trial.number, tracked="somewhere")
    assert search.best == 0.5, "the better one is too large"
    looser = start(constraints={"model/bytes": 12}, trials=2)
    assert [(t.state, t.tracked) for t in looser.ledger.trials] == [("finished", ""), ("finished", "")]
    assert looser.best == 0.9
    assert [t.state for t in start(trials=2).ledger.trials] == ["finished"] * 2
    assert [t.state for t in start(constraints={"model/bytes": 5}, trials=2).ledger.trials] == ["infeasible"] * 2


def test_a_bound_on_an_error_is_held_by_the_epoch_whose_model_is_kept(start: Callable[..., Search]) -> None:
    search = start(constraints={"val/hausdorff_95": 3.0}, trials=1)
    trial = search.next()
    assert trial
    search.start(0)
    for which, (iou, distance) in enumerate([(0.2, 1.0), (0.8, 4.0), (0.3, 2.0)], 1):
        search.report(0, {"epoch": which, "val/iou": iou, "val/hausdorff_95": distance}, f"c/{which}")
    assert search.end(0).broken == {"val/hausdorff_95": 1.0}


def test_of_the_best_after_one_epoch_those_that_break_no_bound_go_on(start: Callable[..., Search]) -> None:
    rule = {"stop": {"top_after": 1, "keep": 1}, "constraints": {"model/bytes": 10}, "trials": 3}
    search = start(**rule)
    given = [search.next() for _ in range(3)]
    for trial in filter(None, given):
        search.start(trial.number)
        size = 20 if trial.number == 2 else 8
        assert search.report(trial.number, {"epoch": 1, "val/iou": 0.1 * trial.number, "model/bytes": size})
        search.end(trial.number)
    chosen = search.next()
    assert chosen
    assert chosen.number == 1


def test_a_repeated_epoch_takes_the_place_of_the_first(start: Callable[..., Search]) -> None:
    search = start()
    trial = search.next()
    assert trial
    run(search, trial, until=3)
    epoch(search, trial.number, 2)
    assert [e.epoch for e in search.ledger[0].epochs] == [1, 2]


@pytest.mark.parametrize("asha", [{"grace_epochs": 1, "reduction_factor": 2}, {"grace_epochs": 2}])
def test_halving_decides_after_a_restart_as_it_did_before(
    start: Callable[..., Search], tmp_path: Path, asha: dict[str, Any]
) -> None:
    asha = {**asha, "pause": False}
    whole = Search(spec(asha=asha, trials=8), Ledger(str(tmp_path / "whole")))
    numbers = [trial.number for _ in range(8) if (trial := whole.next())]
    for number in reversed(numbers):  # the best reports first
        run(whole, whole.ledger[number])
    for number in reversed(numbers):
        search = start(asha=asha, trials=8)
        while trial := search.next():
            if trial.number == number:
                run(search, trial)
    assert _said(start(asha=asha, trials=8)) == _said(whole)
    states = [t.state for t in whole.ledger.trials]
    assert states.count("stopped") >= 4
    assert states[-1] == "finished"


PAUSE = {"grace_epochs": 1, "reduction_factor": 2, "pause": True}
"""Rungs after 1, 2 and 4 epochs."""


def _ends(search: Search) -> list[tuple[str, int]]:
    return [(trial.state, trial.last_epoch) for trial in search.ledger.trials]


def test_trials_wait_at_a_rung_for_the_best_to_go_on_and_the_untuned_one_in_the_end(
    start: Callable[..., Search],
) -> None:
    search = start(asha=PAUSE, trials=4)
    run(search, search.ledger[number_of(search)])
    run(search, search.ledger[number_of(search)])
    assert _ends(search) == [("waiting", 1), ("waiting", 2)]  # of two the better one passed the first rung
    finish(search)
    assert _ends(search) == [("finished", 6), ("stopped", 2), ("stopped", 4), ("finished", 6)]
    assert [trial.starts for trial in search.ledger.trials] == [2, 1, 1, 1]
    assert search.ledger[1].reason == "not among the best after epoch 2"
    assert search.is_done


def test_a_trial_that_waits_goes_on_when_it_is_among_the_best_of_more(start: Callable[..., Search]) -> None:
    search = start(asha={**PAUSE, "grace_epochs": 3}, trials=4)
    assert [number_of(search) for _ in range(4)] == [0, 1, 2, 3]
    for number in (2, 1):
        run(search, search.ledger[number])
    assert [search.ledger[number].state for number in (1, 2)] == ["waiting", "waiting"]
    assert number_of(search) == 2  # it came first, when there was nobody to be better than
    run(search, search.ledger[2])
    assert _ends(search)[2] == ("finished", 6)


def test_where_none_is_among_the_best_the_best_one_is_trained_to_its_end(start: Callable[..., Search]) -> None:
    search = start(asha={**PAUSE, "reduction_factor": 4}, trials=3)
    finish(search)
    assert _ends(search) == [("finished", 6), ("stopped", 1), ("finished", 6)]


def test_the_untuned_one_is_trained_beside_the_best_one_and_not_after_it(start: Callable[..., Search]) -> None:
    search = start(asha={**PAUSE, "reduction_factor": 4}, trials=2)
    for number in (number_of(search), number_of(search)):
        run(search, search.ledger[number])
    assert _ends(search) == [("waiting", 1), ("waiting", 1)]
    assert (number_of(search), number_of(search)) == (1, 0)
    assert search.next() is None
    for number in (1, 0):
        run(search, search.ledger[number])
    assert _ends(search) == [("finished", 6), ("finished", 6)]
    assert search.next() is None


def test_where_there_is_room_the_untuned_one_goes_on_and_the_best_of_the_others_still_is_trained_to_its_end(
    start: Callable[..., Search],
) -> None:
    search = start(asha={**PAUSE, "reduction_factor": 4}, trials=3)
    assert [number_of(search) for _ in range(3)] == [0, 1, 2]
    for number in (0, 1):
        run(search, search.ledger[number])
    assert number_of(search) == 0  # trial 2 is in its first epoch
    run(search, search.ledger[0])
    assert _ends(search) == [("finished", 6), ("waiting", 1), ("waiting", 0)]
    run(search, search.ledger[2])
    finish(search)
    assert _ends(search) == [("finished", 6), ("stopped", 1), ("finished", 6)]


def test_rungs_lie_where_checkpoints_do_and_none_where_trials_end(tmp_path: Path) -> None:
    every = spec(asha={**PAUSE, "reduction_factor": 4}, trials=4)
    every = every.model_copy(update={"train": every.train.model_copy(update={"checkpoint_every": 3})})
    search = Search(every, Ledger(str(tmp_path / "every")))
    finish(search)
    assert {epochs for _, epochs in _ends(search)} == {3, 6}
    search = Search(spec(asha={**PAUSE, "grace_epochs": EPOCHS}), Ledger(str(tmp_path / "none")))
    finish(search)
    assert _ends(search) == [("finished", 6)] * 6


def test_one_trial_waits_for_nobody(start: Callable[..., Search]) -> None:
    search = start(asha=PAUSE, trials=1)
    run(search, search.ledger[number_of(search)])
    assert _ends(search) == [("finished", 6)]
    assert search.ledger[0].starts == 1


def test_without_a_score_a_trial_goes_on_after_all_others_and_one_does_where_none_has_any(
    start: Callable[..., Search],
) -> None:
    search = start(asha=PAUSE, trials=4, metric="val/hausdorff_95")
    _finish_scoring(search, {1: 5.0, 2: 4.0})
    assert _ends(search) == [("finished", 6), ("stopped", 2), ("finished", 6), ("stopped", 1)]
    search = start(asha=PAUSE, trials=3, metric="val/hausdorff_95", lr=[1e-3, 2e-3, 4e-3])
    _finish_scoring(search, {})
    assert ("finished", 6) in _ends(search)


def _finish_scoring(search: Search, distances: dict[int, float]) -> None:
    """Trials of these numbers have such a distance, in others nothing is found."""
    while trial := search.next():
        trial = search.start(trial.number)
        for which in range(trial.last_epoch + 1, EPOCHS + 1):
            metrics = {"epoch": which, "val/hausdorff_95": distances.get(trial.number, inf)}
            if search.report(trial.number, metrics, f"c/{which}"):
                break
        search.end(trial.number)


def test_what_breaks_a_constraint_goes_on_after_all_others(start: Callable[..., Search]) -> None:
    search = start(asha=PAUSE, constraints={"model/bytes": 10}, trials=4)
    while trial := search.next():
        search.start(trial.number)
        for which in range(trial.last_epoch + 1, EPOCHS + 1):
            bytes_ = 20 if trial.number == 3 else 5
            metrics = {"epoch": which, "val/iou": score(trial.number, which), "model/bytes": bytes_}
            if search.report(trial.number, metrics, f"c/{which}"):
                break
        search.end(trial.number)
    assert _ends(search)[3] == ("stopped", 1)
    assert ("finished", 6) in _ends(search)[1:3]


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi_random"])
def test_a_search_whose_trials_wait_goes_on_after_each_start_as_if_there_had_been_none(
    start: Callable[..., Search], tmp_path: Path, sampler: str
) -> None:
    rule = {"asha": PAUSE, "trials": 9, "sampler": sampler}
    whole = Search(spec(**rule), Ledger(str(tmp_path / "whole")))
    finish(whole)
    while trial := (search := start(**rule)).next():
        run(search, trial, until=trial.last_epoch + 1)  # and the driver is killed
    ended = [(t.number, t.values, t.state, t.last_epoch) for t in search.ledger.trials]
    assert ended == [(t.number, t.values, t.state, t.last_epoch) for t in whole.ledger.trials]
    assert {t.state for t in whole.ledger.trials} == {"finished", "stopped"}


def test_trials_that_wait_tell_the_sampler_what_they_have_shown(start: Callable[..., Search]) -> None:
    search = start(asha={**PAUSE, "reduction_factor": 9}, trials=8, startup_trials=2)
    with patch.object(TPESampler, "_sample", autospec=True, side_effect=TPESampler._sample) as learned:
        for _ in range(4):
            run(search, search.ledger[number_of(search)])
    assert {trial.state for trial in search.ledger.trials} == {"waiting"}
    shown = [trial.state for trial in learned.call_args.args[1].get_trials()]
    assert shown.count(TrialState.PRUNED) == 3


def test_one_epoch_then_the_best_go_on_to_their_end(start: Callable[..., Search]) -> None:
    rule = {"top_after": 1, "keep": 2}
    search = start(stop=rule, trials=5)
    for _ in range(3):
        trial = search.next()
        assert trial
        run(search, trial)
        assert (search.ledger[trial.number].state, search.ledger[trial.number].last_epoch) == ("waiting", 1)
    search = start(stop=rule, trials=5)  # killed
    running = [search.next(), search.next()]
    assert search.next() is None
    assert search.is_waiting, "while some have not come as far, nobody is chosen"
    for trial in running:
        assert trial
        run(search, trial)
    chosen = search.next()
    assert chosen
    assert chosen.number == 3
    run(search, chosen, until=3)
    search = start(stop=rule, trials=5)  # killed
    finish(search)
    assert search.is_done
    states = {t.number: (t.state, t.last_epoch) for t in search.ledger.trials}
    assert states == {**dict.fromkeys(range(3), ("stopped", 1)), 3: ("finished", EPOCHS), 4: ("finished", EPOCHS)}
    search = start(stop=rule, trials=7)
    finish(search)
    assert [t.state for t in search.ledger.trials[5:]] == ["finished", "finished"], "the best of all seven"


def test_the_median_rule_and_patience_stop_what_is_no_good(start: Callable[..., Search]) -> None:
    search = start(stop={"median_after": 2}, startup_trials=1)
    numbers = [trial.number for _ in range(6) if (trial := search.next())]
    for number in reversed(numbers):
        run(search, search.ledger[number])
    assert [(t.state, t.last_epoch) for t in search.ledger.trials[:5]] == [("stopped", 2)] * 5

    patient = SweepSpec.model_validate({**spec().model_dump(), "search": {"stop": {"patience": 2}, "trials": 1}})
    search = Search(patient, Ledger(str(Path(search.ledger.folder) / "patient")))
    trial = search.next()
    assert trial
    search.start(0)
    stopped = [search.report(0, {"epoch": e, "val/iou": 0.5 / e}) for e in range(1, 6)]
    assert stopped.index(True) == 3


@pytest.mark.parametrize(
    ("metric", "name", "values", "stopped_after"),
    [
        ("val/iou", "val/iou", (), 4),  # of the score alone
        ("val/iou", "val/iou/crack", (0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5), 8),
        ("val/iou", "val/boundary_iou", (0.1, 0.2, 0.3, 0.3, 0.3, 0.3), 6),
        ("val/iou", "val/worst_group_iou", (0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4), 7),
        ("val/iou", "val/iou/roof", (0.3, 0.4, 0.5, 0.6), 4),  # the better class
        ("val/iou", "val/boundary_iou/crack", (0.1, 0.2, 0.3, 0.4), 4),
        ("val/hausdorff_95", "val/hausdorff_95/crack", (9.0, 8.0, 7.0, 6.0, 6.0, 6.0, 6.0), 7),
        ("val/hausdorff_95", "val/hausdorff_95/crack", (6.0, 7.0, 8.0, 9.0), 4),
    ],
)
def test_patience_holds_on_while_the_worst_class_or_group_or_the_boundary_gets_better(
    tmp_path: Path, metric: str, name: str, values: tuple[float, ...], stopped_after: int
) -> None:
    patient = SweepSpec.model_validate(
        {**spec().model_dump(), "search": {"stop": {"patience": 2}, "trials": 1, "metric": metric}}
    )

    def falling(epoch: int) -> float:
        return 0.9 / epoch if metric == "val/iou" else 1.0 * epoch

    verdicts = []
    for which in range(1, 12):
        search = Search(patient, Ledger(str(tmp_path)))  # killed after each epoch
        if not search.ledger.trials:
            search.next()
        search.start(0)
        at_best = {"val/iou": 0.9, "val/hausdorff_95": 1.0}[metric]
        classes = {f"{metric}/roof": at_best, f"{metric}/crack": 0.1 if metric == "val/iou" else 9.0}
        measured = {name: values[min(which, len(values)) - 1]} if values else {}
        told = {"epoch": which, metric: falling(which), **classes, **measured}
        verdicts.append(search.report(0, told, f"c/{which}"))
        if verdicts[-1]:
            break
    assert len(verdicts) == stopped_after
    assert verdicts[-1]


@pytest.mark.parametrize("rule", [{}, {"top_after": 1, "median_after": 2}])
def test_a_rule_of_early_stopping_is_one(rule: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="`top_after`"):
        spec(stop=rule)


def _said(search: Search) -> list[Any]:
    """What must not depend on where a search was killed."""
    cost = {"spent": True, "of_use": True, "lost": True}
    volatile: Any = {"starts": True, "machine": True, "tracked": True, "epochs": {"__all__": {"at"}}, **cost}
    return [trial.model_dump(exclude=volatile) for trial in search.ledger.trials]
