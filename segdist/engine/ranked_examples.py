"""The worst, median and best images of a model, among all and in each group of images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segdist.core.json_values import JsonObject
from segdist.engine.evaluation import EvaluationReport, grouping

Rank = Literal["worst", "median", "best"]
_PICTURED = 3
"""Images of each rank among all."""
_GROUPS = 4
"""Groups of a kind, the worst first, of which one image of each rank is shown."""


@dataclass(frozen=True)
class RankedExample:
    """One image.

    Attributes:
        rank: its place.
        of: what divides the images, e.g. "lighting"; "" for all of them.
        name: of the group.
        image_id: of the image.
        value: of the metric; 0..1 for IoU.
    """

    rank: Rank
    of: str
    name: str
    image_id: str
    value: float


def ranked_examples(report: EvaluationReport, metric: str = "iou") -> list[RankedExample]:
    """The worst, median and best of all images; then one of each in the groups where the model is worst.

    Groups are those that divide the images for consistency, and in which the metric is defined for two images at least.
    """
    found = list(_ranked(report.images, metric, _PICTURED))
    groups = grouping([image["facets"] for image in report.images if "facets" in image])
    for kind, names in groups.items():
        members = {n: [i for i, name in zip(report.images, names, strict=True) if name == n] for n in set(names)}
        values = {n: [i[metric] for i in images if not np.isnan(i[metric])] for n, images in members.items()}
        known = sorted((n for n in members if len(values[n]) > 1), key=lambda n: (float(np.mean(values[n])), n))
        for name in known[:_GROUPS]:
            found += _ranked(members[name], metric, 1, of=kind, name=name)
    return found


def examples_by_rank(
    images: Sequence[JsonObject], metric: str = "iou", count: int = _PICTURED
) -> dict[Rank, list[str]]:
    """Image ids of the worst, the median and the best images; no image twice, and none in which nothing is defined."""
    ranked = [name for _, name in sorted((i[metric], i["image_id"]) for i in images if not np.isnan(i[metric]))]
    worst, best = ranked[:count], ranked[count:][-count:][::-1]
    left = [name for name in ranked if name not in {*worst, *best}]
    start = max(0, (len(left) - count) // 2)
    return {"worst": worst, "median": left[start : start + count], "best": best}


def _ranked(
    images: Sequence[JsonObject], metric: str, count: int, *, of: str = "", name: str = ""
) -> Iterator[RankedExample]:
    values = {image["image_id"]: float(image[metric]) for image in images}
    for rank, image_ids in examples_by_rank(images, metric, count).items():
        for image_id in image_ids:
            yield RankedExample(rank, of, name, image_id, values[image_id])
