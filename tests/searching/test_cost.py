"""What trials held is counted over all starts, and what of it came to nothing."""

from pathlib import Path

import pytest

from segdist.core.spec import ResourceSpec, SweepSpec
from segdist.searching import Ledger, Search
from segdist.searching.cost import Cost, Held
from tests.searching.sweeps import sweep


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def begun(spec: SweepSpec, folder: Path, clock: Clock, **resources: float) -> Search:
    asked = spec.model_copy(update={"resources": ResourceSpec.model_validate(resources)})
    return Search(asked, Ledger(str(folder)), clock=clock)


def epoch(search: Search, number: int, clock: Clock, at: int, *, takes: float, saved: bool = True) -> bool:
    clock.now += takes
    return search.report(number, {"epoch": at, "seconds": 1.0, "val/iou": 0.5}, f"place/{at}" if saved else "")


def started(search: Search) -> int:
    trial = search.next()
    assert trial
    search.start(trial.number)
    return trial.number


def test_a_trial_that_ran_through_spends_from_start_to_end_on_all_its_workers(tmp_path: Path) -> None:
    clock = Clock()
    search = begun(sweep(asha=None), tmp_path, clock, workers=2, cpus_per_worker=3, gpus_per_worker=0.5)
    number = started(search)
    epoch(search, number, clock, 1, takes=10)
    epoch(search, number, clock, 2, takes=5)
    clock.now += 1
    search.end(number)
    clock.now += 100  # nobody holds anything
    spent = Held(cpu_seconds=16 * 6, gpu_seconds=16)
    assert Ledger(str(tmp_path)).cost == Cost(spent, Held())


@pytest.mark.parametrize("ends", ["stopped", "failed", "infeasible"])
def test_a_trial_that_came_to_nothing_is_wasted_as_a_whole(tmp_path: Path, ends: str) -> None:
    clock = Clock()
    bounds = {"model/parameters": 5.0} if ends == "infeasible" else {}
    stop = {"top_after": 1, "keep": 1} if ends == "stopped" else None
    search = begun(sweep(trials=2, asha=None, stop=stop, constraints=bounds), tmp_path, clock)
    for worth in (0.9, 0.1):
        number = started(search)
        clock.now += 7
        search.report(number, {"epoch": 1, "val/iou": worth, "model/parameters": 6 - 2 * worth}, "place/1")
        clock.now += 1
        if ends == "failed" and number:
            search.fail(number, "it broke")
        else:
            search.end(number)
    if ends == "stopped":
        assert search.next().number == 0  # type: ignore[union-attr]
    first, second = Ledger(str(tmp_path)).trials
    assert second.state == ends
    assert (first.wasted, second.wasted) == (Held(), Held(cpu_seconds=8))
    assert Ledger(str(tmp_path)).cost == Cost(Held(cpu_seconds=16), Held(cpu_seconds=8))


def test_what_is_done_twice_is_wasted_once_for_each_time_that_it_was_lost(tmp_path: Path) -> None:
    clock = Clock()
    search = begun(sweep(asha=None), tmp_path, clock)
    number = started(search)
    epoch(search, number, clock, 1, takes=10)
    epoch(search, number, clock, 2, takes=10, saved=False)
    clock.now += 3
    search.again(number, "its process died")  # its process died three seconds into epoch 3
    clock.now += 60  # until there is another one
    search.start(number)
    assert search.ledger[number].wasted == Held(cpu_seconds=13)
    clock.now += 4
    search.interrupt(number, "stopped")
    assert search.ledger[number].wasted == Held(cpu_seconds=17)

    clock.now += 1000
    search = begun(sweep(asha=None), tmp_path, clock, cpus_per_worker=2)  # with other resources
    assert started(search) == number
    epoch(search, number, clock, 2, takes=10)
    epoch(search, number, clock, 3, takes=10, saved=False)
    search.end(number)
    assert search.ledger.cost == Cost(Held(cpu_seconds=27 + 40), Held(cpu_seconds=17))


def test_after_a_killed_driver_what_it_had_heard_of_counts(tmp_path: Path) -> None:
    clock = Clock()
    number = started(first := begun(sweep(asha=None), tmp_path, clock))
    epoch(first, number, clock, 1, takes=10)
    epoch(first, number, clock, 2, takes=5, saved=False)
    clock.now = 3.0  # of another boot: the clock began anew
    second = begun(sweep(asha=None), tmp_path, clock)
    assert second.ledger.cost == Cost(Held(cpu_seconds=15), Held(cpu_seconds=5))
    assert started(second) == number
    epoch(second, number, clock, 2, takes=6)
    assert second.ledger.cost == Cost(Held(cpu_seconds=21), Held(cpu_seconds=5))


def test_waiting_for_the_others_wastes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    search = begun(sweep(trials=2, asha=None, stop={"top_after": 1, "keep": 2}), tmp_path, clock)
    for _ in range(2):
        number = started(search)
        epoch(search, number, clock, 1, takes=5)
        clock.now += 1  # until Tune has stopped it
        search.end(number)
    assert [started(search), started(search)] == [0, 1]
    assert search.ledger.cost == Cost(Held(cpu_seconds=12), Held())


def test_a_failed_trial_that_is_tried_again_loses_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    clock = Clock()
    number = started(first := begun(sweep(asha=None), tmp_path, clock))
    epoch(first, number, clock, 1, takes=10)
    clock.now += 2
    first.fail(number, "the disk was full")
    assert first.ledger.cost.wasted == Held(cpu_seconds=12)
    again = begun(sweep(asha=None), tmp_path, clock)
    assert again.ledger.cost == Cost(Held(cpu_seconds=12), Held(cpu_seconds=2))


def test_the_cost_goes_through_mlflow_and_is_said_of_the_dearest_resource() -> None:
    both = Cost(Held(cpu_seconds=4000, gpu_seconds=1000), Held(cpu_seconds=400, gpu_seconds=250))
    assert both.metrics == {
        "spent/gpu_seconds": 1000,
        "wasted/gpu_seconds": 250,
        "spent/cpu_seconds": 4000,
        "wasted/cpu_seconds": 400,
    }
    assert Cost.from_metrics({**both.metrics, "other": 1}) == both
    assert str(both).startswith("1,000 GPU-seconds, of which 250 (25 %) on trials that were stopped, failed")
    cpu = Cost(Held(cpu_seconds=3), Held())
    assert cpu.metrics == {"spent/cpu_seconds": 3, "wasted/cpu_seconds": 0}
    assert str(cpu).startswith("3 CPU-seconds, of which 0 (0 %)")
    assert str(Cost(Held(), Held())) == ""
    assert Cost.from_metrics({}).metrics == {}


def test_a_trial_that_left_its_node_in_time_has_lost_nothing_and_is_the_next(tmp_path: Path) -> None:
    clock = Clock()
    search = begun(sweep(trials=3, asha=None), tmp_path, clock)
    number = started(search)
    epoch(search, number, clock, 1, takes=10)
    clock.now += 7
    assert search.moved(number, "its node leaves").state == "waiting"
    trial = search.next()
    assert trial
    assert (trial.number, trial.reason, trial.last_epoch) == (number, "its node leaves", 1)
    assert (trial.spent.cpu_seconds, trial.lost.cpu_seconds) == (17, 0)
    search.start(number)
    clock.now += 5
    assert search.again(number, "killed").lost.cpu_seconds == 5, "what was done since is"
