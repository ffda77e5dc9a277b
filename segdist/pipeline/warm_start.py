"""What a sweep begins from is read from MLflow once, before its first trial."""

from collections import Counter
from collections.abc import Iterator, Sequence

from segdist.core.errors import BackendError, SpecError
from segdist.core.spec import SweepSpec
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.searching import warm_start
from segdist.searching.space import nearest_trial
from segdist.searching.warm_start import Earlier, WarmStart
from segdist.tracking import SweepRecord, Tracker, TrialRecord, names


def take_warm_start(tracker: Tracker, spec: SweepSpec, *, folder: str, fingerprint: str) -> None:
    """Write down what `search.warm_start` names; what was taken before, from the same, stays.

    Args:
        tracker: where the earlier sweeps were recorded.
        spec: the sweep.
        folder: its own place in the storage.
        fingerprint: of its question.

    Raises:
        BackendError: there is no such sweep, or it has nothing to take.
        SpecError: it is this one, or searched other keys.
    """
    asked = spec.search.warm_start
    if not asked or not spec.space:
        return
    known = warm_start.read(folder)
    if known is None or known.asked != asked:
        sweeps = [_taken(tracker, spec, _found(tracker, name, fingerprint)) for name in dict.fromkeys(asked)]
        warm_start.write(folder, WarmStart(asked=asked, trials=warm_start.merged(sweeps)))


def _found(tracker: Tracker, name: str, fingerprint: str) -> SweepRecord:
    """The sweep of a name, other than this very one; or that of a run id."""
    if not names.is_run_id(name):
        return tracker.latest_sweep(name, other_than=fingerprint)
    sweep = tracker.sweep(tracker.parent_of(name))
    if sweep.fingerprint == fingerprint:
        raise SpecError(f"`search.warm_start` must name an earlier sweep, but {name} is this one. Take it out.")
    return sweep


def _taken(tracker: Tracker, spec: SweepSpec, sweep: SweepRecord) -> list[Earlier]:
    """The trials of an earlier sweep that say something about this one, the best first."""
    searched: set[str] = set(sweep.spec.get("space", {}))
    if not searched & set(spec.space):
        raise SpecError(
            f"`search.warm_start: {sweep.name}` must be a sweep that searched keys which this one searches too, but "
            f"it searched {', '.join(sorted(searched)) or 'nothing'}, and this one {', '.join(sorted(spec.space))}."
        )
    trials = _searched(tracker, sweep, spec.search.metric)
    metric = next((m for m in (spec.search.metric, sweep.metric) if any(m in t.metrics for t in trials)), sweep.metric)
    if metric != spec.search.metric:
        trials = _searched(tracker, sweep, metric)
    left_out: Counter[str] = Counter()
    taken = list(_usable(spec, sweep, trials, metric, left_out))
    without = ", ".join(f"{n} {why}" for why, n in left_out.items())
    if not taken:
        raise BackendError(
            f"`search.warm_start: {sweep.name}` must be a sweep with trials to begin from, but of its "
            f"{counted(len(trials), 'trial')} none is: {without or 'none was started'}. Run it, or name another one."
        )
    gone = sorted(searched - set(spec.space))
    say(
        f"warm start  {counted(len(taken), 'trial')} of {sweep.name} by {metric}"
        + (f"; left out {without}" if without else "")
        + (f"; searched there and not here: {', '.join(gone)}" if gone else "")
    )
    return taken


def _searched(tracker: Tracker, sweep: SweepRecord, metric: str) -> list[TrialRecord]:
    """The trials of its search; those that train one of them again say nothing about other values."""
    return [trial for trial in tracker.trials(sweep.run_id, metric) if not trial.repeats]


def _usable(
    spec: SweepSpec, sweep: SweepRecord, trials: Sequence[TrialRecord], metric: str, left_out: Counter[str]
) -> Iterator[Earlier]:
    for trial in trials:
        values = warm_start.values_among(spec.space, trial.params)
        if trial.status != "FINISHED" or metric not in trial.metrics:
            left_out["without a score at its end"] += 1
        elif trial.broken:
            left_out["infeasible"] += 1
        elif nearest_trial(spec, values) is None:
            left_out["with a choice that is gone"] += 1
        else:
            yield Earlier(sweep=sweep.name, number=trial.number, values=values)
