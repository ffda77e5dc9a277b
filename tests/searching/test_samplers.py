"""Which points a search tries: as many as there are, each once, listed ones first, and near what was good."""

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from pydantic import ValidationError
from scipy.stats import qmc

from segdist.core import extras
from segdist.core.errors import SpecError
from segdist.core.spec import SearchSpec, SweepSpec
from segdist.searching import Ledger
from segdist.searching.samplers import Evolution
from segdist.searching.space import baseline
from segdist.sweepfile import grid
from segdist.sweepfile.loading import load
from tests.searching.sweeps import begun, run, sweep

GRID = {
    "train.lr": {"low": 1e-3, "high": 3e-3, "step": 1e-3},
    "train.loss.dice": [0.5, 1.0],
    "train.epochs": {"low": 1, "high": 3, "when": {"train.loss.dice": 1.0}},
}
POINTS = 3 + 3 * 3


def counted(**search: object) -> SweepSpec:
    return sweep(space=GRID, sampler="grid", asha=None, **search)


def test_a_grid_tries_every_point_once_and_ends_where_the_budget_is_larger(tmp_path: Path) -> None:
    spec = counted(trials=50)
    for most in (1, 4, 100):
        run(begun(spec, tmp_path), most=most)
    search = begun(spec, tmp_path)
    assert search.is_done
    assert search.next() is None
    tried = [t.values for t in search.ledger.trials]
    assert len(tried) == POINTS == search.total == grid.count(spec.space)
    wanted: set[tuple[float, float, int | None]] = {(lr, 0.5, None) for lr in (1e-3, 2e-3, 3e-3)}
    wanted |= {(lr, 1.0, epochs) for lr in (1e-3, 2e-3, 3e-3) for epochs in (1, 2, 3)}
    found = {(round(v["train.lr"], 9), v["train.loss.dice"], v.get("train.epochs")) for v in tried}
    assert found == wanted
    assert tried[0] == baseline(spec)


def test_a_grid_goes_on_where_its_values_became_more(tmp_path: Path) -> None:
    run(begun(counted(trials=50), tmp_path))
    wider = sweep(space={**GRID, "train.loss.dice": [0.5, 1.0, 2.0]}, sampler="grid", asha=None, trials=50)
    assert len(run(begun(wider, tmp_path))) == 3
    assert {t.values["train.loss.dice"] for t in Ledger(str(tmp_path)).trials[POINTS:]} == {2.0}


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi_random", "cmaes", "gp"])
def test_no_sampler_tries_the_same_values_twice_while_others_are_left(tmp_path: Path, sampler: str) -> None:
    few = {"train.lr": [1e-3, 2e-3], "train.loss.dice": [0.5, 1.0, 1.5, 2.0]}
    spec = sweep(space=few, sampler=sampler, trials=8, asha=None)
    run(begun(spec, tmp_path / "whole"))
    whole = [trial.values for trial in Ledger(str(tmp_path / "whole")).trials]
    assert len({tuple(sorted(values.items())) for values in whole}) == 8
    for most in (6, 1, 100):
        run(begun(spec, tmp_path / "parts"), most=most)
    assert [trial.values for trial in Ledger(str(tmp_path / "parts")).trials] == whole
    assert run(begun(sweep(space=few, sampler=sampler, trials=9, asha=None), tmp_path / "whole")) == [8]


def test_listed_points_come_before_the_sampler_and_those_that_are_listed_later_before_it_goes_on(
    tmp_path: Path,
) -> None:
    run(begun(sweep(trials=3, points=[{"train.loss.dice": 1.75}]), tmp_path))
    run(
        begun(sweep(trials=6, points=[{"train.loss.dice": 1.75}, {"train.lr": 5e-3, "train.loss.dice": 0.6}]), tmp_path)
    )
    values = [t.values for t in Ledger(str(tmp_path)).trials]
    assert values[1] == {"train.loss.dice": 1.75, "train.lr": 1e-3}, "what it leaves out has the file's own value"
    assert values[3] == {"train.loss.dice": 0.6, "train.lr": 5e-3}
    assert len({tuple(sorted(v.items())) for v in values}) == 6


@pytest.mark.parametrize(
    ("point", "rule"),
    [
        ({"train.weight_decay": 0.1}, "train.weight_decay is not a key of `space`"),
        ({"train.lr": 5e-4}, "train.lr cannot be 0.0005"),
        ({"train.lr": 1.5e-3}, "train.lr cannot be 0.0015"),
        ({"train.loss.dice": 0.7}, "train.loss.dice cannot be 0.7"),
        ({"train.epochs": 2.5}, "train.epochs cannot be 2.5"),
        ({"train.epochs": True, "train.loss.dice": 1.0}, "train.epochs cannot be True"),
        ({"train.epochs": 2}, "only where the point also says train.loss.dice: 1.0"),
    ],
)
def test_a_point_that_the_space_does_not_hold_is_refused(point: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        counted(trials=20, points=[point])


def test_more_points_than_trials_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be at least 3, for the file's own values"):
        sweep(trials=2, points=[{"train.lr": 1e-3}, {"train.lr": 2e-3}])


def test_quasi_random_trials_are_the_points_of_a_sobol_sequence_also_with_conditions(tmp_path: Path) -> None:
    space = {"train.epochs": {"low": 1, "high": 4, "when": {"train.loss.focal": "b"}}, "train.loss.focal": ["a", "b"]}
    run(begun(sweep(space=space, sampler="quasi_random", asha=None, trials=17, seed=3), tmp_path), epochs=1)
    trials = Ledger(str(tmp_path)).trials[1:]
    keys = grid.conditions_first(sweep(space=space).space)
    expected = qmc.Sobol(4, rng=3).random(32)[1:17]
    assert len(trials) == 16
    for trial, point in zip(trials, expected, strict=True):
        place = dict(zip(keys, point, strict=True))
        values = trial.values
        assert values["train.loss.dice"] == pytest.approx(0.5 + 1.5 * place["train.loss.dice"])
        assert values["train.lr"] == pytest.approx(10 ** (-4 + 2 * place["train.lr"]))
        assert values["train.loss.focal"] == "ab"[int(2 * place["train.loss.focal"])]
        if values["train.loss.focal"] == "b":
            assert values["train.epochs"] == min(4, max(1, round(0.5 + 4 * place["train.epochs"])))
        else:
            assert "train.epochs" not in values


def test_evolution_comes_nearer_to_the_best_generation_by_generation(tmp_path: Path) -> None:
    spec = sweep(sampler="cmaes", asha=None, trials=60)
    search = begun(spec, tmp_path)
    while trial := search.next():
        search.start(trial.number)
        lr, dice = np.log10(trial.values["train.lr"]), trial.values["train.loss.dice"]
        search.report(trial.number, {"epoch": 1, "val/iou": 1 - (lr + 2.2) ** 2 - (dice - 1.8) ** 2})
        search.end(trial.number)
    far = [
        abs(np.log10(t.values["train.lr"]) + 2.2) + abs(t.values["train.loss.dice"] - 1.8) for t in search.ledger.trials
    ]
    assert np.mean(far[-12:]) < 0.25 * np.mean(far[:12])


SWEEP = """
name: s
storage: {folder}
data: {{sources: [{{format: synthetic}}]}}
model: {{family: unet_cbam}}
space: {space}
search: {{sampler: {sampler}, trials: {trials}}}
"""


@pytest.mark.parametrize(
    ("space", "trials", "said"),
    [
        ("{train.lr: {low: 0.001, high: 0.01}}", 10, "Give it a `step`, or list its values"),
        ("{train.epochs: {low: 1, high: 12}}", 10, "the grid has 12 points, but `search.trials` is 10"),
        ("{train.epochs: {low: 1, high: 1000000}}", 10, "at least 100000 points"),
    ],
)
def test_a_grid_that_cannot_be_finished_is_named_with_what_to_do(
    tmp_path: Path, space: str, trials: int, said: str
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SWEEP.format(folder=tmp_path, space=space, sampler="grid", trials=trials))
    with pytest.raises(SpecError, match=said) as error:
        load(file)
    assert "s.yaml:" in str(error.value)


def test_a_grid_that_fits_and_a_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.yaml"
    small = "{train.epochs: {low: 1, high: 12}, train.lr: {low: 0.001, high: 0.002, step: 0.001}}"
    file.write_text(SWEEP.format(folder=tmp_path, space=small, sampler="grid", trials=24))
    assert load(file).search.trials == 24
    file.write_text(SWEEP.format(folder=tmp_path, space=small, sampler="cmaes", trials=24))
    monkeypatch.setattr(extras, "missing", lambda extra: [extra] if extra == "cmaes" else [])
    with pytest.raises(SpecError, match=r"pip install 'segdist\[cmaes\]'"):
        load(file)


@pytest.mark.parametrize("name", ["val/iou", "runtime/peak_memory_mb", "val/hausdorff_95", "seconds", "size"])
def test_what_no_trial_measures_cannot_be_bounded(tmp_path: Path, name: str) -> None:
    file = tmp_path / "s.yaml"
    text = SWEEP.format(folder=tmp_path, space="{train.lr: [0.1]}", sampler="random", trials=2)
    file.write_text(text.replace("sampler:", f"constraints: {{{name}: 3}}, sampler:"))
    with pytest.raises(SpecError, match="These can: model/parameters, model/bytes, runtime/latency_p50_ms"):
        load(file)
    if name.startswith("val/h"):
        assert load(file, ["evaluate.each_epoch=[iou,hausdorff_95]"]).search.constraints == {name: 3}


def test_every_sampler_is_known_by_its_name() -> None:
    names = SearchSpec.model_json_schema()["properties"]["sampler"]["enum"]
    assert sorted(names) == ["cmaes", "gp", "grid", "quasi_random", "random", "tpe"]


def test_cmaes_keeps_away_from_where_memory_did_not_hold_a_trial_that_has_no_score() -> None:
    """The larger the better, until memory does not hold it."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(60):
        trial = study.ask()
        size = trial.suggest_float("a", 0.0, 1.0)
        trial.suggest_float("b", 0.0, 1.0)
        if size > 0.6:
            trial.set_constraint("memory", 1.0)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, size)
    drawn = []
    for seed in range(20):
        study.sampler = Evolution(optuna.samplers.RandomSampler(seed=seed), seed=seed)
        drawn.append(study.ask({"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(0.0, 1.0)}).params["a"])
    assert np.mean([size > 0.6 for size in drawn]) < 0.25  # without what was lost 0.45
