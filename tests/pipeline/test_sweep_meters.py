"""What the driver tells Prometheus of a sweep: states, scores, what was in vain, how far MLflow is behind."""

import time
from pathlib import Path
from typing import Any, get_args

import pytest

from segdist.engine.pace import Part, Work
from segdist.pipeline import meters, sweep_meters, trial_meters
from segdist.pipeline.measures import MEASURES, Teller, measure
from segdist.pipeline.meters import Gauges, gauges
from segdist.pipeline.sweep_meters import SweepMeters
from segdist.searching import Ledger, Search, Trial
from segdist.searching.budget import Meter
from segdist.searching.cost import Held
from segdist.searching.ledger import Epoch
from tests.searching.sweeps import sweep


class Behind:
    """Stands for MLflow's recording, which has been away since a minute."""

    spool, told_at = 3, 1_000.0


Shown = dict[tuple[str, frozenset[str]], float]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    """What counters were told."""
    heard: list[tuple[str, float, dict[str, str]]] = []

    def count(name: str, amount: float = 1.0, **labels: str) -> None:
        heard.append((name, amount, labels))

    for module in (meters, sweep_meters, trial_meters):
        monkeypatch.setattr(module, "count", count)
    return heard


def shown_by(told: SweepMeters) -> Shown:
    shown = Gauges()
    told._look(shown)
    return {(name, frozenset(v for _, v in labels)): value for (name, labels), value in shown._values.items()}


def test_the_ledger_is_what_is_told(tmp_path: Path, counted: list[Any]) -> None:
    spec = sweep(trials=4, asha=None)
    spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"price_per_hour": 2.0})})
    ledger = Ledger(str(tmp_path))
    good = Epoch(epoch=1, metrics={"val/iou": 0.7}, seconds=1.0)
    ledger.write(Trial(number=0, values={}, state="finished", epochs=(good,), spent=Held(cpu_seconds=100)))
    search = Search(spec, ledger)
    ledger.write(Trial(number=1, values={}, state="failed", spent=Held(cpu_seconds=40)))
    ledger.write(Trial(number=2, values={}, state="running", spent=Held(cpu_seconds=20), lost=Held(cpu_seconds=5)))
    now, recording = [50.0], Behind()
    meter = Meter(str(tmp_path / "meter"), clock=lambda: now[0])
    told: Any = SweepMeters(spec, ledger, recording, meter)  # type: ignore[arg-type]  # it stands for one
    before = shown_by(told)
    assert not any(name in ("segdist_best_score", "segdist_first_trial_seconds") for name, _ in before), "unknown yet"
    told.search = search
    told.epoch(0, meter.started_at + 12)
    told.epoch(2, meter.started_at + 10)
    told.epoch(1, float("inf"))
    now[0] += 1800
    found, name = shown_by(told), spec.name

    def value(metric: str, *labels: str) -> float:
        return found[metric, frozenset((name, *labels))]

    assert value("segdist_trials", "finished") == 1
    assert value("segdist_trials", "stopped") == 0
    assert value("segdist_planned_trials") == 4
    assert value("segdist_best_score", "val/iou") == 0.7
    assert value("segdist_compute_seconds", "cpu", "wasted") == 45
    assert value("segdist_compute_seconds", "cpu", "useful") == 115
    assert value("segdist_compute_seconds", "gpu", "useful") == 0
    assert value("segdist_first_trial_seconds") == pytest.approx(10)
    assert value("segdist_tracking_spool_trials") == 3
    assert value("segdist_tracking_told_timestamp_seconds") == 1_000
    assert value("segdist_node_seconds") == 1800
    assert value("segdist_spent_money") == 1.0
    assert [one[0] for one in counted] == ["segdist_epochs"] * 3


def test_counters_of_rare_things_are_there_before_the_first(tmp_path: Path, counted: list[Any]) -> None:
    spec = sweep(trials=1, asha=None)
    told: Any = SweepMeters(spec, Ledger(str(tmp_path)), Behind(), Meter(str(tmp_path / "m")))  # type: ignore[arg-type]
    with told.told():
        first = [*counted]
    name, place = {"sweep": spec.name}, {"sweep": spec.name, "place": "local"}
    assert ("segdist_preemptions", 0, name) in first, "or `increase` would not see it"
    assert ("segdist_epochs", 0, {**name, "family": spec.model.family}) in first
    for cause in ("process", "node", "memory", "other"):
        assert ("segdist_retries", 0, {**name, "cause": cause}) in first
    assert ("segdist_read_bytes", 0, place) in first
    assert {amount for _, amount, _ in first} == {0}


def test_every_counter_of_a_process_is_there_before_it_works(counted: list[Any]) -> None:
    known = {"sweep": "s", "family": "sam", "teacher": "sam", "place": "s3"}
    for teller in get_args(Teller):
        counted.clear()
        meters.begin(teller, **known)
        mine = [one for one in MEASURES if one.kind == "counter" and teller in one.told_by]
        assert {name for name, _, _ in counted} == {one.name for one in mine}
        for name, amount, labels in counted:
            assert (amount, tuple(labels)) == (0, measure(name).labels), name
    counted.clear()
    meters.begin("driver", sweep="s")
    assert {name for name, _, _ in counted} == {"segdist_retries", "segdist_preemptions"}, "what is known is told"


def test_a_trial_is_told_from_its_first_part_on(counted: list[Any]) -> None:
    who = {"sweep": "s", "family": "unet_cbam"}
    with trial_meters.trial_told("s", sweep().run, 3, place="local") as tell:
        before = [*counted]
        tell(Work(steps=2, images=16, seconds={"forward": 0.5}))
    for part in get_args(Part):
        assert ("segdist_step_seconds", 0, {**who, "part": part}) in before
    assert ("segdist_trained_images", 0, who) in before
    assert ("segdist_trained_images", 16, who) in counted
    assert ("segdist_step_seconds", 0.5, {**who, "part": "forward"}) in counted


def test_gauges_are_told_again_and_again_and_no_more_when_the_work_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[Any, float]] = []
    monkeypatch.setattr(meters, "EVERY", 0.01)
    monkeypatch.setattr(Gauges, "tell", lambda self: told.append(dict(self._values)))
    with gauges("s") as shown:
        shown.show("segdist_trial_number", 7, sweep="s")
        shown.show("segdist_best_score", 0.5, sweep="s", metric="val/iou")
        until = time.monotonic() + 20
        while not (told and told[-1]) and time.monotonic() < until:
            time.sleep(0.01)
        shown.show("segdist_best_score", 0.6, sweep="s", metric="val/iou")
    assert set(told[-1].values()) == {7.0, 0.6}
    count = len(told)
    time.sleep(0.1)
    assert len(told) == count
