"""Masks as run lengths: encode, decode, combine, measure. Pure functions.

A decoded mask is a boolean array `mask_HW`; an encoded one is an `Rle`.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segdist.records import Instance, Rle
from segdist.thinning import skeleton

Mask = NDArray[np.bool_]
Cut = tuple[slice, slice]
"""Rows and columns."""
_ROUNDING = 1e-5
"""Shares that differ by less are the same: 32-bit sums differ by some 1e-7, with where the part begins."""
_LONGEST = 7
"""Characters of the largest number in run lengths: 35 bits, more than any image has pixels."""
_OUTLINE = 4e6
"""Pixels of the longest outline that is drawn: pycocotools takes some 80 bytes for each."""
_FURTHEST = 1e8
"""Pixels from the image's corner; pycocotools computes with 32 bits, in fifths of a pixel."""


def encode(mask_HW: NDArray[Any]) -> Rle:
    """The run lengths of a (H, W) mask; anything non-zero is set."""
    return _rle(coco_mask.encode(np.asfortranarray(mask_HW != 0, dtype=np.uint8)))


def encode_many(masks_NHW: NDArray[Any]) -> list[Rle]:
    """The run lengths of N masks of one size."""
    if len(masks_NHW) == 0:
        return []
    return [_rle(r) for r in coco_mask.encode(np.asfortranarray(np.moveaxis(masks_NHW != 0, 0, 2), dtype=np.uint8))]


def decode(rle: Rle) -> Mask:
    """The (H, W) boolean mask."""
    return np.asarray(coco_mask.decode(rle.coco)).astype(np.bool_)


def decode_cut(rle: Rle, cut: Cut, *, margin: int = 0) -> Mask:
    """Rows and columns of the mask, in C order; only these columns are decoded, however large the image.

    Args:
        rle: the mask.
        cut: slices with start and stop, inside the image.
        margin: width of a frame of unset pixels around the cut, as in `np.pad`.
    """
    (rows, columns), height = cut, rle.size_hw[0]
    width = columns.stop - columns.start
    inside = slice(margin, margin + rows.stop - rows.start), slice(margin, margin + width)
    framed_HW = np.zeros([part.stop + margin for part in inside], np.bool_)
    if rle.area and width and rows.stop > rows.start:
        ends = np.cumsum(_runs(rle.counts)) - columns.start * height
        pixels = np.diff(np.clip(ends, 0, width * height), prepend=0)
        is_set = (np.arange(len(ends)) % 2).astype(np.uint8)
        part_WH = np.repeat(is_set, pixels).reshape(width, height)[:, rows]
        framed_HW[inside] = cv2.transpose(np.ascontiguousarray(part_WH))  # five times as fast as NumPy's
    return framed_HW


def tight_cut(*rles: Rle) -> Cut:
    """Rows and columns of the smallest cut that holds all pixels set, and at least one pixel."""
    x1, y1, x2, y2 = zip(*([rle.box_xyxy for rle in rles if rle.area] or [(0, 0, 1, 1)]), strict=True)
    return slice(int(min(y1)), int(max(y2))), slice(int(min(x1)), int(max(x2)))


def empty(size_hw: tuple[int, int]) -> Rle:
    """A mask without a pixel set."""
    return encode(np.zeros(size_hw, np.uint8))


def union(rles: Sequence[Rle], *, size_hw: tuple[int, int]) -> Rle:
    """The pixels set in any of the masks; empty of `size_hw` where there are none."""
    parts = [r.coco for r in rles]
    while len(parts) > 2:  # in pairs: one after the other, a region of many tiles takes quadratic time
        parts = [coco_mask.merge(parts[k : k + 2]) for k in range(0, len(parts), 2)]
    return _rle(coco_mask.merge(parts)) if parts else empty(size_hw)


def intersection(a: Rle, b: Rle) -> Rle:
    """The pixels set in both masks."""
    if a.size_hw != b.size_hw:
        raise ValueError(f"masks must have one size, but got {a.size_hw} and {b.size_hw}")
    return _rle(coco_mask.merge([a.coco, b.coco], intersect=True))


def intersection_area(a: Rle, b: Rle) -> int:
    """Number of pixels set in both, without decoding."""
    return intersection(a, b).area


def iou(a: Rle, b: Rle) -> float:
    """Intersection over union; NaN where both are empty."""
    common = intersection_area(a, b)
    whole = a.area + b.area - common
    return common / whole if whole else float("nan")


def from_box(box_xyxy: Sequence[float], *, size_hw: tuple[int, int]) -> Rle:
    """The filled box, rounded to whole pixels and clipped to the image."""
    height, width = size_hw
    x1, y1, x2, y2 = (round(float(v)) for v in box_xyxy)
    mask = np.zeros(size_hw, np.uint8)
    mask[max(y1, 0) : min(max(y2, 0), height), max(x1, 0) : min(max(x2, 0), width)] = 1
    return encode(mask)


def from_polygons(polygons: Sequence[Sequence[float]], *, size_hw: tuple[int, int]) -> Rle:
    """The union of polygons given as x1, y1, x2, y2, ... in pixels, rasterised as COCO does.

    Points may lie outside the image: the outline is drawn as it is and the raster is cut, as by pycocotools. Only an
    outline so long that drawing it would take gigabytes is cut first, an image's size around the image.

    Raises:
        ValueError: a polygon has fewer than three points or an odd number of coordinates, one of them is not finite, or
            there are so many and so long sides that drawing them would take all memory.
    """
    height, width = size_hw
    drawn = [part for polygon in polygons if (part := _drawable(polygon, size_hw))]
    return _rle(coco_mask.merge(coco_mask.frPyObjects(drawn, height, width))) if drawn else empty(size_hw)


def from_coco(segmentation: dict[str, Any], *, size_hw: tuple[int, int]) -> Rle:
    """An RLE dictionary from outside, compressed or not.

    Raises:
        ValueError: the size is not the image's, or the counts do not sum to height x width; pycocotools would
            read past its buffer.
    """
    height, width = (int(v) for v in segmentation["size"])
    if (height, width) != tuple(size_hw):
        raise ValueError(f"RLE size (h, w) must be the image's {tuple(size_hw)}, but is {(height, width)}")
    counts = segmentation["counts"]
    runs = _runs(counts.encode("ascii") if isinstance(counts, str) else counts)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"RLE counts must sum to h x w = {height * width}, but sum to {runs.sum()}")
    return _rle(coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))


def place(mask_HW: Mask, at_yx: tuple[int, int], size_hw: tuple[int, int]) -> Rle:
    """The run lengths, in an image of `size_hw`, of a mask whose upper left pixel lies at `at_yx`.

    The image is never decoded: that of an object in a scan of 8,000 x 8,000 pixels takes as long as the object's own.
    """
    (y, x), (height, width) = at_yx, size_hw
    if y < 0 or x < 0 or y + mask_HW.shape[0] > height or x + mask_HW.shape[1] > width:
        raise ValueError(f"a mask must lie in its image, but {mask_HW.shape} at {at_yx} does not in {size_hw}")
    steps_HW = np.diff(np.pad(mask_HW, ((1, 1), (0, 0))).view(np.int8), axis=0)
    columns, rows = np.nonzero(steps_HW.T)  # a column's ones begin and end in turn
    places = (columns + x) * height + rows + y
    goes_on = np.flatnonzero(places[1:-1:2] == places[2::2])  # one column's ones meet the next column's at the frame
    edges = np.delete(places, np.concatenate([2 * goes_on + 1, 2 * goes_on + 2]))
    last = [height * width] if not len(edges) or edges[-1] < height * width else []
    runs = np.diff(np.concatenate([[0], edges, last]))
    return _rle(coco_mask.frPyObjects({"size": [height, width], "counts": runs.astype(int).tolist()}, height, width))


def resize(mask_HW: Mask, size_hw: tuple[int, int]) -> Mask:
    """A mask at another size, in which no structure gets lost, however thin.

    Shrinking keeps a pixel that is covered at least a third as much as the most covered one around it: along wide
    regions that is a third of the pixel (areas grow by some percent at most), along a crack thinner than a pixel it
    is less. With a half, every second two-pixel line broke when shrunk by 5. Enlarging takes the nearest pixel:
    smoothing would break a diagonal line of single pixels.
    """
    if mask_HW.shape == tuple(size_hw):
        return mask_HW
    if mask_HW.flags.f_contiguous and not mask_HW.flags.c_contiguous:
        return resize(mask_HW.T, (size_hw[1], size_hw[0])).T  # decoded run lengths; OpenCV would copy them slowly
    size_wh = (size_hw[1], size_hw[0])
    if size_hw[0] >= mask_HW.shape[0] and size_hw[1] >= mask_HW.shape[1]:
        rows, columns = ((2 * np.arange(n) + 1) * of // (2 * n) for n, of in zip(size_hw, mask_HW.shape, strict=True))
        return mask_HW.take(rows, axis=0).take(columns, axis=1)
    smaller_hw = (min(size_hw[0], mask_HW.shape[0]), min(size_hw[1], mask_HW.shape[1]))
    if smaller_hw != tuple(size_hw):  # OpenCV takes no mean of areas where one side grows
        return resize(resize(mask_HW, smaller_hw), size_hw)
    cover_HW = cv2.resize(mask_HW.astype(np.float32), size_wh, interpolation=cv2.INTER_AREA)
    most_HW = cv2.dilate(cover_HW, np.ones((3, 3), np.uint8))
    return np.asarray((cover_HW >= most_HW * (1 / 3 - _ROUNDING)) & (cover_HW > 1e-4))


def decode_resized(rle: Rle, size_hw: tuple[int, int]) -> Mask:
    """A mask at another size: the same as `resize` of the whole, at the cost of what lies around its pixels.

    Between 1024 and 384 pixels, every eighth border of pixels is a third one of the other size: what lies between such
    borders can be resized alone.
    """
    found_HW = np.zeros(size_hw, np.bool_)
    if rle.area:
        spans = zip(tight_cut(rle), rle.size_hw, size_hw, strict=True)
        (rows, new_rows), (columns, new_columns) = (_shared_borders(*span) for span in spans)
        part_hw = new_rows.stop - new_rows.start, new_columns.stop - new_columns.start
        found_HW[new_rows, new_columns] = resize(decode_cut(rle, (rows, columns)), part_hw)
    return found_HW


def edge_band(mask_HW: Mask, width: int) -> Mask:
    """Pixels within `width` pixels of the mask's edge, on both sides, but for the centre line of what is thinner.

    The image's border is no edge. Distances are those between centres of pixels: a width of 1 is the outermost pixels
    of the object and those next to them.
    """
    inner, outer = mask_HW.astype(np.uint8), (~mask_HW).astype(np.uint8)
    if not inner.any() or not outer.any():
        return np.zeros(mask_HW.shape, np.bool_)
    near_HW = cv2.distanceTransform(inner, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= width
    near_HW &= cv2.distanceTransform(outer, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= width
    band_HW: Mask = near_HW & ~skeleton(mask_HW)
    return band_HW


def instances_from_classes(
    classes_HW: NDArray[np.integer[Any]], scores_CHW: NDArray[np.floating[Any]], *, classes: Sequence[str]
) -> tuple[Instance, ...]:
    """One instance a class from a semantic map: 0 is background, k is `classes[k - 1]`.

    Args:
        classes_HW: class index of each pixel.
        scores_CHW: probability of each class (background excluded); an instance's score is its mean over the region.
        classes: the class names.
    """
    found = []
    for index, label in enumerate(classes):
        mask = classes_HW == index + 1
        if mask.any():
            rle = encode(mask)
            found.append(Instance(label, rle, rle.box_xyxy, score=float(scores_CHW[index][mask].mean())))
    return tuple(found)


def _drawable(polygon: Sequence[float], size_hw: tuple[int, int]) -> list[float]:
    """A polygon that pycocotools can draw: the same, or what of it lies near the image where it reaches far away."""
    points_P2 = np.asarray(polygon, np.float64)
    if points_P2.ndim != 1 or len(points_P2) % 2 or len(points_P2) < 6:
        raise ValueError(f"a polygon must have x and y of at least three points, but has {points_P2.size} numbers")
    if not np.isfinite(points_P2).all():
        raise ValueError("a polygon must have finite coordinates, but one is NaN or infinite")
    points_P2 = points_P2.reshape(-1, 2)
    if np.abs(points_P2).max() > _FURTHEST or _outline(points_P2) > _OUTLINE:
        points_P2 = _near(np.clip(points_P2, -_FURTHEST, _FURTHEST), size_hw)
        if _outline(points_P2) > _OUTLINE:
            raise ValueError(f"a polygon of {len(points_P2)} points has an outline of {_outline(points_P2):.0f} pixels")
    return [float(v) for v in points_P2.ravel()]


def _outline(points_P2: NDArray[np.float64]) -> float:
    """Steps from pixel to pixel along a polygon."""
    return float(np.abs(points_P2 - np.roll(points_P2, 1, axis=0)).max(axis=1, initial=0.0).sum())


def _near(points_P2: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """The part of a polygon at most an image's size away from the image, by Sutherland and Hodgman (1974)."""
    for axis, side in ((0, size_hw[1]), (1, size_hw[0])):
        for limit, sign in ((-side, 1), (2 * side, -1)):
            before_P2 = np.roll(points_P2, 1, axis=0)
            here_P, there_P = (sign * (p[:, axis] - limit) for p in (points_P2, before_P2))
            share_P1 = (there_P / np.where(there_P == here_P, 1, there_P - here_P))[:, None]
            crossing_P2 = before_P2 + share_P1 * (points_P2 - before_P2)
            kept_P2 = np.stack([(here_P >= 0) != (there_P >= 0), here_P >= 0], axis=1)  # where it crosses, then itself
            points_P2 = np.stack([crossing_P2, points_P2], axis=1)[kept_P2]
    return points_P2


def _shared_borders(span: slice, side: int, new_side: int) -> tuple[slice, slice]:
    """The smallest span around this one whose ends lie on borders of pixels at both sizes; the same at the new size."""
    parts = math.gcd(side, new_side)
    first, last = span.start * parts // side, -(-span.stop * parts // side)
    here, there = (slice(first * of // parts, last * of // parts) for of in (side, new_side))
    return here, there


def _rle(coco: dict[str, Any]) -> Rle:
    height, width = coco["size"]
    return Rle((int(height), int(width)), bytes(coco["counts"]))


def _runs(counts: bytes | Sequence[int]) -> NDArray[np.int64]:
    """The run lengths. Compressed: 5 bits a character, each run from the third on relative to the one two before."""
    if not isinstance(counts, bytes):
        numbers = [int(c) for c in counts]
        if max(map(abs, numbers), default=0) >= 1 << 5 * _LONGEST:
            raise ValueError(f"RLE counts must fit an image, but one is {max(numbers, key=abs)}")
        return np.array(numbers, np.int64)
    chunks = np.frombuffer(counts, np.uint8) - np.uint8(48)
    if (chunks >= 64).any():
        wrong = counts[int(np.argmax(chunks >= 64))]
        raise ValueError(f"compressed RLE counts hold a character outside the COCO alphabet: {chr(wrong)!r}")
    goes_on = (chunks & 0x20) > 0
    if len(chunks) and goes_on[-1]:
        raise ValueError("compressed RLE counts end in the middle of a number")
    last = np.flatnonzero(~goes_on)
    first = np.concatenate([[0], last[:-1] + 1]).astype(np.int64) if len(last) else last
    if len(last) and (last - first).max() >= _LONGEST:
        raise ValueError("compressed RLE counts hold a number that no image has room for")
    place = np.arange(len(chunks)) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((chunks & 0x1F).astype(np.int64) << 5 * place, first) if len(last) else last
    negative = (chunks[last] & 0x10) > 0
    runs[negative] -= np.int64(1) << 5 * (last - first + 1)[negative]
    for parity in (1, 2):
        runs[parity::2] = np.cumsum(runs[parity::2])
    return runs
