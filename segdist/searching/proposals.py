"""Optuna behind ask and tell: a study in memory that is made anew from the ledger at each start."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from segdist.core.spec import SweepSpec, digest
from segdist.searching.ledger import Trial
from segdist.searching.memory import Sizes
from segdist.searching.space import Space, baseline, can_tell, first_trials
from segdist.searching.stopping import pruner_of
from segdist.searching.warm_start import Earlier, Prior
from segdist.sweepfile.grid import points
from segdist.sweepfile.objectives import is_minimised, objectives_of

if TYPE_CHECKING:
    import optuna

_DRAWS = 20
"""Times that a sampler is asked for one trial while it gives what was tried already or memory is not likely to hold;
the later ones are by chance."""


@dataclass(frozen=True)
class _Running:
    """A trial in the study that proposes, and in that which stops trials early; mostly these are one."""

    proposed: "optuna.Trial"
    judged: "optuna.Trial"


class Proposals:
    """What has been tried, and what to try next.

    Args:
        spec: the sweep: its space, and how it is searched.
        trials: those of the search in the ledger, by number.
        earlier: those of other sweeps that it begins from, the best first.
    """

    def __init__(self, spec: SweepSpec, trials: Sequence[Trial], earlier: Sequence[Earlier] = ()) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # a value outside a narrowed range is meant
        self._optuna, self._spec = optuna, spec
        self._space = Space(dict(spec.space))
        self._sizes = Sizes(spec.space)
        self._first = first_trials(spec) if spec.space else [{}]
        self._tried = {digest(trial.values): trial.values for trial in trials}
        self._grid = self._untried() if spec.space and spec.search.sampler == "grid" else None
        self._prior = Prior(spec, earlier)
        self._scores: dict[str, float] = {}
        self._untuned = digest(next((t.values for t in trials if t.is_baseline), self._first[0]))
        self._metric = spec.search.metric
        self._best = min if is_minimised(self._metric) else max
        self._objectives = objectives_of(spec)
        self._numbers = {trial.number for trial in trials}
        self._running: dict[int, _Running] = {}
        self._told: dict[int, int] = {}
        self._study = self._made(self._objectives)
        self._judging = self._study
        if spec.search.objectives:  # of several Optuna stops no trial
            self._judging = self._made((self._metric,))
        for trial in trials:
            self._replay(trial)

    @property
    def left(self) -> float:
        """New trials that `ask` can give: a grid comes to its end."""
        return inf if self._grid is None else sum(1 for _ in self._untried())

    def ask(self, number: int, waiting: Collection[int] = ()) -> dict[str, Any]:
        """The values of a new trial: first those listed, see `_listed`, then the sampler's.

        Args:
            number: of the trial.
            waiting: other trials that were begun and may not go on; they count with what they have shown.
        """
        place = sum(known < number for known in self._numbers)  # others than those of the search have numbers too
        given = next(self._listed(place), None)
        if given is None and self._grid is not None:
            given = next(self._grid, None)
        trial = self._drawn(place, waiting) if given is None else self._enter(self._study, given)
        self._numbers.add(number)
        self._run(number, trial)
        values = dict(trial.params)
        self._tried[digest(values)] = values
        return values

    def _drawn(self, place: int, waiting: Collection[int]) -> "optuna.Trial":
        """The sampler's choice among what was not tried: the same values, with the same seed, would tell nothing new.

        Until one is found, those that were drawn count as running, so that TPE and a Gaussian process keep away.
        """
        from segdist.searching.samplers import sampler_for  # it imports Optuna

        study = self._informed(waiting)
        known: list[optuna.Trial] = []
        for draw in range(_DRAWS):
            study.sampler = sampler_for(self._spec, place, draw)
            trial = study.ask()
            self._space(trial)
            if digest(trial.params) not in self._tried and not self._sizes.is_too_large(trial.params):
                break
            known.append(trial)
        else:
            known.pop()  # hardly anything is left: better a trial again than none
        for one in known:
            study.tell(one, state=self._optuna.trial.TrialState.FAIL)
        return trial if study is self._study else self._enter(self._study, trial.params)

    def _informed(self, waiting: Collection[int]) -> "optuna.Study":
        """A study of this search's trials, those that wait as if they were stopped, and of believed earlier ones."""
        several = bool(self._spec.search.objectives)
        doubtful = several or self._spec.search.constraints  # of these the earlier trials may not know
        believed = [] if doubtful else list(self._prior.believed(self._scores, self._untuned))
        if not believed and (several or not waiting):
            return self._study
        study = self._made(self._objectives)
        for values, score in believed:
            study.tell(self._enter(study, values), score)
        stopped = {self._running[number].proposed.number for number in waiting if number in self._running}
        for trial in self._study.get_trials(deepcopy=False):
            study.add_trial(self._as_stopped(trial) if trial.number in stopped and not several else trial)
        return study

    def _as_stopped(self, trial: "optuna.trial.FrozenTrial") -> "optuna.trial.FrozenTrial":
        return self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.PRUNED,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
        )

    def _enter(self, study: "optuna.Study", values: Mapping[str, object]) -> "optuna.Trial":
        """A running trial of a study, with these values; one outside a range that became narrower is still evidence."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Fixed parameter .* out of range", category=UserWarning)
            study.enqueue_trial(dict(values))
            trial = study.ask()
            self._space(trial)
        return trial

    def _listed(self, place: int) -> Iterator[dict[str, object]]:
        """What comes before the sampler and was not tried yet."""
        if place < len(self._first):
            yield self._first[place]
        for point in self._spec.search.points:
            values = baseline(self._spec, point)
            if not any(all(one.get(key) == values[key] for key in point) for one in self._tried.values()):
                yield values
        yield from (values for values in self._prior.first if digest(values) not in self._tried)

    def _untried(self) -> Iterator[dict[str, object]]:
        """The points of a grid that were not tried."""
        return (point for point in points(self._space.ranges) if digest(point) not in self._tried)

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Tell an epoch; whether the trial is so much worse than others that it is to be stopped.

        One that is told again, after a crash, changes nothing.
        """
        running = self._running.get(number)
        if running is None or epoch <= self._told.get(number, 0):
            return False
        self._told[number] = epoch
        running.judged.report(score, epoch)
        return bool(running.judged.should_prune())

    def tell(self, trial: Trial) -> None:
        """How a trial ended: with the score of its best epoch, whose model is kept.

        One that ended without any, as where distances are infinite since nothing was found, is worse than all others.
        """
        states, scores = self._optuna.trial.TrialState, trial.scores(self._metric)
        self._sizes.note(trial)
        if scores and trial.state != "failed":
            self._scores[digest(trial.values)] = self._best(scores)
        running = self._running.pop(trial.number, None)
        if running is None:
            return
        constraints = trial.constraints or ({"infeasible": None} if trial.state == "infeasible" else {})
        for name, by in constraints.items():
            running.proposed.set_constraint(name, 1.0 if by is None else by)  # what was not measured may not hold
        if trial.state in ("finished", "infeasible") and scores:
            self._judging.tell(running.judged, self._best(scores))
        else:
            self._judging.tell(running.judged, state=states.FAIL if trial.state == "failed" else states.PRUNED)
        if running.proposed is not running.judged:
            values = self._values(trial)
            is_worst = trial.state != "failed" and (not scores or _diverged(trial))
            self._study.tell(
                running.proposed, values, state=None if values else states.PRUNED if is_worst else states.FAIL
            )

    def _values(self, trial: Trial) -> list[float] | None:
        """Of all objectives; one that was stopped counts with what it had reached. None where not all are known."""
        known = dict(trial.measured)
        if scores := trial.scores(self._metric):
            known[self._metric] = self._best(scores)
        is_evidence = trial.state != "failed" and known.keys() >= set(self._objectives)
        return [known[name] for name in self._objectives] if is_evidence else None

    def _made(self, objectives: Sequence[str]) -> "optuna.Study":
        return self._optuna.create_study(
            directions=["minimize" if is_minimised(name) else "maximize" for name in objectives],
            sampler=self._optuna.samplers.RandomSampler(),  # what is replayed has its values
            pruner=pruner_of(self._spec),
        )

    def _run(self, number: int, proposed: "optuna.Trial") -> None:
        judged = proposed if self._judging is self._study else self._judging.ask()
        self._running[number] = _Running(proposed, judged)

    def _replay(self, trial: Trial) -> None:
        """Everything that a trial of the ledger told, as if it told it now; one that is to go on stays running."""
        if not can_tell(self._space.ranges, trial.values):
            return  # other keys, or a choice that is gone: it runs to its end, and the sampler is not told
        self._run(trial.number, self._enter(self._study, trial.values))
        for epoch in trial.epochs:
            if self._metric in epoch.metrics:
                self.report(trial.number, epoch.epoch, epoch.metrics[self._metric])
        if trial.has_ended and not trial.is_cut_off:
            self.tell(trial)


def _diverged(trial: Trial) -> bool:
    return bool(trial.epochs and trial.epochs[-1].metrics.get("diverged"))
