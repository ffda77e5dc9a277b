"""What `search.warm_start` is worth, and what it costs where it misleads: the search itself, on made-up scores.

The earlier sweep searched a score of the same form: its best values lie near those of now, or anywhere, or its ranks
are turned around. Its 16 trials are what a warm start takes. No model is trained.
"""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from math import log10
from multiprocessing import get_context
from tempfile import TemporaryDirectory

import numpy as np

from segdist.core.spec import SweepSpec
from segdist.searching import Ledger, Search, warm_start
from segdist.searching.warm_start import Earlier, WarmStart

SEEDS, EARLIER_TRIALS, TRIALS, SHOWN = 100, 16, 32, (6, 8, 12, 16, 24, 32)
BEST, WEIGHTS = np.array([0.55, 0.7, 0.4, 0.75]), np.array([3.0, 0.5, 0.3, 1.0])
"""Where in the unit cube of the four keys the score is highest, and how fast it falls along each."""
CASES = ("none", "near", "anywhere", "turned around")
MOST_HARM, LEAST_GAIN = 1.15, 0.5
"""The targets: what is missing to the best score, after all trials against no warm start, where it misleads, and after
eight where it helps."""
Point = np.ndarray[tuple[int], np.dtype[np.float64]]


def main() -> None:
    """Print the median of what is missing to the best score."""
    jobs = [(case, seed) for case in CASES for seed in range(SEEDS)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        missing = dict(zip(jobs, pool.map(_missing, *zip(*jobs, strict=True), chunksize=5), strict=True))
    print("| missing to the best score after | " + " | ".join(f"{n} trials" for n in SHOWN) + " |")
    print("|---" * (len(SHOWN) + 1) + "|")
    medians = {case: np.median([missing[case, seed] for seed in range(SEEDS)], axis=0) for case in CASES}
    for case, median in medians.items():
        print(f"| {case} | " + " | ".join(f"{value:.4f}" for value in median) + " |")
    gain = medians["near"][1] / medians["none"][1]
    print(f"near, after 8: x{gain:.2f} (target: <= x{LEAST_GAIN}), {'met' if gain <= LEAST_GAIN else 'MISSED'}")
    for case in CASES[2:]:
        harm = medians[case][-1] / medians["none"][-1]
        said = "met" if harm <= MOST_HARM else "MISSED"
        print(f"{case}, after {TRIALS}: x{harm:.2f} (target: <= x{MOST_HARM}), {said}")


def _missing(case: str, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    with TemporaryDirectory(prefix="segdist-bench-") as folder:
        if case != "none":
            spread = {"near": 0.1, "anywhere": 0.4, "turned around": 0.0}[case]
            best = np.clip(BEST + rng.normal(0, spread, 4), 0, 1)
            earlier = _run(
                _spec(seed + 500, EARLIER_TRIALS), f"{folder}/earlier", best, sign=-1 if case == "turned around" else 1
            )
            warm_start.write(folder, WarmStart(asked=("earlier",), trials=_ranked(earlier)))
        found = _run(_spec(seed, TRIALS, warm=case != "none"), folder, BEST)
    reached = np.maximum.accumulate([trial.scores("val/iou")[0] for trial in found.trials])
    return [float(1.0 - reached[number - 1]) for number in SHOWN]


def _ranked(ledger: Ledger) -> tuple[Earlier, ...]:
    trials = sorted(ledger.trials, key=lambda t: -t.scores("val/iou")[0])
    return tuple(Earlier(sweep="earlier", number=t.number, values=t.values) for t in trials)


def _spec(seed: int, trials: int, *, warm: bool = False) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "data": {"sources": [{"format": "synthetic"}]},
            "model": {"family": "unet_cbam", "unet_cbam": {"width": 12}},
            "train": {"lr": 1e-3, "weight_decay": 1e-4},
            "space": {
                "train.lr": {"low": 1e-5, "high": 1e-1, "log": True},
                "train.loss.dice": {"low": 0.1, "high": 4.0},
                "train.weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
                "model.unet_cbam.width": {"low": 4, "high": 32, "step": 4},
            },
            "search": {"trials": trials, "seed": seed, "asha": None, "warm_start": ["earlier"] if warm else []},
        }
    )


def _run(spec: SweepSpec, folder: str, best: Point, *, sign: int = 1) -> Ledger:
    search = Search(spec, Ledger(folder))
    while trial := search.next():
        search.start(trial.number)
        search.report(trial.number, {"epoch": 1, "val/iou": 0.5 + sign * (_score(trial.values, best) - 0.5)})
        search.end(trial.number)
    return search.ledger


def _score(values: Mapping[str, float], best: Point) -> float:
    """From 0 to 1, which it is at the best place."""
    place = np.array(
        [
            (log10(values["train.lr"]) + 5) / 4,
            (values["train.loss.dice"] - 0.1) / 3.9,
            (log10(values["train.weight_decay"]) + 6) / 5,
            (values["model.unet_cbam.width"] - 4) / 28,
        ]
    )
    return float(1 / (1 + np.sum(WEIGHTS * (place - best) ** 2)))
