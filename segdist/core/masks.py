"""Masks as run lengths: encode, decode, combine, measure. Pure functions.

A decoded mask is a boolean array `mask_HW`; an encoded one is an `Rle`. pycocotools trusts its input: it takes
gigabytes for a coordinate far outside, and reads past its buffer where run lengths do not fill the image. So
`from_polygons`, `from_coco` and `from_box` refuse with a `ValueError` what no image can hold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segdist.core.records import CocoRle, Instance, Rle
from segdist.core.run_lengths import LONGEST, run_lengths
from segdist.core.skeletons import skeleton
from segdist.core.text import counted, short

Mask = NDArray[np.bool_]
Areas = NDArray[np.int64]
Cut = tuple[slice, slice]
"""Rows and columns."""
_ROUNDING = 1e-5
"""Shares that differ by less are the same: 32-bit sums differ by some 1e-7, with where the part begins."""
MOST_RUNS = 1 << 23
"""Run lengths of one mask: pure noise in an image of 4,000 x 4,000 pixels has as many."""
MOST_POINTS = 1_000_000
"""Points of the polygons of one mask."""
MOST_OUTLINE = 1 << 22
"""Pixels that the outlines of one mask's polygons may be long: pycocotools takes 80 bytes and 0.2 us for each."""
_FARTHEST = 1e9
"""Pixels from the origin that a point counts as: farther, sums are no longer exact to a fraction of a pixel."""
_PLENTY = 1 << 17
"""Pixels of outline from which on a polygon is first cut to the neighbourhood of its image."""


def encode(mask_HW: NDArray[np.generic]) -> Rle:
    """The run lengths of a (H, W) mask; anything non-zero is set."""
    return _rle(coco_mask.encode(np.asfortranarray(mask_HW != 0, dtype=np.uint8)))


def encode_many(masks_NHW: NDArray[Any]) -> list[Rle]:
    """The run lengths of N masks of one size."""
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
    return from_edges(np.zeros(0, np.int64), size_hw)


def union(rles: Sequence[Rle], *, size_hw: tuple[int, int]) -> Rle:
    """The pixels set in any of the masks; empty of `size_hw` where there are none."""
    return _rle(merged([r.coco for r in rles])) if rles else empty(size_hw)


def merged(parts: list[CocoRle]) -> CocoRle:
    """The union of one and more masks, as pycocotools has them.

    In pairs: one after the other, as pycocotools does it, a region of many tiles takes quadratic time.
    """
    while len(parts) > 2:
        parts = [coco_mask.merge(parts[k : k + 2]) for k in range(0, len(parts), 2)]
    found: CocoRle = coco_mask.merge(parts)
    return found


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
    """The filled box, rounded to whole pixels and clipped to the image.

    Raises:
        ValueError: a side is not finite.
    """
    if not all(math.isfinite(v) for v in box_xyxy):
        raise ValueError(f"a box must have finite sides, but is {tuple(box_xyxy)}")
    height, width = size_hw
    x1, x2 = (min(max(round(v), 0), width) for v in (float(box_xyxy[0]), float(box_xyxy[2])))
    y1, y2 = (min(max(round(v), 0), height) for v in (float(box_xyxy[1]), float(box_xyxy[3])))
    if x1 >= x2 or y1 >= y2:
        return empty(size_hw)
    columns = np.arange(x1, x2) * height
    return from_edges(np.stack([columns + y1, columns + y2], axis=1).ravel(), size_hw)


def from_polygons(polygons: Sequence[Sequence[float] | NDArray[np.float64]], *, size_hw: tuple[int, int]) -> Rle:
    """The union of polygons given as x1, y1, x2, y2, ... in pixels, rasterised as COCO does.

    Points may lie outside the image: the outline is drawn as it is and the raster is cut, as by pycocotools. Only an
    outline that reaches far out is cut first, an image's size around the image.

    Raises:
        ValueError: one has not three points of finite x and y, or all together are larger than any object is.
    """
    drawn = _drawn(polygons, size_hw)
    return _rle(merged(drawn)) if drawn else empty(size_hw)


def polygon_areas(polygons: Sequence[Sequence[float] | NDArray[np.float64]], *, size_hw: tuple[int, int]) -> Areas:
    """Pixels of each polygon alone, as `from_polygons` draws it; 0 where it is far outside.

    Raises:
        ValueError: see `from_polygons`.
    """
    return np.array([int(coco_mask.area(rle)) for rle in _drawn(polygons, size_hw)], np.int64)


def outline_lengths(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """How long the outlines of polygons are, in pixels by the longer side of each edge, as pycocotools walks them.

    Args:
        values: x, y, x, y, ... of all polygons, one behind the other.
        starts: where each begins in `values`.
    """
    if not len(values):
        return np.zeros(len(starts))
    points_N2, first = values.reshape(-1, 2), starts // 2
    following = np.arange(1, len(points_N2) + 1)
    following[np.r_[first[1:], len(points_N2)] - 1] = first
    edges = np.abs(points_N2[following] - points_N2).max(axis=1)
    return np.asarray(np.add.reduceat(edges, first))


def from_coco(segmentation: Mapping[str, object], *, size_hw: tuple[int, int]) -> Rle:
    """An RLE dictionary from outside, compressed or not.

    Raises:
        ValueError: it lacks a key, the size is not the image's, or the counts do not sum to height x width.
    """
    for key in ("size", "counts"):
        if key not in segmentation:
            raise ValueError(f"an RLE needs `size` and `counts`, but has no '{key}'")
    size, (height, width) = segmentation["size"], Rle.checked(size_hw)
    if not isinstance(size, list | tuple) or tuple(size) != (height, width):
        came = short(tuple(size) if isinstance(size, list) else size)
        raise ValueError(f"RLE size (h, w) must be the image's {(height, width)}, but is {came}")
    runs = _runs(_counts(segmentation["counts"]))
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"RLE counts must sum to h x w = {height * width}, but sum to {runs.sum()}")
    return _from_runs(runs, (height, width))


def from_edges(edges: NDArray[np.int64], size_hw: tuple[int, int]) -> Rle:
    """A mask from the places where it begins and ends in turn, counted down each column; the last may be left out.

    Where it ends at the frame of one column and begins at that of the next, it goes on.
    """
    end = size_hw[0] * size_hw[1]
    goes_on = np.flatnonzero(edges[1:-1:2] == edges[2::2])
    edges = np.delete(edges, np.concatenate([2 * goes_on + 1, 2 * goes_on + 2]))
    last = [end] if not len(edges) or edges[-1] < end else []  # no empty run at the end
    ends: NDArray[np.int64] = np.concatenate([edges, last]).astype(np.int64)
    return _from_runs(np.diff(ends, prepend=0), size_hw)


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
    return from_edges(places, size_hw)


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
    classes_HW: NDArray[np.integer], scores_CHW: NDArray[np.floating], *, classes: Sequence[str]
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


def _shared_borders(span: slice, side: int, new_side: int) -> tuple[slice, slice]:
    """The smallest span around this one whose ends lie on borders of pixels at both sizes; the same at the new size."""
    parts = math.gcd(side, new_side)
    first, last = span.start * parts // side, -(-span.stop * parts // side)
    here, there = (slice(first * of // parts, last * of // parts) for of in (side, new_side))
    return here, there


def _rle(coco: CocoRle) -> Rle:
    height, width = coco["size"]
    return Rle((int(height), int(width)), bytes(coco["counts"]))


def _from_runs(runs: NDArray[np.int64], size_hw: tuple[int, int]) -> Rle:
    """A mask from run lengths that fill the image."""
    return _rle(coco_mask.frPyObjects({"size": list(size_hw), "counts": runs}, *Rle.checked(size_hw)))


def _drawn(polygons: Sequence[Sequence[float] | NDArray[np.float64]], size_hw: tuple[int, int]) -> list[CocoRle]:
    """Each polygon as pycocotools draws it."""
    parts = _points(polygons)
    if not parts:
        return []
    for n in np.flatnonzero(_outlines(parts) > _PLENTY).tolist():
        parts[n] = _within_reach(parts[n], size_hw)
    if (length := _outlines(parts).sum()) > MOST_OUTLINE:
        raise ValueError(f"polygons must have an outline of at most {MOST_OUTLINE:,} pixels, but have {length:,.0f}")
    found: list[CocoRle] = coco_mask.frPyObjects(parts, *Rle.checked(size_hw))
    return found


def _outlines(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return outline_lengths(np.concatenate(parts), np.cumsum([0, *map(len, parts[:-1])]))


def _points(polygons: Sequence[Sequence[float] | NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Each polygon as x, y, x, y, ..., with finite numbers, none so large that sums lose pixels."""
    kinds = (list, tuple, np.ndarray)
    if not isinstance(polygons, kinds) or not all(isinstance(polygon, kinds) for polygon in polygons):
        raise ValueError(f"polygons must be lists of numbers, but are {short(polygons)}")
    if (amount := sum(map(len, polygons))) > 2 * MOST_POINTS:
        raise ValueError(f"polygons of a mask must have at most {MOST_POINTS:,} points, but have {amount // 2:,}")
    found = []
    for polygon in polygons:
        try:
            values = np.asarray(polygon, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"a polygon must be a list of numbers, but is {short(polygon)}") from None
        if values.ndim != 1 or len(values) % 2 or len(values) < 6:
            raise ValueError(
                f"a polygon must be x and y of at least three points, but has {counted(values.size, 'number')}"
            )
        if not np.isfinite(values).all():
            raise ValueError("a polygon must have finite coordinates, but one is NaN or infinite")
        found.append(np.clip(values, -_FARTHEST, _FARTHEST))
    return found


def _within_reach(values: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """A polygon without what lies farther outside its image than that is large (Sutherland and Hodgman 1974)."""
    points_N2, margin = values.reshape(-1, 2), float(sum(size_hw))
    for axis, side in ((0, size_hw[1]), (1, size_hw[0])):
        for limit, sign in ((-margin, 1.0), (side + margin, -1.0)):
            points_N2 = _cut_at_line(points_N2, axis, limit, sign)
    return points_N2.ravel() if len(points_N2) >= 3 else np.full(6, -margin)  # nothing: a point outside


def _cut_at_line(points_N2: NDArray[np.float64], axis: int, limit: float, sign: float) -> NDArray[np.float64]:
    """What of a polygon lies above (sign 1) or below (-1) a limit of one coordinate."""
    inside = sign * (points_N2[:, axis] - limit) >= 0
    if inside.all():
        return points_N2
    before_N2, crosses = np.roll(points_N2, 1, axis=0), inside != np.roll(inside, 1)
    start_N2, step_N2 = before_N2[crosses], (points_N2 - before_N2)[crosses]
    meets_N2 = start_N2 + ((limit - start_N2[:, axis]) / step_N2[:, axis])[:, None] * step_N2
    order = np.argsort(np.r_[2 * np.flatnonzero(crosses), 2 * np.flatnonzero(inside) + 1])
    return np.concatenate([meets_N2, points_N2[inside]])[order]


def _counts(written: object) -> bytes | Sequence[int] | NDArray[np.generic]:
    """The counts of an RLE from outside, if there are not too many to be looked at."""
    if isinstance(written, str):
        written = written.encode("ascii")
    if not isinstance(written, bytes | list | tuple | np.ndarray):
        raise ValueError(f"RLE counts must be text or a list of numbers, but are {short(written)}")
    if len(written) > MOST_RUNS:
        raise ValueError(f"a mask must have at most {MOST_RUNS:,} run lengths, but these are {len(written):,} long")
    return written


def _runs(counts: bytes | Sequence[int] | NDArray[np.generic]) -> NDArray[np.int64]:
    """The run lengths, compressed or not."""
    if isinstance(counts, bytes):
        return run_lengths(counts)
    try:
        numbers = np.asarray(counts, np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.full(1, np.nan)
    if numbers.ndim != 1 or not (np.isfinite(numbers) & (np.trunc(numbers) == numbers)).all():
        raise ValueError(f"RLE counts must be whole numbers, but are {short(counts)}")
    if np.abs(numbers).max(initial=0) >= 1 << 5 * LONGEST:
        raise ValueError(f"RLE counts must fit an image, but are {short(counts)}")
    return numbers.astype(np.int64)
