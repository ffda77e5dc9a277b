"""Tiles without overlap: each is asked about alone, and pieces of an object that touch at a border are joined.

A tile is `side` pixels high and wide at the network's scale; what lies outside the image is padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np

from segdist.core import masks
from segdist.core.plugins import Example, ImageHWC
from segdist.core.records import Instance, Rle
from segdist.reading.examples import scaled_size

_AROUND = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class PlacedTile:
    """Where a tile lies in an image of its own size.

    Attributes:
        top, left: of its first pixel.
        size_hw: of what it shows of the image.
        frame_hw: of the whole tile with its padding, which locations are shares of.
    """

    top: int
    left: int
    size_hw: tuple[int, int]
    frame_hw: tuple[int, int]

    def place(self, instance: Instance, size_hw: tuple[int, int]) -> Instance:
        """An instance of the tile in the pixels of the whole image."""
        x1, y1, x2, y2 = instance.box_xyxy
        box_xyxy = (x1 + self.left, y1 + self.top, x2 + self.left, y2 + self.top)
        if instance.mask is None:
            return replace(instance, box_xyxy=box_xyxy)
        whole_HW = np.zeros(size_hw, np.bool_)
        height, width = self.size_hw
        whole_HW[self.top : self.top + height, self.left : self.left + width] = masks.decode(instance.mask)
        return replace(instance, mask=masks.encode(whole_HW), box_xyxy=box_xyxy)


def tiles_of(size_hw: tuple[int, int], *, side: int, tiles: int) -> list[PlacedTile]:
    """The tiles that show something of an image, row by row.

    Args:
        size_hw: of the image.
        side: of a tile at the network's scale.
        tiles: rows and columns of them.
    """
    scaled_hw = scaled_size(size_hw, side * tiles)
    (rows, height), (columns, width) = (
        _spans(own, scaled, side, tiles) for own, scaled in zip(size_hw, scaled_hw, strict=True)
    )
    return [PlacedTile(y1, x1, (y2 - y1, x2 - x1), (height, width)) for y1, y2 in rows for x1, x2 in columns]


def cut(example: Example, *, side: int, tiles: int) -> list[Example]:
    """The tiles of an example, each with what it shows of every object."""
    if tiles == 1:
        return [example]
    height, width = example.image_HWC.shape[:2]
    starts = [(y, x) for y in range(0, side * tiles, side) for x in range(0, side * tiles, side)]
    return [_part(example, y, x, side) for y, x in starts if y < height and x < width]


def cut_image(image_HWC: ImageHWC, *, side: int, tiles: int) -> list[ImageHWC]:
    """The tiles of an image that is scaled already."""
    height, width = image_HWC.shape[:2]
    starts = [(y, x) for y in range(0, side * tiles, side) for x in range(0, side * tiles, side)]
    return [image_HWC[y : y + side, x : x + side] for y, x in starts if y < height and x < width]


def joined(found: Sequence[tuple[int, Instance]], *, size_hw: tuple[int, int]) -> list[Instance]:
    """Instances of the whole image, with pieces of one label that touch across a border made one.

    Args:
        found: the number of a tile, and an instance in the pixels of the whole image.
        size_hw: of the image.
    """
    group = list(range(len(found)))
    for a, b in combinations(range(len(found)), 2):
        if found[a][0] != found[b][0] and _touch(found[a][1], found[b][1]):
            group = [group[a] if g == group[b] else g for g in group]
    members = [[found[n][1] for n, g in enumerate(group) if g == one] for one in dict.fromkeys(group)]
    return [_union(pieces, size_hw) for pieces in members]


def _spans(own: int, scaled: int, side: int, tiles: int) -> tuple[list[tuple[int, int]], int]:
    """First and end pixel of each tile along one side of the image, and how many pixels a whole tile would have."""
    factor = own / scaled
    starts = [k * side for k in range(tiles) if k * side < scaled]
    spans = [(round(s * factor), min(own, round((s + side) * factor))) for s in starts]
    return [(a, b) for a, b in spans if a < b], round(side * factor)


def _part(example: Example, y: int, x: int, side: int) -> Example:
    rows, columns = slice(y, y + side), slice(x, x + side)
    masks_NHW = example.masks_NHW[:, rows, columns]
    shown = masks_NHW.any(axis=(1, 2)) if len(masks_NHW) else np.zeros(0, np.bool_)
    boxes = [masks.encode(mask_HW).box_xyxy for mask_HW in masks_NHW[shown]]
    return replace(
        example,
        image_HWC=example.image_HWC[rows, columns],
        labels=example.labels[shown],
        masks_NHW=masks_NHW[shown],
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=example.scores[shown],
        ignore_HW=example.ignore_HW[rows, columns],
    )


def _touch(one: Instance, other: Instance) -> bool:
    if one.label != other.label or one.mask is None or other.mask is None:
        return False
    (x1, y1, x2, y2), (u1, v1, u2, v2) = one.mask.box_xyxy, other.mask.box_xyxy
    if x1 > u2 or u1 > x2 or y1 > v2 or v1 > y2:  # the boxes are more than nothing apart
        return False
    wide_HW = cv2.dilate(masks.decode(one.mask).astype(np.uint8), _AROUND) > 0
    return bool((wide_HW & masks.decode(other.mask)).any())


def _union(pieces: Sequence[Instance], size_hw: tuple[int, int]) -> Instance:
    """One instance of several; its score is their mean, weighted by their area."""
    if len(pieces) == 1:
        return pieces[0]
    whole_HW = np.zeros(size_hw, np.bool_)
    for rle in _masks(pieces):
        whole_HW |= masks.decode(rle)
    whole = masks.encode(whole_HW)
    weights = [rle.area for rle in _masks(pieces)]
    score = float(np.average([piece.score for piece in pieces], weights=weights))
    return Instance(pieces[0].label, whole, whole.box_xyxy, score)


def _masks(pieces: Sequence[Instance]) -> Iterator[Rle]:
    yield from (piece.mask for piece in pieces if piece.mask is not None)
