"""What people read on MLflow's own pages: the notes of experiments, sweeps and trials, and the names of trials."""

import json
from collections.abc import Mapping

from segdist.tracking import names
from segdist.tracking.encoding import clip

_NAME_LENGTH = 120


def of_experiment(name: str, question: str) -> str:
    """How an experiment is to be read, as Markdown."""
    asked = f"**{question}**\n\n" if question else ""
    return (
        f"{asked}Each run without a parent is one sweep of `{name}`; the runs below it are its trials. "
        f"`segdist compare {name}` prints the table of the latest one and links to its charts."
    )


def of_sweep(question: str, metric: str, command: str, dataset: str, report: str) -> str:
    """The same of a sweep's run."""
    asked = f"**{question}**\n\n" if question else ""
    return (
        f"{asked}Data `{dataset}`. Started, and gone on with, by `{command}`.\n\n"
        f"The trials are compared by `{names.BEST}{metric}`: `{metric}` in the epoch in which it was best, on the "
        f"validation split. Here the same name is the best of all trials so far, over the number of trials that ended. "
        f"`spent/` and `wasted/` count what the trials held; the [report]({report}) says the rest when all is done."
    )


def of_trial(title: str, metric: str, report: str) -> str:
    """The same of a trial's run."""
    return (
        f"**{title}**\n\nThe parameters are what was searched, and what differs from the defaults; `run.yaml` among "
        f"the artifacts has all of it. `{names.BEST}...` are the values of the epoch in which `{metric}` was best, "
        f"whose model is the one that this run names among MLflow's models. The [report]({report}) compares "
        "all trials of the sweep."
    )


def name_of_trial(sweep: str, number: int, title: str) -> str:
    """A trial's name: where it stands, and what differs, e.g. `cracks-003 unet_cbam lr=9.3e-3`."""
    return clip(f"{sweep}-{number:03d} {title}".rstrip(), _NAME_LENGTH)


def differing(values: Mapping[str, object]) -> str:
    """Values of searched keys in a few words, each under as much of its key as tells it from the others."""
    lasts = [key.rpartition(".")[2] for key in values]
    shorts = {key: last if lasts.count(last) == 1 else key for key, last in zip(values, lasts, strict=True)}
    return " ".join(f"{shorts[key]}={_short(value)}" for key, value in values.items())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}".replace("e-0", "e-") if 0 < abs(value) < 0.01 else f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
