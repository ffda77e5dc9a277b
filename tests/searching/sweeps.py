"""A sweep of two searched keys, and trials that report without training."""

from typing import Any

from segdist.core.spec import SweepSpec
from segdist.searching import Ledger, Search


def sweep(*, space: dict[str, Any] | None = None, **search: Any) -> SweepSpec:
    content: dict[str, Any] = {
        "name": "s",
        "data": {"sources": [{"format": "synthetic"}]},
        "model": {"family": "unet_cbam", "unet_cbam": {"width": 12}},
        "train": {"lr": 1e-3, "epochs": 9},
        "space": {
            "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "train.loss.dice": {"low": 0.5, "high": 2.0},
            **(space or {}),
        },
        "search": {"trials": 8, "startup_trials": 3, **search},
    }
    return SweepSpec.model_validate(content)


def begun(spec: SweepSpec, folder: object, **options: Any) -> Search:
    """A start of a sweep whose ledger is in the folder."""
    return Search(spec, Ledger(str(folder)), **options)


def score(values: dict[str, Any], epoch: int) -> float:
    """Of a made-up trial: it rises with the epochs to what its values are worth."""
    return float(values["train.loss.dice"] / 2 * (1 - 0.5**epoch))


def run(search: Search, *, epochs: int = 9, most: int = 100) -> list[int]:
    """Run up to so many trials, one after the other; the numbers of those that were run."""
    numbers: list[int] = []
    while len(numbers) < most and (trial := search.next()):
        search.start(trial.number)
        first = trial.latest.epoch + 1 if trial.latest else 1
        for epoch in range(first, epochs + 1):
            metrics = {"epoch": epoch, "seconds": 2.0, "val/iou": score(trial.values, epoch), "val/iou/roof": 0.1}
            if search.report(trial.number, metrics, checkpoint=f"place/{trial.number}/{epoch}"):
                break
        search.end(trial.number)
        numbers.append(trial.number)
    return numbers
