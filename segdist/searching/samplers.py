"""The samplers: each is made for one trial, from the sweep's seed, the trial's number, and the study.

So a start in between changes no draw: nothing is known but what the ledger has. Optuna's own samplers for TPE, Gaussian
processes and chance are so by themselves; those for CMA-ES and Sobol points keep state in the study, and are ours.
"""

import warnings
from collections.abc import Mapping, Sequence
from math import exp, inf, log
from typing import TYPE_CHECKING

import numpy as np
from optuna import exceptions, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import TrialState
from typing_extensions import override

from segdist.core.spec import SweepSpec
from segdist.sweepfile.grid import conditions_first

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

Values = dict[str, object]
Space = dict[str, BaseDistribution]
Number = FloatDistribution | IntDistribution
_LEARNED_DRAWS = 10
"""After as many refused proposals for one trial, chance decides."""


def sampler_for(spec: SweepSpec, number: int, draw: int = 0) -> samplers.BaseSampler:
    """The sampler that proposes one trial; a grid has none.

    Args:
        spec: the sweep.
        number: of the trial.
        draw: how many proposals for it were refused; after some of them, chance decides.
    """
    search = spec.search
    seed = int(np.random.SeedSequence([search.seed, number, *([draw] if draw else [])]).generate_state(1)[0])
    chance = samplers.RandomSampler(seed=seed)
    if draw > _LEARNED_DRAWS:
        return chance
    if search.sampler == "quasi_random":
        return Sobol(conditions_first(spec.space), seed=search.seed, number=number)
    if search.sampler == "cmaes":
        return Evolution(chance, seed=seed)
    with warnings.catch_warnings():
        # These settings have been "experimental" for years; without TPE's, values are drawn as if independent.
        warnings.simplefilter("ignore", exceptions.ExperimentalWarning)
        if search.sampler == "gp":
            return samplers.GPSampler(
                seed=seed,
                n_startup_trials=search.startup_trials,
                independent_sampler=chance,
                warn_independent_sampling=False,  # a key with a `when` that not all trials have is meant
            )
        if search.sampler == "tpe":
            return samplers.TPESampler(
                seed=seed,
                n_startup_trials=search.startup_trials,
                multivariate=True,
                group=any(r.when for r in spec.space.values()),
                constant_liar=True,  # trials run side by side: do not suggest what is being tried
            )
    return chance


class Sobol(samplers.BaseSampler):
    """The points of one scrambled Sobol sequence (Owen 1998), which fill the space more evenly than chance.

    Each key has a coordinate of its own, also where its `when` does not hold: so a space with conditions is filled too.

    Args:
        keys: all that are searched.
        seed: of the sequence.
        number: of the trial, its place in the sequence.
    """

    def __init__(self, keys: Sequence[str], *, seed: int, number: int) -> None:
        from scipy.stats import qmc  # 0.3 s

        engine = qmc.Sobol(len(keys), rng=seed)
        if number:
            engine.fast_forward(number)
        self._point = dict(zip(keys, engine.random(1)[0], strict=True))

    @override
    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> Space:
        """None: each key is asked for alone."""
        return {}

    @override
    def sample_relative(self, study: "Study", trial: "FrozenTrial", search_space: Space) -> Values:
        """Nothing."""
        return {}

    @override
    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """The value at the key's coordinate."""
        place = float(self._point[param_name])
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[int(place * len(param_distribution.choices))]
        assert isinstance(param_distribution, Number)
        return _value_at(place, param_distribution)


class Evolution(samplers.BaseSampler):
    """CMA-ES (Hansen and Ostermeier 2001) over the numbers that all trials have; other keys are left to chance.

    The generations are played again from the study at each draw: its trials in their order, ranked, a population at a
    time. A trial that was stopped counts with what it had reached, one that breaks a constraint after all others,
    also where memory did not hold it and it has no score.

    Args:
        chance: for the other keys, and before anything is known.
        seed: of this draw.
    """

    def __init__(self, chance: samplers.BaseSampler, *, seed: int) -> None:
        self._chance, self._seed = chance, seed

    @override
    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> Space:
        """The numbers that every trial had."""
        found = intersection_search_space(study.get_trials(deepcopy=False, states=_ENDED))
        return {key: one for key, one in sorted(found.items()) if isinstance(one, Number) and not one.single()}

    @override
    def sample_relative(self, study: "Study", trial: "FrozenTrial", search_space: Space) -> Values:
        """Their values in the next trial."""
        from cmaes import CMA

        space = {key: one for key, one in search_space.items() if isinstance(one, Number)}
        if not space:
            return {}
        bounds = np.tile([0.0, 1.0], (len(space), 1))
        cma = CMA(mean=np.full(len(space), 0.5), sigma=1 / 6, bounds=bounds, seed=self._seed)  # as Optuna begins
        told = [t for t in study.get_trials(deepcopy=False, states=_ENDED) if t.value is not None or _broken(t)]
        size = cma.population_size
        for start in range(0, len(told) - size + 1, size):
            ranked = sorted(told[start : start + size], key=lambda t: _badness(t, study.direction))
            cma.tell([(_point(one.params, space), float(rank)) for rank, one in enumerate(ranked)])
        cma.reseed_rng(self._seed)
        return {key: _value_at(float(place), one) for (key, one), place in zip(space.items(), cma.ask(), strict=True)}

    @override
    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """By chance."""
        return self._chance.sample_independent(study, trial, param_name, param_distribution)


_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def _badness(trial: "FrozenTrial", direction: StudyDirection) -> tuple[float, float]:
    if trial.value is None:
        return _broken(trial), inf
    return _broken(trial), trial.value if direction == StudyDirection.MINIMIZE else -trial.value


def _broken(trial: "FrozenTrial") -> float:
    """By how much constraints are broken, together."""
    return sum(max(by, 0.0) for by in trial.constraints.values())


def _point(values: Mapping[str, float], space: Mapping[str, Number]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.array([_place_of(values[key], one) for key, one in space.items()])


def _bounds(one: Number) -> tuple[float, float]:
    """Of the numbers, with half a step at either end, so that each step has the same room; logarithms where asked."""
    half = (one.step or 0) / 2
    low, high = one.low - half, one.high + half
    return (log(low), log(high)) if one.log else (low, high)


def _place_of(value: float, one: Number) -> float:
    low, high = _bounds(one)
    return ((log(value) if one.log else value) - low) / (high - low)


def _value_at(place: float, one: Number) -> float:
    """The number at a place from 0 to 1."""
    low, high = _bounds(one)
    value = low + place * (high - low)
    value = exp(value) if one.log else value
    if one.step:
        value = one.low + round((value - one.low) / one.step) * one.step
    value = min(max(value, one.low), one.high)
    return int(value) if isinstance(one, IntDistribution) else value
