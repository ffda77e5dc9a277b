"""Segmentation inside boxes without learning: what there was before networks, for when there are no weights.

An honest fallback: it follows colours and knows no objects, and its scores say how well two sides of an edge differ,
not how right a mask is; those of `thin` alone are meant to foretell the IoU. It cannot be trained.
"""

from typing import Literal

from pydantic import Field

from segdist.core.plugins import Family, ModelOptions


class Options(ModelOptions):
    """Which method."""

    method: Literal["auto", "box", "grabcut", "line", "otsu", "thin"] = "auto"
    """box: the box itself, filled. grabcut: colours inside against colours outside the box (Rother et al. 2004). thin:
    the crack, seam or cable that runs through the box from side to side, dark or bright. line: all that is thinner than
    17 pixels and stands out. otsu: what differs from the border of the box (Otsu 1979). auto: `thin` where a thin
    structure stands out, otherwise `grabcut`."""
    iterations: int = Field(default=3, gt=0, le=100)
    """Of grabcut."""


FAMILY = Family(
    options=Options,
    debug={"image_size": 64},
    losses={},
    encoder=(),
    lora_targets=(),
    lora_trains=(),
    prompts=lambda _: frozenset({"box"}),
    tasks=("promptable",),
    sizes={"none": "no parameters: nothing to train"},
    adapters=(),
)
