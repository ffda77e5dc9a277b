"""Which rule stops a trial early: one of Optuna's pruners, which decide from the epochs that the study's trials report.

So replaying the ledger's epochs replays all there is to know: no rule has a state of its own.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from segdist.core.spec import SweepSpec
from segdist.metrics import WORST_GROUP, is_minimised
from segdist.searching.ledger import Epoch, Trial

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

_GUARDS = ("val/boundary_iou", f"val/{WORST_GROUP}")


def pruner_of(spec: SweepSpec) -> "BasePruner":
    """The rule that a sweep asks for; where nothing is searched, none.

    `search.stop.top_after` and halving that waits are no pruners: see `Search`.
    """
    from optuna import exceptions, pruners

    stop, asha = spec.search.stop, spec.search.asha
    if not spec.space:
        return pruners.NopPruner()
    if stop is None:
        if asha is None or asha.pause:
            return pruners.NopPruner()
        return pruners.SuccessiveHalvingPruner(min_resource=asha.grace_epochs, reduction_factor=asha.reduction_factor)
    rule: BasePruner | None = None
    if stop.median_after:
        rule = pruners.MedianPruner(n_startup_trials=spec.search.startup_trials, n_warmup_steps=stop.median_after)
    if stop.patience:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", exceptions.ExperimentalWarning)  # since 2021
            rule = pruners.PatientPruner(rule, stop.patience)
    return rule or pruners.NopPruner()


def is_guarded(trial: Trial, spec: SweepSpec) -> bool:
    """Whether patience holds on for more than the score: worst class, worst group or boundary just got better.

    What was just so lies in the epochs that `patience` looks at: in them the score was worse than before.
    """
    stop, metric = spec.search.stop, spec.search.metric
    if stop is None or not stop.patience:
        return False
    guards = [_guards(epoch, metric) for epoch in trial.epochs if metric in epoch.metrics]
    before, lately = (_best(part) for part in (guards[: -stop.patience - 1], guards[-stop.patience - 1 :]))
    return any(lately[name] > best for name, best in before.items() if name in lately)


def _guards(epoch: Epoch, metric: str) -> dict[str, float]:
    """What may still improve, by name: the higher the better."""
    sign = -1 if is_minimised(metric) else 1
    of_classes = [sign * value for name, value in epoch.metrics.items() if name.startswith(f"{metric}/")]
    worst = {"worst class": min(of_classes)} if of_classes else {}
    return worst | {name: value for name, value in epoch.metrics.items() if name in _GUARDS}


def _best(guards: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for one in guards for name in one}
    return {name: max(one[name] for one in guards if name in one) for name in names}
