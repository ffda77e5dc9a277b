"""The masks of data sets as squares of 64 x 64: what a mask codec learns from and is measured on."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.records import Instance, Sample
from segdist.nets.paligemma.crops import CropSS, crop_pixels


def masked(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Instance, masks.Mask]]:
    """Every instance that has a mask with a pixel set and is no crowd, with the mask inside its tight box."""
    for sample in samples:
        for instance in sample.instances:
            if instance.mask is not None and instance.mask.area and not instance.is_crowd:
                yield sample, instance, masks.decode_cut(instance.mask, masks.tight_cut(instance.mask))


def squares(samples: Iterable[Sample], *, parts: int, seed: int) -> NDArray[np.uint8]:
    """(N, 64, 64) the squares of all masks, and of `parts` random rectangles cut out of each: shapes of more kinds."""
    rng = np.random.default_rng(seed)
    found: list[CropSS] = []
    for _, _, inside_HW in masked(samples):
        found.append(crop_pixels(inside_HW))
        for _ in range(parts):
            piece_HW = _piece(inside_HW, rng)
            if piece_HW.sum() >= 16:
                found.append(crop_pixels(piece_HW))
    return np.stack(found) if found else np.zeros((0, 64, 64), np.uint8)


def _piece(inside_HW: masks.Mask, rng: np.random.Generator) -> masks.Mask:
    """What lies in a random rectangle, cropped to its own box."""
    spans = []
    for side in inside_HW.shape:
        length = max(1, round(side * rng.uniform(0.3, 0.9)))
        start = int(rng.integers(side - length + 1))
        spans.append(slice(start, start + length))
    piece_HW = inside_HW[spans[0], spans[1]]
    rows, columns = np.flatnonzero(piece_HW.any(axis=1)), np.flatnonzero(piece_HW.any(axis=0))
    if not len(rows):
        return np.zeros((1, 1), np.bool_)
    return piece_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
