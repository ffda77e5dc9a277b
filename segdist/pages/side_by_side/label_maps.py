"""What is true of an image, or was found in it, as one class a pixel, small enough to keep of every trial.

A code is 0 where there is nothing, k for the k-th class, and the number of classes plus one where nobody knows what is
right. Where objects lie over each other, the smallest is seen, as in every picture of segdist.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.panels.drawing import large_first, mask_at
from segdist.core.records import Instance

Codes = NDArray[np.uint16]
"""(H, W) a code for each pixel."""
LONGEST = 512
"""Pixels of a map's longest side, at most."""


@dataclass(frozen=True)
class LabelMap:
    """A map as runs of equal codes, row after row.

    Attributes:
        size_hw: of the map.
        codes_K: of each run.
        lengths_K: in pixels; they fill the map.
    """

    size_hw: tuple[int, int]
    codes_K: Codes
    lengths_K: NDArray[np.uint32]

    @classmethod
    def of(cls, codes_HW: Codes) -> "LabelMap":
        """The runs of a map."""
        flat = codes_HW.reshape(-1)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
        lengths = np.diff(np.append(starts, flat.size)).astype(np.uint32)
        return cls((codes_HW.shape[0], codes_HW.shape[1]), flat[starts], lengths)

    def decoded(self) -> Codes:
        """(H, W) The map."""
        return np.repeat(self.codes_K, self.lengths_K).reshape(self.size_hw)

    @property
    def packed(self) -> bytes:
        """Code and length of each run in turn, as variable-length integers: seven bits a byte, the lowest first."""
        pairs_K2 = np.stack([self.codes_K.astype(np.uint32), self.lengths_K], axis=1)
        return _variable_length(pairs_K2.reshape(-1))


def map_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the map of an image; never larger than the image."""
    scale = min(1.0, LONGEST / max(size_hw))
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def true_map(instances: Sequence[Instance], own_hw: tuple[int, int], classes: Sequence[str]) -> LabelMap:
    """The map of what is true: crowds, and boxes without a mask, are where nobody knows.

    Args:
        instances: the truth.
        own_hw: size of the image.
        classes: the class names in order.
    """
    is_known = [i.mask is not None and not i.is_crowd for i in instances]
    codes_HW = np.zeros(map_size(own_hw), np.uint16)
    for instance in (i for i, known in zip(instances, is_known, strict=True) if not known):
        codes_HW[mask_at(instance, own_hw, codes_HW.shape)] = len(classes) + 1
    known = [i for i, known in zip(instances, is_known, strict=True) if known]
    return LabelMap.of(_painted(codes_HW, known, classes))


def found_map(instances: Iterable[Instance], own_hw: tuple[int, int], classes: Sequence[str]) -> LabelMap:
    """The map of what a model found, of the instances that count as found; boxes without a mask are not drawn."""
    found = [i for i in instances if i.mask is not None]
    return LabelMap.of(_painted(np.zeros(map_size(own_hw), np.uint16), found, classes))


def _painted(codes_HW: Codes, instances: Sequence[Instance], classes: Sequence[str]) -> Codes:
    code_of = {name: code for code, name in enumerate(classes, 1)}
    for instance in large_first(instances):
        if instance.label in code_of and instance.mask is not None:
            codes_HW[masks.decode_resized(instance.mask, (codes_HW.shape[0], codes_HW.shape[1]))] = code_of[
                instance.label
            ]
    return codes_HW


def _variable_length(values: NDArray[np.uint32]) -> bytes:
    sizes = 1 + np.digitize(values, [1 << bits for bits in (7, 14, 21, 28)])
    first = np.cumsum(sizes) - sizes
    place = np.arange(sizes.sum()) - np.repeat(first, sizes)
    parts = (np.repeat(values, sizes) >> (7 * place).astype(np.uint32)) & 0x7F
    goes_on = place < np.repeat(sizes, sizes) - 1
    return (parts | np.where(goes_on, 0x80, 0)).astype(np.uint8).tobytes()
