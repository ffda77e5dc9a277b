"""Is a model as good on every group of images? The worst of them, as one value for each epoch and for a search."""

from collections.abc import Sequence

import numpy as np

from segdist.metrics.counting import metrics
from segdist.metrics.gathered import Kept, register
from segdist.metrics.pair import Pair
from segdist.metrics.pixels import pixels
from segdist.metrics.shown import Shown

WORST_GROUP = "worst_group_iou"
"""Computed after every epoch where the images have groups, whether or not anybody asks for it."""


def are_groups(names: Sequence[str]) -> bool:
    """Whether the names of the images' groups divide them: at least two groups, with two images each on average."""
    return 2 <= len(set(names)) <= len(names) / 2


class _WorstGroup:
    """The lowest `iou` over the `group` of each image (that of its source, or of near-duplicates; "" is one, too).

    NaN where `are_groups` is not so. A group in which nothing is true or found has no value and is left out.
    """

    name = WORST_GROUP
    shown = {WORST_GROUP: Shown("worst group's IoU")}

    def of(self, pair: Pair) -> Kept:
        """The group of an image and its pixels of each class."""
        return {"group": pair.sample.group, "pixels": {label: pixels.count(pair, label) for label in pair.labels}}

    def values(self, images: Sequence[Kept], classes: Sequence[str]) -> dict[str, float]:
        """See `Gathering`."""
        if not are_groups([image["group"] for image in images]):
            return {self.name: float("nan")}
        sums = {image["group"]: np.zeros((len(classes), pixels.size)) for image in images}
        for image in images:
            for label, counts in image["pixels"].items():
                sums[image["group"]][classes.index(label)] += counts
        found = metrics()["iou"].overall(np.stack([*sums.values()]))
        return {self.name: float(np.nanmin(found)) if not np.isnan(found).all() else float("nan")}


register(_WorstGroup())
