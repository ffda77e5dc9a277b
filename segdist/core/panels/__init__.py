"""Pictures of instances: overlays, error and edge maps, and panels of them. Images are RGB uint8 (H, W, 3)."""

from segdist.core.panels.drawing import ImageHWC, colour, encode_jpeg, encode_png, encode_webp, overlay
from segdist.core.panels.mistakes import EDGES, ERRORS, edge_bleed, errors, signed_distance
from segdist.core.panels.panel import panel, versus

__all__ = [
    "EDGES",
    "ERRORS",
    "ImageHWC",
    "colour",
    "edge_bleed",
    "encode_jpeg",
    "encode_png",
    "encode_webp",
    "errors",
    "overlay",
    "panel",
    "signed_distance",
    "versus",
]
