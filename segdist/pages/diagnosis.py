"""Why a sweep may have found nothing: the likeliest reasons, by what was recorded."""

import math
from collections.abc import Iterator, Mapping

from segdist.core.json_values import JsonDict, JsonObject
from segdist.pages.labels import label_warnings
from segdist.pages.leaderboard import Leaderboard

FEW_STEPS = 500
"""Below this many steps of the optimiser, a network that finds nothing has most likely just begun to learn."""
FEW_OBJECTS = 10
"""A class with fewer objects to learn from is too rare to be found."""


def why_nothing(board: Leaderboard, summary: Mapping[str, object]) -> list[str]:
    """The likeliest reasons why no trial found anything, the likeliest first.

    Args:
        board: of the sweep.
        summary: `summary.json` of its run.
    """
    return list(dict.fromkeys([*_labels(summary), *_training(board), *_scores(board), *_rare(board)]))


def _labels(summary: JsonObject) -> Iterator[str]:
    policies = summary.get("policies") or [{"labels": summary.get("labels")}]
    for one in policies:
        yield from label_warnings(one["labels"]["details"]) if one["labels"] else ()


def _training(board: Leaderboard) -> Iterator[str]:
    """The longest trial made few steps."""
    images = _split(board, "train").get("images", 0)
    steps = {t.epochs * math.ceil(images / max(int(t.params.get("train.batch_size", 1)), 1)): t for t in board.trials}
    if steps and max(steps) < FEW_STEPS:
        most = steps[max(steps)]
        yield (
            f"few steps: {max(steps)} (epochs: {most.epochs}, images: {images}). Raise `train.epochs`, and begin "
            "with trained weights where the family has them (`weights`, `backbone`)"
        )


def _scores(board: Leaderboard) -> Iterator[str]:
    """What was found scored too low to count."""
    tops = [top for t in board.trials if (top := t.metrics.get("predicted/top_score")) is not None]
    least = min((float(t.params.get("evaluate.min_score", 0.3)) for t in board.trials), default=0.3)
    if tops and max(tops) < least:
        yield (
            f"what was found scored {max(tops):.2f} at most, and counts from `evaluate.min_score` {least:g} on. Train "
            "longer, or lower it"
        )
    elif tops:
        yield "what was found lies beside every object: look at the report's pictures, and whether the truth is right"


def _rare(board: Leaderboard) -> Iterator[str]:
    """Classes with hardly an object to learn from."""
    rare = {name: n for name, n in _split(board, "train").get("per_class", {}).items() if n < FEW_OBJECTS}
    if rare:
        counts = ", ".join(f"{name} ({n})" for name, n in rare.items())
        yield f"fewer than {FEW_OBJECTS} objects to learn from: {counts}. Annotate more, or join classes (`class_map`)"


def _split(board: Leaderboard, name: str) -> JsonDict:
    profile = board.sweep.dataset.profile if board.sweep.dataset else {}
    return dict(profile.get("splits", {}).get(name, {}))
