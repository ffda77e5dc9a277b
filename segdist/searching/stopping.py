"""Which rule stops a trial early: one of Optuna's pruners, which decide from the epochs that the study's trials report.

So replaying the ledger's epochs replays all there is to know: no rule has a state of its own.
"""

import warnings
from typing import TYPE_CHECKING

from segdist.core.spec import SweepSpec

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


def pruner_of(spec: SweepSpec) -> "BasePruner":
    """The rule that a sweep asks for; where nothing is searched, none.

    `search.stop.top_after` is no pruner: it compares trials at one epoch when all have come there, see `Search`.
    """
    from optuna import exceptions, pruners

    stop, asha = spec.search.stop, spec.search.asha
    if not spec.space:
        return pruners.NopPruner()
    if stop is None:
        if asha is None:
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
