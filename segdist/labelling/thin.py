"""Cracks, seams, cables: the mask of a thin structure from its box alone, without weights.

A box says more of a thin structure than that it lies inside: it reaches all four sides. The cheapest way through what
looks like a line, along the box and from there to the sides that it has not come to, lies on it nearly everywhere
(minimal paths, Amhaz et al. 2016, "Automatic crack detection on two-dimensional pavement images"). How wide it is
around the path, five estimates say that fail in different places; their majority is the mask, and how well they agree
with it says how far it is to be trusted.

Shapes: H and W pixels of the box, or with a surrounding where that is said.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from segdist.core.masks import Mask
from segdist.core.plugins import ImageHWC
from segdist.labelling.estimates import Corners, grabcut
from segdist.reading.geometry import cut_out

Values = NDArray[np.floating]
"""Of a picture; OpenCV says no more of what it returns."""
_SURROUNDING = 24
"""Pixels seen around the box, so that filters do not end at its sides."""
_LARGEST_SIDE = 512
"""Of a box in pixels: a larger one is looked at smaller, which bounds the time for the path to about a second."""
_LINES = ((1.0, 4.0), (1.7, 6.0), (3.0, 9.0))
"""Widths and lengths, as standard deviations in pixels, of the filters that answer to lines."""
_DIRECTIONS = 12
_STEEPNESS = 6.0
"""How much cheaper a pixel is that looks like the line than one that does not, as an exponent of e."""
_SLACK = 3
"""Pixels between the line and a side of its box at which it still reaches it: people draw boxes no closer."""
_BESIDE = (4.0, 16.0)
"""Pixels from the path between which the ground is taken to be."""
_FAR = 6.0
_WIDEST = 40
"""Pixels: half of the width of what is still thin."""
_REACH = 10
"""Pixels from the path within which its colours are looked for, or twice the line's half width where that is more."""
_RIM = (2.0, 10.0)
"""Pixels from the mask between which it is compared with what lies beside it."""


@dataclass(frozen=True)
class ThinMask:
    """What was found in a box.

    Attributes:
        mask_HW: the structure.
        score: what its IoU with the truth may be, 0..1: how well the estimates agree, less where it hardly stands out.
    """

    mask_HW: Mask
    score: float


def thin(image_HWC: ImageHWC, box_xyxy: Corners) -> ThinMask:
    """The thin structure, dark or bright, that runs through a box; at least 2 x 2 pixels of it lie in the image."""
    size_hw = image_HWC.shape[0], image_HWC.shape[1]
    rows, columns = cut_out(box_xyxy, size_hw)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    wide = (
        slice(max(0, rows.start - _SURROUNDING), min(size_hw[0], rows.stop + _SURROUNDING)),
        slice(max(0, columns.start - _SURROUNDING), min(size_hw[1], columns.stop + _SURROUNDING)),
    )
    seen_HWC = np.ascontiguousarray(image_HWC[wide])
    inner = rows.start - wide[0].start, columns.start - wide[1].start, height, width
    factor = min(1.0, _LARGEST_SIDE / max(height, width))
    if factor < 1:
        smaller = cv2.resize(seen_HWC, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        seen_HWC = np.asarray(smaller, np.uint8)
        inner = tuple(max(2 if n > 1 else 0, round(v * factor)) for n, v in enumerate(inner))
    found = max((_found(seen_HWC, inner, is_dark=is_dark) for is_dark in (True, False)), key=lambda f: f[0])[1]
    if factor < 1:
        larger_HW = cv2.resize(found.mask_HW.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        found = ThinMask(larger_HW >= 0.5, found.score)
    return found


def _found(seen_HWC: ImageHWC, inner: tuple[int, int, int, int], *, is_dark: bool) -> tuple[float, ThinMask]:
    """How surely the mask differs from what lies beside it, in the box or outside; and the mask.

    The score is the estimates' agreement squared, because what they have in common errs with them; and because on noise
    they can agree, too, times by how much more of what lies beside the mask is lighter than darker, as a rank
    correlation (Cureton 1956, "Rank-biserial correlation") with the mask's median.
    """
    top, left, height, width = inner
    part = slice(top, top + height), slice(left, left + width)
    grey_HW = cv2.cvtColor(seen_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey_HW = grey_HW if is_dark else 255 - grey_HW
    seen_HW = _floats(cv2.GaussianBlur(grey_HW, (0, 0), 1))
    value_HW, line_HW = seen_HW[part], _line_response(grey_HW)[part]
    path_HW = _path(value_HW, line_HW)
    away_HW = _distances(path_HW)
    beside_HW = (away_HW > _BESIDE[0]) & (away_HW < _BESIDE[1])
    ground = float(np.median(value_HW[beside_HW])) if beside_HW.any() else float(np.median(value_HW))
    profile = _profile(value_HW, away_HW, ground)
    as_dark_HW = _connected(value_HW <= _halfway(value_HW, path_HW, away_HW), path_HW)
    reach = np.clip(2 * float(_distances(~as_dark_HW).max()), _REACH, _WIDEST)
    estimates = [
        _by_colour(seen_HWC, part, path_HW, value_HW, away_HW <= reach),
        as_dark_HW,
        _by_edge(value_HW, path_HW),
        away_HW < max(_half_width(profile), 1.1),
        _by_line(line_HW, path_HW, away_HW),
    ]
    mask_HW = np.sum(estimates, axis=0) > len(estimates) / 2
    agreement = float(np.median([_iou(e, mask_HW) for e in estimates]))
    lighter = _lighter_beside(seen_HW, part, mask_HW)
    return lighter, ThinMask(mask_HW, agreement**2 * max(0.0, 2 * lighter - 1))


def _lighter_beside(seen_HW: Values, part: tuple[slice, slice], mask_HW: Mask) -> float:
    """Share of the pixels beside the mask that are lighter than its median.

    A rank, as in the test of Mann and Whitney (1947): a bright stone beside a crack has more contrast than the crack,
    but less surely so, because cracks run along it.
    """
    whole_HW = np.zeros(seen_HW.shape, np.bool_)
    whole_HW[part] = mask_HW
    away_HW = _distances(whole_HW)
    beside_HW = (away_HW > _RIM[0]) & (away_HW < _RIM[1])
    return float((seen_HW[beside_HW] > np.median(seen_HW[whole_HW])).mean()) if beside_HW.any() else 0.0


def _distances(mask_HW: Mask) -> Values:
    """Of each pixel from the mask, in pixels."""
    return _floats(cv2.distanceTransform((~mask_HW).astype(np.uint8), cv2.DIST_L2, 5))


def _line_response(grey_HW: Values) -> Values:
    """How much darker a line through each pixel is than what lies beside it: the best of all directions and widths."""
    answers = [cv2.filter2D(grey_HW, cv2.CV_32F, k, borderType=cv2.BORDER_REFLECT) for k in _line_filters()]
    return np.maximum(np.max(answers, axis=0), 0)


@cache
def _line_filters() -> list[Values]:
    """Second derivatives of a Gaussian across, a longer Gaussian along."""
    found = []
    for across, along in _LINES:
        reach = int(3 * along) + 1
        y_HW, x_HW = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
        for angle in np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
            u_HW, v_HW = x_HW * np.cos(angle) + y_HW * np.sin(angle), y_HW * np.cos(angle) - x_HW * np.sin(angle)
            filter_HW = ((v_HW / across) ** 2 - 1) * np.exp(-((v_HW / across) ** 2) / 2 - (u_HW / along) ** 2 / 2)
            filter_HW -= filter_HW.mean()
            found.append((filter_HW / np.abs(filter_HW).sum()).astype(np.float32))
    return found


def _path(value_HW: Values, line_HW: Values) -> Mask:
    """The cheapest way along the box, and the cheapest from it to each side that it does not reach."""
    strength_HW = np.clip(line_HW / (np.percentile(line_HW, 99) + 1e-6), 0, 1)
    darkness_HW = 1 - (value_HW.argsort(axis=None).argsort().reshape(value_HW.shape) + 0.5) / value_HW.size
    cost_HW = np.exp(-_STEEPNESS * (strength_HW + darkness_HW) / 2) + 0.002
    graph, index_HW = _grid_graph(cost_HW)
    path_HW = np.zeros(value_HW.shape, np.bool_)
    height, width = value_HW.shape
    turned, turned_index = (path_HW, index_HW) if width >= height else (path_HW.T, index_HW.T)  # views: along is across
    path_HW.flat[_cheapest_way(graph, turned_index[:, 0], turned_index[:, -1])] = True
    slack = 1 + min(_SLACK, min(height, width) // 4)
    for near, side in ((turned[:slack], turned_index[0]), (turned[-slack:], turned_index[-1])):
        if not near.any():
            path_HW.flat[_cheapest_way(graph, index_HW[path_HW], side)] = True
    return path_HW


def _cheapest_way(graph: csr_array, starts_K: NDArray[np.int32], ends_K: NDArray[np.int32]) -> list[int]:
    """Pixels from one of the ends to one of the starts."""
    costs, before, _ = dijkstra(graph, directed=False, indices=starts_K, return_predecessors=True, min_only=True)
    way = [int(ends_K[costs[ends_K].argmin()])]
    while before[way[-1]] >= 0:
        way.append(int(before[way[-1]]))
    return way


def _grid_graph(cost_HW: NDArray[np.floating]) -> tuple[csr_array, NDArray[np.int32]]:
    """Pixels as nodes, edges to their eight neighbours that cost the mean of both times the distance."""
    index_HW = np.arange(cost_HW.size, dtype=np.int32).reshape(cost_HW.shape)
    starts, ends, costs = [], [], []
    for a, b, distance in (
        (np.s_[:, :-1], np.s_[:, 1:], 1.0),
        (np.s_[:-1], np.s_[1:], 1.0),
        (np.s_[:-1, :-1], np.s_[1:, 1:], np.sqrt(2)),
        (np.s_[:-1, 1:], np.s_[1:, :-1], np.sqrt(2)),
    ):
        starts.append(index_HW[a].ravel())
        ends.append(index_HW[b].ravel())
        costs.append((cost_HW[a] + cost_HW[b]).ravel() * (distance / 2))
    edges = np.concatenate(costs), (np.concatenate(starts), np.concatenate(ends))
    return csr_array(edges, shape=(cost_HW.size, cost_HW.size)), index_HW


def _profile(value_HW: Values, away_HW: Values, ground: float) -> Values:
    """How far the mean value falls below the ground, at each whole distance from the path."""
    distance_HW = np.minimum(np.rint(away_HW), _WIDEST).astype(np.intp)
    counts = np.bincount(distance_HW.ravel(), minlength=_WIDEST + 1)
    sums = np.bincount(distance_HW.ravel(), weights=value_HW.ravel(), minlength=_WIDEST + 1)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), ground)
    return np.asarray(ground - means, np.float32)


def _half_width(profile: Values) -> int:
    """Distance from the path at which half of the contrast is left."""
    below = np.flatnonzero(profile < profile[0] / 2)
    return int(below[0]) if len(below) else _WIDEST


def _halfway(value_HW: Values, path_HW: Mask, away_HW: Values) -> float:
    """A threshold between what the path has and what the rest has."""
    far_HW = away_HW > _FAR
    on, off = float(np.median(value_HW[path_HW])), float(np.median(value_HW[far_HW] if far_HW.any() else value_HW))
    return on + 0.6 * (off - on)


def _by_edge(value_HW: Values, path_HW: Mask) -> Mask:
    """What a threshold leaves of the path's surroundings, for the threshold with the sharpest edge."""
    kernel = np.ones((3, 3), np.uint8)
    best, sharpest = path_HW, -np.inf
    for threshold in np.unique(np.percentile(value_HW, np.arange(5, 96, 3))):
        inside_HW = _connected(value_HW <= threshold, path_HW)
        if inside_HW.mean() > 0.9:
            continue
        rim_HW = inside_HW & ~cv2.erode(inside_HW.astype(np.uint8), kernel).astype(bool)
        around_HW = cv2.dilate(inside_HW.astype(np.uint8), kernel).astype(bool) & ~inside_HW
        if around_HW.any() and rim_HW.any():
            sharpness = float(value_HW[around_HW].mean() - value_HW[rim_HW].mean())
            if sharpness > sharpest:
                best, sharpest = inside_HW, sharpness
    return best


def _by_line(line_HW: Values, path_HW: Mask, away_HW: Values) -> Mask:
    """Where the filters for lines answer, near the path."""
    near_HW = away_HW < _FAR
    threshold = _otsu(line_HW[near_HW])
    return _connected((line_HW > threshold) & near_HW, path_HW)


def _by_colour(seen_HWC: ImageHWC, part: tuple[slice, slice], path_HW: Mask, value_HW: Values, near_HW: Mask) -> Mask:
    """GrabCut (Rother et al. 2004) that knows the path, and that nothing lies outside the box or far from the path."""
    dark_HW = value_HW <= _otsu(value_HW)
    kinds_HW = np.full(seen_HWC.shape[:2], cv2.GC_BGD, np.uint8)
    kinds_HW[part] = np.where(dark_HW, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    kinds_HW[part][~near_HW] = cv2.GC_BGD
    kinds_HW[part][path_HW] = cv2.GC_FGD
    found_HW = grabcut(seen_HWC, kinds_HW, iterations=3)
    return _connected(dark_HW if found_HW is None else found_HW[part], path_HW)


def _connected(inside_HW: Mask, path_HW: Mask) -> Mask:
    """The path, and what of the mask touches it."""
    _, labels_HW = cv2.connectedComponents((inside_HW | path_HW).astype(np.uint8), connectivity=8)
    return np.isin(labels_HW, np.unique(labels_HW[path_HW]))


def _floats(values: NDArray[np.number]) -> Values:
    return np.asarray(values, np.float32)


def _otsu(values: Values) -> float:
    """Otsu's threshold (1979) over 256 steps between the extremes."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    steps = np.rint((values - low) * (255 / (high - low))).astype(np.uint8).reshape(1, -1)
    threshold, _ = cv2.threshold(steps, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return low + (threshold + 0.5) * (high - low) / 255


def _iou(a_HW: Mask, b_HW: Mask) -> float:
    either = np.count_nonzero(a_HW | b_HW)
    return np.count_nonzero(a_HW & b_HW) / either if either else 1.0
