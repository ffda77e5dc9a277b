"""How many trials a search loses to memory, on a simulated card: `Search` as it is, against failures that are ignored.

Memory grows with the images at once, their size and the adapter's rank; half of the space does not fit the card even
one image at a time, and larger images score higher, so that the search is drawn towards what does not fit.
"""

from tempfile import TemporaryDirectory

from segdist.core.spec import SweepSpec
from segdist.searching import Ledger, Search, Trial

CARD = 24.0
"""GB."""
SEEDS = range(5)
FURTHER = 40
"""Trials after the first two that memory did not hold."""
MOST = 0.1
"""The target: share of those that memory does not hold either."""


def main() -> None:
    """Print, for each sampler, the share of trials lost after the first two, and the best score."""
    print(f"{'':28}{'lost of ' + str(FURTHER):>12}{'best score':>12}{'attempts a trial':>18}")
    for sampler in ("tpe", "gp", "random", "quasi_random"):
        for ignored in (True, False):
            lost, best, attempts = zip(*(_searched(sampler, seed, ignored=ignored) for seed in SEEDS), strict=True)
            share = sum(lost) / len(SEEDS) / FURTHER
            name = f"{sampler}, {'failures ignored' if ignored else 'segdist'}"
            verdict = "" if ignored else "  as wanted" if share <= MOST else f"  more than {MOST:.0%}"
            print(
                f"{name:28}{sum(lost) / len(SEEDS):12.1f}{sum(best) / len(SEEDS):12.3f}"
                f"{sum(attempts) / len(SEEDS):18.2f}{verdict}",
                flush=True,
            )


def memory(values: dict[str, float], images: int) -> float:
    """GB that a step takes."""
    side, rank = values["model.unet_cbam.image_size"], values["train.adapter.rank"]
    return 2 + rank / 16 + images * 18 * (side / 1024) ** 2 * (1 + rank / 64)


def score(values: dict[str, float]) -> float:
    """Of a trial: larger images and ranks are better, and a rate in the middle."""
    size, rank = values["model.unet_cbam.image_size"] / 2048, values["train.adapter.rank"] / 64
    return 0.5 + 0.3 * size + 0.1 * rank - 10 * abs(values["train.lr"] - 0.003)


def _searched(sampler: str, seed: int, *, ignored: bool) -> tuple[int, float, float]:
    """Trials lost after the first two, the best score, and starts of each trial."""
    with TemporaryDirectory(prefix="segdist-bench-") as folder:
        search = Search(_spec(sampler, seed), Ledger(folder))
        ended: list[tuple[Trial, bool]] = []
        while (trial := search.next()) and _further(ended) < FURTHER:
            search.start(trial.number)
            at_once = trial.micro_batch or int(trial.values["train.batch_size"])
            if memory(trial.values, at_once) <= CARD:
                search.report(trial.number, {"epoch": 1, "val/iou": score(trial.values)}, f"{folder}/none")
                ended.append((search.end(trial.number), False))
            elif not ignored:
                after = search.out_of_memory(trial.number, "the card is full")
                ended += [(after, True)] if after.has_ended else []
            else:
                ended.append((search.fail(trial.number, "the card is full"), True))
        first = [n for n, (_, is_lost) in enumerate(ended) if is_lost][1]
        lost = sum(is_lost for _, is_lost in ended[first + 1 :])
        best = max(one.scores("val/iou")[0] for one, is_lost in ended if not is_lost)
        return lost, best, sum(one.starts for one, _ in ended) / len(ended)


def _further(ended: list[tuple[Trial, bool]]) -> int:
    lost = [n for n, (_, is_lost) in enumerate(ended) if is_lost]
    return len(ended) - lost[1] - 1 if len(lost) > 1 else 0


def _spec(sampler: str, seed: int) -> SweepSpec:
    content = {
        "name": "memory",
        "data": {"sources": [{"format": "synthetic"}]},
        "model": {"family": "unet_cbam"},
        "space": {
            "model.unet_cbam.image_size": {"low": 256, "high": 2048, "step": 64},
            "train.adapter.rank": {"low": 4, "high": 64},
            "train.batch_size": [4, 8, 16],
            "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "search": {"trials": 400, "sampler": sampler, "seed": seed, "asha": None},
    }
    return SweepSpec.model_validate(content)
