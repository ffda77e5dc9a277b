"""A budget bounds a sweep over all its starts: it ends in order, and a larger one goes on."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from segdist.core.errors import SpecError
from segdist.core.spec import SweepSpec
from segdist.searching import Ledger, Search
from segdist.searching.budget import Budget, Meter, Still, metered
from segdist.searching.forecast import Pace, forecast
from tests.searching.sweeps import sweep

HOUR = 3600.0
EPOCH = 360.0


def costed(resources: dict[str, float] | None = None, *, trials: int = 8, **budget: float) -> SweepSpec:
    """A sweep of trials of nine epochs, without early stopping, and with a budget."""
    plain = sweep(trials=trials, asha=None).model_dump()
    plain["resources"] |= resources or {}
    plain["search"]["budget"] = budget or None
    return SweepSpec.model_validate(plain)


def begun(spec: SweepSpec, folder: Path, time: Still) -> Search:
    budget = Budget(spec, time) if spec.search.budget else None
    return Search(spec, Ledger(str(folder)), clock=lambda: time.seconds, budget=budget)


def run(search: Search, time: Still, *, save_every: int = 1) -> None:
    """Run trials one after the other, each epoch a tenth of an hour, until the search has no more."""
    while trial := search.next():
        search.start(trial.number)
        for epoch in range(trial.from_latest().last_epoch + 1, 10):
            time.seconds += EPOCH
            time.node_seconds += EPOCH * time.nodes
            saved = f"place/{epoch}" if epoch % save_every == 0 or epoch == 9 else ""
            told = {"epoch": epoch, "seconds": EPOCH, "val/iou": 0.1 * epoch}
            if search.report(trial.number, told, checkpoint=saved):
                break
        search.end(trial.number)


def endings(folder: Path) -> list[tuple[str, str, int]]:
    return [(t.state, t.reason, t.last_epoch) for t in Ledger(str(folder)).trials]


def test_a_trial_that_runs_when_the_budget_is_spent_ends_with_its_model_and_none_starts_after_it(
    tmp_path: Path,
) -> None:
    spec, time = costed(hours=0.45), Still()
    search = begun(spec, tmp_path, time)
    run(search, time)
    assert endings(tmp_path) == [("stopped", "budget", 5)]
    assert search.is_done
    assert search.was_cut_off
    assert Ledger(str(tmp_path)).trials[0].best is not None
    assert search.budget_said == "0.5 of 0.45 h"


def test_a_trial_that_cannot_end_within_the_rest_is_not_started(tmp_path: Path) -> None:
    spec, time = costed(hours=2.5), Still()
    search = begun(spec, tmp_path, time)
    run(search, time)
    assert endings(tmp_path) == [("finished", "", 9)] * 2, "the rest is 0.7 hours, a trial takes 0.9"
    assert len(Ledger(str(tmp_path)).trials) == 2, "no other was suggested"
    assert search.is_cut_off


@pytest.mark.parametrize(
    ("resources", "budget"),
    [
        ({}, {"hours": 1.3}),
        ({"gpus_per_worker": 0.5, "workers": 2}, {"gpu_hours": 1.3}),
        ({"price_per_hour": 10.0}, {"money": 26.0}),  # two nodes
    ],
)
def test_time_gpus_and_money_bound_alike_and_a_larger_budget_goes_on_where_the_smaller_ended(
    tmp_path: Path, resources: dict[str, float], budget: dict[str, float]
) -> None:
    time = Still(nodes=2)
    spec = costed(resources, trials=2, **budget)
    run(begun(spec, tmp_path, time), time)
    assert endings(tmp_path) == [("finished", "", 9)], "the second would end after 1.8"
    again = begun(spec, tmp_path, time)
    assert again.is_done
    assert again.next() is None

    larger = {key: value * 2 for key, value in budget.items()}
    run(begun(costed(resources, trials=2, **larger), tmp_path, time), time)
    assert endings(tmp_path) == [("finished", "", 9)] * 2


def test_a_trial_that_was_cut_off_goes_on_from_its_checkpoint_with_a_larger_budget_or_none(tmp_path: Path) -> None:
    time = Still()
    run(begun(costed(hours=0.35, trials=1), tmp_path, time), time)
    assert endings(tmp_path) == [("stopped", "budget", 4)]
    cut_off = Ledger(str(tmp_path)).trials[0]
    assert cut_off.wasted.cpu_seconds == 0, "nothing of it was in vain"
    same = begun(costed(hours=0.35, trials=1), tmp_path, time)
    assert same.next() is None
    assert endings(tmp_path) == [("stopped", "budget", 4)]

    run(begun(costed(trials=1), tmp_path, time), time)
    assert endings(tmp_path) == [("finished", "", 9)]
    assert Ledger(str(tmp_path)).trials[0].spent.cpu_seconds == pytest.approx(9 * EPOCH)


def test_a_trial_runs_on_to_its_first_checkpoint_and_one_in_its_last_epoch_is_finished(tmp_path: Path) -> None:
    time = Still()
    run(begun(costed(hours=0.15), tmp_path / "a", time), time, save_every=4)
    assert endings(tmp_path / "a") == [("stopped", "budget", 4)]
    time = Still()
    run(begun(costed(hours=0.9), tmp_path / "b", time), time)
    assert endings(tmp_path / "b") == [("finished", "", 9)]


def test_what_waits_with_a_model_ends_with_it_when_the_budget_is_spent(tmp_path: Path) -> None:
    time = Still()
    first = begun(costed(), tmp_path, time)
    trial = first.next()
    assert trial
    first.start(trial.number)
    first.report(trial.number, {"epoch": 1, "seconds": EPOCH, "val/iou": 0.1}, checkpoint="place/1")
    first.interrupt(trial.number, "stopped; runs on when the sweep does")
    time.seconds = HOUR
    search = begun(costed(hours=1), tmp_path, time)
    assert search.is_done
    assert endings(tmp_path) == [("stopped", "budget", 1)]


def test_nobody_learns_from_a_trial_that_was_cut_off_that_it_was_no_good(tmp_path: Path) -> None:
    time = Still()
    search = begun(costed(hours=0.15), tmp_path, time)
    run(search, time)
    states = [trial.state.name for trial in search._proposals._study.trials]
    assert states == ["RUNNING"]


def test_the_time_of_all_starts_is_kept_in_the_folder(tmp_path: Path) -> None:
    now = 100.0
    first = Meter(str(tmp_path), clock=lambda: now)
    now = 130.0
    first.nodes = 3
    assert first.node_seconds == 30, "one node until now"
    now = 140.0
    first.write()
    assert (first.seconds, first.node_seconds) == (40, 60)
    second = Meter(str(tmp_path), clock=lambda: now)
    now = 145.0
    assert (second.seconds, second.node_seconds) == (45, 65)
    with metered(str(tmp_path)) as third:
        assert third.seconds >= 40, "the second was killed before it wrote"


@pytest.mark.parametrize(
    ("resources", "budget", "message"),
    [
        ({}, {"money": 5}, "needs `resources.price_per_hour`"),
        ({"gpus_per_worker": 0}, {"gpu_hours": 5}, "bounds nothing where trials hold no GPU"),
        ({}, {"hours": 0}, "greater than 0"),
        ({}, {"days": 1}, "Extra inputs"),
        ({"price_per_hour": -1}, {"money": 5}, "greater than 0"),
    ],
)
def test_a_budget_that_cannot_be_counted_is_refused_with_the_fix(
    resources: dict[str, float], budget: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        costed(resources, **budget)
    with pytest.raises(ValidationError, match="one of `hours`, `gpu_hours` and `money`"):
        sweep(budget={})


def test_a_budget_smaller_than_one_trial_is_refused_with_one_that_is_not() -> None:
    with pytest.raises(SpecError, match=r"search\.budget\.hours` is 0\.5: raise it to at least 0\.9"):
        Budget(costed(hours=0.5), Still()).check(0.9 * HOUR)
    with pytest.raises(SpecError, match=r"search\.budget\.money` is 100: raise it to at least 180"):
        Budget(costed({"price_per_hour": 100.0}, money=100), Still(nodes=2)).check(0.9 * HOUR)
    Budget(costed(hours=0.9), Still()).check(0.9 * HOUR)


def test_a_search_that_is_played_in_advance_ends_with_its_budget() -> None:
    played = forecast(costed(hours=2.5), at_once=1, pace=lambda _: Pace(0.0, EPOCH), begun=EPOCH)
    assert played.trials == 2
    assert played.seconds == pytest.approx(18 * EPOCH)
