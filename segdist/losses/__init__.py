"""Losses: one function each, with its paper.

`pixels` has those of a class map, (B, K, H, W) logits against a class index a pixel; `masks` has those of single binary
masks, (N, H, W), with one value a mask. Every function takes a mask of ignored pixels, and gives a zero that
is connected to the graph where nothing is left to teach: no objects in the batch, everything ignored.
"""

from segdist.losses.balance import effective_number, inverse_frequency
from segdist.losses.masks import (
    boundary,
    centreline_dice,
    dice,
    edge_bce,
    lovasz_hinge,
    mask_focal,
    mean_or_zero,
    signed_distance,
    tversky,
)
from segdist.losses.pixels import (
    class_boundary,
    class_dice,
    class_edge_bce,
    class_lovasz,
    class_tversky,
    cross_entropy,
    focal,
)

__all__ = [
    "boundary",
    "centreline_dice",
    "class_boundary",
    "class_dice",
    "class_edge_bce",
    "class_lovasz",
    "class_tversky",
    "cross_entropy",
    "dice",
    "edge_bce",
    "effective_number",
    "focal",
    "inverse_frequency",
    "lovasz_hinge",
    "mask_focal",
    "mean_or_zero",
    "signed_distance",
    "tversky",
]
