"""What a search knows from earlier sweeps: their trials, by rank, written down beside the ledger at the first start.

The best are tried first. Where they hold what they promise, which is that they beat the untuned trial, the sampler is
told the others too, with scores by rank between those of the best one tried and of the untuned trial. Where they do
not, nothing more is taken: the data or the question differ. `benchmarks/warm_start.py` measures both.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import ValidationError

from segdist.core import storage
from segdist.core.errors import StorageError
from segdist.core.spec import Range, Strict, SweepSpec, digest
from segdist.metrics import is_better, is_minimised
from segdist.searching.space import can_tell, nearest_trial
from segdist.sweepfile.grid import conditions_first
from segdist.sweepfile.label_policies import encoded

FILE = "warm_start.json"
TRIED_FIRST = 2
"""Earlier trials that are tried again before the sampler is asked; more cost more where they mislead."""
MOST = 300
"""Earlier trials that are taken, spread over the ranks: each slows every suggestion a little."""


class Earlier(Strict):
    """One trial of an earlier sweep."""

    sweep: str
    """Its name, for people."""
    number: int
    values: dict[str, object]
    """Of the keys that are searched now."""


class WarmStart(Strict):
    """What was taken from earlier sweeps."""

    asked: tuple[str, ...]
    """`search.warm_start`, when it was taken."""
    trials: tuple[Earlier, ...]
    """The best first."""


def read(folder: str) -> WarmStart | None:
    """What the sweep with this folder took; None where it took nothing yet.

    Raises:
        StorageError: it is damaged.
    """
    uri = storage.join(folder, FILE)
    if not storage.exists(uri):
        return None
    try:
        return WarmStart.model_validate(storage.read_json(uri))
    except ValidationError as error:
        raise StorageError(
            f"{uri} must hold what `search.warm_start` took, but does not. It is damaged; delete it to have it made "
            "anew."
        ) from error


def write(folder: str, taken: WarmStart) -> None:
    """Keep what was taken: the earlier sweeps may be gone when this one goes on."""
    storage.write_json(storage.join(folder, FILE), taken.model_dump(mode="json"))


def merged(sweeps: Sequence[Sequence[Earlier]]) -> tuple[Earlier, ...]:
    """The trials of several sweeps, each with the best first, by their rank within their own."""
    ranked = [((place + 0.5) / len(one), trial) for one in sweeps for place, trial in enumerate(one)]
    trials = [trial for _, trial in sorted(ranked, key=lambda both: both[0])]
    taken = min(len(trials), MOST)
    return tuple(trials[k * len(trials) // taken] for k in range(taken))


def values_among(ranges: Mapping[str, Range], params: Mapping[str, object]) -> dict[str, object]:
    """The values of the searched keys among all parameters of a trial, in whichever sweep it ran."""
    found: dict[str, object] = {}
    for key in conditions_first(ranges):
        value = encoded(params.get(key))
        if key in params and ranges[key].applies(found) and (ranges[key].choices or _is_number(value)):
            found[key] = value
    return found


class Prior:
    """What a search makes of earlier trials.

    Args:
        spec: the sweep.
        trials: the best first.
    """

    def __init__(self, spec: SweepSpec, trials: Iterable[Earlier]) -> None:
        self._spec = spec
        self._metric = spec.search.metric
        self._ranked: dict[str, tuple[dict[str, object], dict[str, object]]] = {}
        for trial in trials:
            near = nearest_trial(spec, trial.values)
            if near:  # else one of its choices is gone since it was taken
                self._ranked.setdefault(digest(near), (near, trial.values))
        self.first = [near for near, _ in self._ranked.values()][:TRIED_FIRST]

    def believed(self, scores: Mapping[str, float], untuned: str) -> Iterator[tuple[dict[str, object], float]]:
        """Values and scores to tell the sampler.

        Args:
            scores: of this sweep's trials that ended, by the digest of their values.
            untuned: the digest of the untuned trial's values.
        """
        first = [digest(values) for values in self.first]
        known = {name: scores[name] for name in (*first, untuned) if name in scores}
        if len(known) < 2 or known.keys() != {*first, untuned} or not self._is_confirmed(known, first, untuned):
            return
        best, worst = sorted(known.values(), reverse=not is_minimised(self._metric))[:: len(known) - 1]
        others = [values for name, (_, values) in self._ranked.items() if name not in scores]
        others = [values for values in others if can_tell(self._spec.space, values)]
        for place, values in enumerate(others):
            yield values, best + (worst - best) * place / max(len(others) - 1, 1)

    def _is_confirmed(self, scores: Mapping[str, float], first: Sequence[str], untuned: str) -> bool:
        """Whether those before the untuned trial beat it here too, and no other does; an unknown one comes last."""
        place = first.index(untuned) if untuned in first else len(first)
        others = [(k < place, name) for k, name in enumerate(first) if k != place]
        return all(is_better(scores[name], scores[untuned], metric=self._metric) == wins for wins, name in others)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
