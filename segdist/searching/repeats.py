"""Which trials are trained again when a search has come to its end, and with which seeds."""

from collections.abc import Iterable, Sequence

from segdist.core.spec import SweepSpec, digest
from segdist.metrics import is_minimised
from segdist.searching.ledger import Trial

_SEEDS = 2**32


def planned(spec: SweepSpec, searched: Sequence[Trial]) -> list[tuple[Trial, int]]:
    """The best trials of a search, each with every seed that it is trained again with; empty where none are to be.

    Args:
        spec: the sweep.
        searched: the trials of its search.
    """
    confirm = spec.search.confirm if spec.space else None
    if confirm is None:
        return []
    best = _best_first(spec, searched)[: confirm.trials]
    return [(trial, seed) for trial in best for seed in _seeds(spec, trial, confirm.seeds)]


def confirmed(spec: SweepSpec, searched: Sequence[Trial], repeats: Iterable[Trial]) -> list[int]:
    """The numbers of the trials whose repeats have all ended, in whatever way, the best first.

    Among them are those that were repeated when they were among the best: a wider search does not forget it.
    """
    confirm = spec.search.confirm if spec.space else None
    ended = {(repeat.repeats, repeat.seed) for repeat in repeats if repeat.has_ended and not repeat.is_cut_off}
    if confirm is None:
        return []
    return [
        trial.number
        for trial in _best_first(spec, searched)
        if all((trial.key, seed) in ended for seed in _seeds(spec, trial, confirm.seeds))
    ]


def _best_first(spec: SweepSpec, searched: Sequence[Trial]) -> list[Trial]:
    """The trials with a score that did not fail and break no constraint."""
    sign, metric = (1 if is_minimised(spec.search.metric) else -1), spec.search.metric
    fit = [trial for trial in searched if trial.state in ("finished", "stopped") and not trial.broken]
    scored = [(min(sign * score for score in scores), trial) for trial in fit if (scores := trial.scores(metric))]
    return [trial for _, trial in sorted(scored, key=lambda one: (one[0], one[1].number))]


def _seeds(spec: SweepSpec, trial: Trial, count: int) -> list[int]:
    """As many seeds as asked for: the same in each start, and the first of them the same when more are asked for."""
    return [int(digest([spec.seed, trial.number, repeat]), 16) % _SEEDS for repeat in range(1, count + 1)]
