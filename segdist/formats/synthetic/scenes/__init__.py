"""Scenes drawn by code, with the truth known to the pixel: what the tests and the quickstart learn from.

Each file draws one kind of scene onto a `Canvas`; nothing is read from disk, and the same seed gives the same pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np

from segdist.formats.synthetic.scenes.canvas import Canvas, Drawing
from segdist.formats.synthetic.scenes.cracks import draw_cracks
from segdist.formats.synthetic.scenes.roofs import draw_roofs
from segdist.formats.synthetic.scenes.rooms import draw_rooms
from segdist.formats.synthetic.scenes.seams import draw_seams

VERSION = 1
"""Raised whenever a seed draws other pixels than before, so that stored data sets are not taken for these."""

_DRAW: dict[str, Callable[[Canvas, bool], None]] = {
    "cracks": draw_cracks,
    "seams": draw_seams,
    "rooms": draw_rooms,
    "roofs": draw_roofs,
}
SCENES = tuple(_DRAW)


def draw(scene: str, seed: int | Sequence[int], size: int, *, objects: bool = True) -> Drawing:
    """One scene and its truth.

    Args:
        scene: "cracks", "seams", "rooms" or "roofs".
        seed: same seed, same pixels.
        size: side of the square image in pixels.
        objects: False leaves the cracks or seams out, and keeps the clutter; rooms and roofs always have theirs.

    Returns:
        The (size, size, 3) RGB image, uint8, and for each instance its label and (size, size) boolean mask.
    """
    canvas = Canvas(size, np.random.default_rng(seed))
    _DRAW[scene](canvas, objects)
    return canvas.finish()
