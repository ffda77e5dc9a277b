"""A search for several things at once: what Optuna is told, and what early stopping goes by."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from segdist.core.errors import SpecError
from segdist.core.spec import SweepSpec
from segdist.searching import Ledger, Search
from segdist.searching.samplers import sampler_for
from segdist.sweepfile.loading import load
from segdist.sweepfile.objectives import is_minimised
from tests.searching.sweeps import begun, sweep

STATES = optuna.trial.TrialState
WIDTH = {"model.unet_cbam.width": {"low": 4, "high": 32, "step": 4}}


def costly(*objectives: str, **search: Any) -> SweepSpec:
    return sweep(space=WIDTH, objectives=list(objectives or ("model/bytes",)), **search)


def run(search: Search, *, most: int = 100, epochs: int = 4, known: bool = True) -> None:
    """A wider model scores higher, and is larger."""
    while most and (trial := search.next()):
        most -= 1
        search.start(trial.number)
        width, dice = trial.values["model.unet_cbam.width"], trial.values["train.loss.dice"]
        for epoch in range(1, epochs + 1):
            told = {"epoch": epoch, "val/iou": width / 32 * (1 - (dice - 1) ** 2) * (1 - 0.5**epoch)}
            sizes = {"model/bytes": 1000.0 * width} if known else {}
            if search.report(trial.number, {**told, **sizes}, f"place/{trial.number}/{epoch}"):
                break
        search.end(trial.number)


def told(search: Search) -> list[Any]:
    return [(t.state, t.values) for t in search._proposals._study.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi_random", pytest.param("gp", marks=pytest.mark.slow)])
def test_optuna_is_told_all_objectives_of_each_trial_and_starts_in_between_change_nothing(
    tmp_path: Path, sampler: str
) -> None:
    spec = costly(trials=12, sampler=sampler, constraints={"model/bytes": 24e3})
    run(begun(spec, tmp_path / "whole"))
    for most in (1, 2, 4, 100):
        run(begun(spec, tmp_path / "parts"), most=most)
    whole, parts = (begun(spec, tmp_path / name) for name in ("whole", "parts"))
    volatile = {"epochs", "starts", "machine", "spent", "lost", "of_use", "slots"}
    assert [t.model_dump(exclude=volatile) for t in whole.ledger.trials] == [
        t.model_dump(exclude=volatile) for t in parts.ledger.trials
    ]
    study = whole._proposals._study
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert told(whole) == told(parts)
    best = {
        t.number: (max(t.scores("val/iou")), 1000.0 * t.values["model.unet_cbam.width"]) for t in whole.ledger.trials
    }
    assert told(whole) == [(STATES.COMPLETE, list(best[n])) for n in range(12)]
    assert {t.state for t in whole.ledger.trials} >= {"stopped", "finished"}, (
        "stopped ones count with what they reached"
    )
    assert all(t.constraints == {"model/bytes": t.values[1] - 24e3} for t in study.trials)


def test_early_stopping_goes_by_the_metric_as_it_does_without_further_objectives(tmp_path: Path) -> None:
    ends = []
    for name, objectives in (("one", []), ("several", ["model/bytes", "val/dice"])):
        spec = sweep(space=WIDTH, sampler="random", trials=10, objectives=objectives)
        run(begun(spec, tmp_path / name), most=6)
        run(begun(spec, tmp_path / name))
        ends.append([(t.values, t.state, t.last_epoch) for t in Ledger(str(tmp_path / name)).trials])
    assert ends[0] == ends[1]
    assert {state for _, state, _ in ends[0]} == {"stopped", "finished"}


def test_a_trial_of_which_an_objective_is_not_known_tells_the_sampler_nothing(tmp_path: Path) -> None:
    spec = costly(trials=3, asha=None)
    search = begun(spec, tmp_path)
    run(search, most=1)
    run(search, most=1, known=False)
    trial = search.next()
    assert trial
    search.start(trial.number)
    search.fail(trial.number, "no memory")
    assert [state for state, _ in told(search)] == [STATES.COMPLETE, STATES.FAIL, STATES.FAIL]
    assert search.best == max(s for t in search.ledger.trials for s in t.scores("val/iou")), "the metric alone decides"


def test_a_trial_that_diverged_before_its_model_was_measured_tells_the_sampler_to_keep_away(tmp_path: Path) -> None:
    search = begun(costly(trials=6, asha=None, startup_trials=2), tmp_path)
    trial = search.next()
    assert trial
    search.start(trial.number)
    search.report(trial.number, {"epoch": 1, "val/iou": 0.0, "diverged": 1.0})
    search.end(trial.number)
    run(search)
    assert [state for state, _ in told(search)] == [STATES.PRUNED] + [STATES.COMPLETE] * 5
    assert told(begun(costly(trials=6, asha=None), tmp_path)) == told(search)


def test_objectives_may_come_and_go_between_two_starts(tmp_path: Path) -> None:
    run(begun(sweep(space=WIDTH, trials=4, asha=None), tmp_path))
    run(begun(costly("model/bytes", trials=6, asha=None), tmp_path))
    assert len(told(begun(costly("model/bytes", trials=6, asha=None), tmp_path))) == 6
    search = begun(sweep(space=WIDTH, trials=8, asha=None), tmp_path)
    run(search)
    assert [state for state, _ in told(search)] == [STATES.COMPLETE] * 8


def test_the_sampler_finds_small_models_too_which_one_that_knows_the_score_alone_does_not(tmp_path: Path) -> None:
    """Over a made-up score that only large models have; the share of small ones among what is suggested last."""
    small: dict[str, list[float]] = {"one": [], "two": []}
    for seed in range(3):
        for name, objectives in (("one", []), ("two", ["model/bytes"])):
            spec = sweep(space=WIDTH, objectives=objectives, trials=24, asha=None, seed=seed)
            search = begun(spec, tmp_path / f"{name}-{seed}")
            run(search, epochs=1)
            widths = [t.values["model.unet_cbam.width"] for t in search.ledger.trials[12:]]
            small[name].append(float(np.mean([width <= 12 for width in widths])))
    assert np.mean(small["two"]) > 0.2
    assert np.mean(small["one"]) < 0.5 * np.mean(small["two"])


def test_every_sampler_that_is_not_refused_proposes_for_several_objectives(tmp_path: Path) -> None:
    search = begun(costly(trials=2), tmp_path)
    run(search)
    seen = []
    for sampler in ("tpe", "random", "quasi_random"):
        study = search._proposals._study
        study.sampler = sampler_for(costly(trials=9, sampler=sampler, startup_trials=1), 2)
        trial = study.ask()
        search._proposals._space(trial)
        seen.append(trial.params.keys())
    assert all(len(keys) == 3 for keys in seen)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("name", "lower"),
    [("model/bytes", True), ("runtime/latency_p95_ms", True), ("val/iou", False), ("val/hausdorff_95/crack", True)],
)
def test_which_way_is_better_is_known_of_costs_and_metrics(name: str, *, lower: bool) -> None:
    assert is_minimised(name) is lower


SWEEP = """
name: s
storage: {folder}
data: {{sources: [{{format: synthetic}}]}}
model: {{family: unet_cbam}}
space: {{train.lr: [0.1, 0.01]}}
search: {{trials: 4, {search}}}
"""


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            "objectives: [model/byte]",
            r"s\.yaml:\d+: search\.objectives\.0: there is no metric .* Did you mean `model/bytes`",
        ),
        (
            "objectives: [model/bytes, val/hausdorff_95]",
            r"objectives\.1: .* Set evaluate\.each_epoch: \[iou, dice, haus",
        ),
        ("objectives: [val/iou]", "must be others than `metric`, each once, but val/iou stands twice"),
        ("objectives: [model/bytes, model/bytes]", "but model/bytes stands twice"),
        ("objectives: [seconds]", "there is no metric `seconds`"),
        ("objectives: [test/iou]", "there is no metric `test/iou`"),
        ("objectives: [model/bytes], sampler: cmaes", "`cmaes` knows one objective alone. Take `tpe` or `gp`"),
        ("metric: model/bytes", "there is no metric `model/bytes`"),
    ],
)
def test_what_cannot_be_an_objective_is_named_with_what_to_do(tmp_path: Path, search: str, said: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SWEEP.format(folder=tmp_path, search=search))
    with pytest.raises(SpecError, match=said):
        load(file)


def test_objectives_are_costs_and_what_each_epoch_measures(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SWEEP.format(folder=tmp_path, search="objectives: [runtime/latency_p50_ms, val/dice/crack]"))
    spec = load(file)
    assert spec.search.objectives == ("runtime/latency_p50_ms", "val/dice/crack")
    assert spec.sweep_fingerprint == load(file, ["search.objectives=[]"]).sweep_fingerprint
