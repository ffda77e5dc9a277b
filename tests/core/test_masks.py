"""Run lengths agree with NumPy and pycocotools, and what comes from outside is checked."""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask
from scipy.ndimage import distance_transform_edt, maximum_filter
from skimage.morphology import skeletonize

from segdist.core import masks

Shape = tuple[int, int]
shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
fills = st.one_of(st.booleans(), st.just(False), st.just(True))
drawn = shapes.flatmap(lambda shape: arrays(np.bool_, shape, elements=st.booleans(), fill=fills))
pairs = shapes.flatmap(lambda shape: st.tuples(*[arrays(np.bool_, shape, elements=st.booleans())] * 2))


@given(drawn)
def test_a_mask_comes_back_as_it_was(mask: masks.Mask) -> None:
    again = masks.decode(masks.encode(mask))
    assert again.dtype == np.bool_
    assert np.array_equal(again, mask)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (9, 1), (7, 5)])
@pytest.mark.parametrize("value", [False, True])
def test_empty_full_and_one_pixel_wide_masks_come_back(size_hw: Shape, *, value: bool) -> None:
    mask = np.full(size_hw, value)
    rle = masks.encode(mask)
    assert np.array_equal(masks.decode(rle), mask)
    assert rle.area == mask.sum()
    assert list(rle.box_xyxy) == ([0, 0, size_hw[1], size_hw[0]] if value else [0] * 4)
    assert (rle == masks.empty(size_hw)) is not value


@given(drawn, st.data())
def test_a_part_of_a_mask_is_decoded_as_it_would_be_cut_out(mask: masks.Mask, data: st.DataObject) -> None:
    spans = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in mask.shape]
    margin = data.draw(st.integers(0, 2))
    cut = slice(*spans[0]), slice(*spans[1])
    part = masks.decode_cut(masks.encode(mask), cut, margin=margin)
    assert part.flags.c_contiguous
    assert part.dtype == np.bool_
    assert np.array_equal(part, np.pad(mask[cut], margin))


def test_a_tight_cut_holds_every_pixel_of_all_masks_and_no_empty_row_or_column() -> None:
    first, second = np.zeros((2, 9, 12), np.bool_)
    first[3, 7] = second[5:7, 1] = True
    one, other, nothing = masks.encode(first), masks.encode(second), masks.empty((9, 12))
    assert masks.tight_cut(one) == (slice(3, 4), slice(7, 8))
    assert masks.tight_cut(one, nothing, other) == (slice(3, 7), slice(1, 8))
    assert masks.tight_cut(nothing) == masks.tight_cut() == (slice(0, 1), slice(0, 1))


@given(drawn)
def test_area_and_box_are_those_of_the_pixels(mask: masks.Mask) -> None:
    rle = masks.encode(mask)
    assert rle.size_hw == mask.shape
    assert rle.area == np.count_nonzero(mask)
    if mask.any():
        ys, xs = np.nonzero(mask)
        assert rle.box_xyxy == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@given(drawn, st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_a_mask_placed_in_a_larger_image_is_that_of_the_padded_pixels(
    mask: masks.Mask, top: int, bottom: int, left: int, right: int
) -> None:
    padded = np.pad(mask, ((top, bottom), (left, right)))
    assert masks.place(mask, (top, left), padded.shape) == masks.encode(padded)


@pytest.mark.parametrize("at_yx", [(-1, 0), (0, -1), (2, 0), (0, 2)])
def test_a_mask_that_reaches_outside_its_image_is_refused(at_yx: Shape) -> None:
    with pytest.raises(ValueError, match="must lie in its image"):
        masks.place(np.ones((3, 3), np.bool_), at_yx, (4, 4))


@given(drawn, st.booleans())
def test_places_where_a_mask_begins_and_ends_are_its_run_lengths(mask: masks.Mask, last: bool) -> None:
    """Each column's on its own, as `place` has them; the end of the image may be left out."""
    framed = np.pad(mask, ((1, 1), (0, 0))).astype(np.int8)
    columns, rows = np.nonzero(np.diff(framed, axis=0).T)
    edges = columns * len(mask) + rows
    if not last and mask[-1:, -1:].any():
        edges = edges[:-1]
    assert masks.from_edges(edges, mask.shape) == masks.encode(mask)


@given(pairs)
def test_union_intersection_and_iou_are_those_of_the_pixels(pair: tuple[masks.Mask, masks.Mask]) -> None:
    a, b = pair
    one, other = masks.encode(a), masks.encode(b)
    assert np.array_equal(masks.decode(masks.union([one, other], size_hw=one.size_hw)), a | b)
    assert np.array_equal(masks.decode(masks.intersection(one, other)), a & b)
    assert masks.intersection_area(one, other) == (a & b).sum()
    if (a | b).any():
        assert masks.iou(one, other) == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-15)
    else:
        assert math.isnan(masks.iou(one, other))


def test_a_union_of_nothing_is_empty() -> None:
    assert masks.union([], size_hw=(3, 4)) == masks.empty((3, 4))


def test_masks_of_two_sizes_do_not_intersect() -> None:
    with pytest.raises(ValueError, match=r"one size.*\(2, 3\).*\(3, 2\)"):
        masks.intersection(masks.empty((2, 3)), masks.empty((3, 2)))


@given(shapes.flatmap(lambda s: arrays(np.bool_, (3, *s), elements=st.booleans())))
def test_many_masks_are_encoded_as_each_alone(stack: np.ndarray) -> None:
    assert masks.encode_many(stack) == [masks.encode(m) for m in stack]
    assert masks.encode_many(stack[:1]) == [masks.encode(stack[0])]


def test_no_masks_are_encoded_to_none() -> None:
    assert masks.encode_many(np.zeros((0, 4, 5))) == []


@given(st.tuples(*[st.floats(-9, 30)] * 4))
def test_a_box_is_filled_to_whole_pixels_inside_the_image(box_xyxy: tuple[float, ...]) -> None:
    expected = np.zeros((15, 20), np.bool_)
    x1, y1, x2, y2 = (round(v) for v in box_xyxy)
    for y in range(15):
        for x in range(20):
            expected[y, x] = x1 <= x < x2 and y1 <= y < y2
    assert masks.from_box(box_xyxy, size_hw=(15, 20)) == masks.encode(expected)


def _uncompressed(mask: masks.Mask) -> list[int]:
    """The run lengths, counted pixel by pixel: column after column, zeros first."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = bool(pixel)
        runs[-1] += 1
    return runs


@given(drawn)
def test_run_lengths_from_outside_are_read_as_pycocotools_does(mask: masks.Mask) -> None:
    size = list(mask.shape)
    compressed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    for counts in (compressed, compressed.decode("ascii"), _uncompressed(mask)):
        rle = masks.from_coco({"size": size, "counts": counts}, size_hw=mask.shape)
        assert rle.counts == compressed
        assert np.array_equal(masks.decode(rle), mask)


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=12))
def test_long_runs_are_read_as_pycocotools_does(runs: list[int]) -> None:
    width = max(sum(runs), 1)
    runs[-1] += width - sum(runs)
    rle = coco_mask.frPyObjects({"size": [1, width], "counts": runs}, 1, width)
    assert masks.from_coco({"size": [1, width], "counts": rle["counts"]}, size_hw=(1, width)).counts == rle["counts"]


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [4, 5], "counts": [3, 4]}, "sum to h x w = 20, but sum to 7"),
        ({"size": [4, 5], "counts": [30, -10]}, "sum to h x w = 20"),
        ({"size": [5, 4], "counts": [20]}, r"image's \(4, 5\), but is \(5, 4\)"),
        ({"size": [4, 5], "counts": "34"}, "sum to h x w = 20, but sum to 7"),
        ({"size": [4, 5], "counts": "3 "}, "outside the COCO alphabet: ' '"),
        ({"size": [4, 5], "counts": "3p"}, "outside the COCO alphabet: 'p'"),
        ({"size": [4, 5], "counts": "\N{LATIN SMALL LETTER E WITH ACUTE}"}, "ascii"),
        ({"size": [4, 5], "counts": "P"}, "middle of a number"),
        ({"size": [4, 5], "counts": "P" * 7 + "0"}, "no image has room for"),
        ({"size": [4, 5], "counts": ""}, "sum to h x w = 20, but sum to 0"),
        ({"size": [4, 5], "counts": []}, "sum to h x w = 20, but sum to 0"),
        ({"size": [4, 5], "counts": [1 << 35]}, "must fit an image"),
        ({"size": [4, 5], "counts": [10**30]}, "must fit an image"),
        ({"size": [4, 5], "counts": [10**400]}, "whole numbers"),
        ({"size": [4, 5], "counts": [19.5, 0.5]}, "whole numbers"),
        ({"size": [4, 5], "counts": [math.inf, -math.inf]}, "whole numbers"),
        ({"size": [4, 5], "counts": [[20]]}, "whole numbers"),
        ({"size": [4, 5], "counts": {"20": 1}}, "text or a list"),
        ({"size": [4, 5], "counts": 20}, "text or a list"),
        ({"size": [4, 5], "counts": "0" * (masks.MOST_RUNS + 1)}, "at most 8,388,608 run lengths"),
        ({"size": [4, 5], "counts": [0] * (masks.MOST_RUNS + 1)}, "at most 8,388,608 run lengths"),
        ({"size": math.nan, "counts": [20]}, r"image's \(4, 5\), but is nan"),
        ({"size": [4, 5, 1], "counts": [20]}, r"image's \(4, 5\), but is \(4, 5, 1\)"),
        ({"size": [4, 5]}, "has no 'counts'"),
        ({"counts": [20]}, "has no 'size'"),
    ],
)
def test_run_lengths_that_do_not_fit_the_image_are_refused(segmentation: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        masks.from_coco(segmentation, size_hw=(4, 5))


@given(
    st.lists(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 20)), min_size=3, max_size=7), min_size=1, max_size=3)
)
def test_polygons_are_united_as_pycocotools_draws_them(polygons: list[list[tuple[float, float]]]) -> None:
    flat = [[v for point in polygon for v in point] for polygon in polygons]
    expected = np.any([coco_mask.decode(coco_mask.frPyObjects([p], 20, 30)[0]) for p in flat], axis=0)
    assert np.array_equal(masks.decode(masks.from_polygons(flat, size_hw=(20, 30))), expected)


@given(st.lists(st.lists(st.tuples(st.integers(-9, 40), st.integers(-9, 40)), min_size=3, max_size=6), max_size=4))
def test_outlines_are_as_long_as_the_longer_side_of_each_edge_and_areas_are_those_drawn(
    polygons: list[list[tuple[int, int]]],
) -> None:
    flat = [[float(v) for point in polygon for v in point] for polygon in polygons]
    starts = np.cumsum([0, *map(len, flat)])[:-1]
    lengths = [
        sum(max(abs(x1 - x2), abs(y1 - y2)) for (x1, y1), (x2, y2) in zip(p, [*p[1:], p[0]], strict=True))
        for p in polygons
    ]
    assert masks.outline_lengths(np.array([v for f in flat for v in f]), starts).tolist() == lengths
    areas = [coco_mask.decode(coco_mask.frPyObjects([f], 20, 30)[0]).sum() for f in flat]
    assert masks.polygon_areas(flat, size_hw=(20, 30)).tolist() == areas


def test_no_polygons_are_an_empty_mask() -> None:
    assert masks.from_polygons([], size_hw=(20, 30)) == masks.empty((20, 30))


SQUARE = [2.0, 2.0, 9.0, 2.0, 9.0, 9.0]


@pytest.mark.parametrize(
    ("polygons", "said"),
    [
        ([[*SQUARE[:4], math.nan, 9.0]], "finite"),
        ([SQUARE, [*SQUARE[:4], -math.inf, 9.0]], "finite"),
        ([[*SQUARE[:4], 10**400, 9.0]], "a list of numbers"),
        ([[*SQUARE, 3.0]], "three points, but has 7"),
        ([SQUARE[:4]], "three points, but has 4"),
        ([[]], "three points, but has 0"),
        ([[[2.0, 2.0], [9.0, 2.0], [9.0, 9.0]]], "x and y of at least three points"),
        ([[*SQUARE[:4], None, 9.0]], "finite"),
        ([[*SQUARE[:4], "nine", 9.0]], "a list of numbers"),
        (["polygon"], "lists of numbers"),
        ([7], "lists of numbers"),
        (7, "lists of numbers"),
        ([[0.0] * (2 * masks.MOST_POINTS + 2)], "at most 1,000,000 points"),
        ([SQUARE] * (masks.MOST_POINTS // 3 + 1), "at most 1,000,000 points"),
        ([[0.0, 0.0, 0.0, 18.0, 28.0, 18.0, 28.0, 0.0] * 100_000], "outline of at most 4,194,304 pixels"),
    ],
)
def test_polygons_that_no_object_has_are_refused_before_they_are_drawn(polygons: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        masks.from_polygons(polygons, size_hw=(20, 30))


far = st.integers(-900_000_000, 900_000_000) | st.integers(-200_000, 200_000) | st.integers(-40, 60)


@settings(max_examples=300)
@given(st.lists(st.tuples(far, far), min_size=3, max_size=5))
def test_a_polygon_that_reaches_far_outside_is_drawn_where_it_crosses_the_image(
    points: list[tuple[float, float]],
) -> None:
    """Compared with the even-odd rule at the centres of pixels that lie a pixel and more away from every edge."""
    drawn_HW = masks.decode(masks.from_polygons([[v for point in points for v in point]], size_hw=(20, 30)))
    for y in range(1, 20, 4):
        for x in range(1, 30, 4):
            crossings, near = _crossings(points, x + 0.5, y + 0.5)
            if near > 1.5:
                assert drawn_HW[y, x] == crossings % 2


def _crossings(points: list[tuple[float, float]], x: float, y: float) -> tuple[int, float]:
    """How many edges of a polygon lie to the right of a point, and how far the nearest one is away."""
    crossings, near = 0, math.inf
    for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
        if (y1 > y) != (y2 > y):
            crossings += x < x1 + (y - y1) / (y2 - y1) * (x2 - x1)
        length = math.hypot(x2 - x1, y2 - y1)
        along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length**2 if length else 0.0
        along = min(max(along, 0.0), 1.0)
        near = min(near, math.hypot(x1 + along * (x2 - x1) - x, y1 + along * (y2 - y1) - y))
    return crossings, near


def test_a_polygon_that_reaches_around_all_of_the_image_covers_it() -> None:
    around = [-5e8, -5e8, 5e8, -5e8, 5e8, 5e8, -5e8, 5e8]
    assert masks.from_polygons([around], size_hw=(20, 30)).area == 600
    assert masks.from_polygons([[v + 6e8 for v in around[:2]] * 3], size_hw=(20, 30)).area == 0


def test_many_small_polygons_are_united_as_one_after_the_other() -> None:
    corners = np.random.default_rng(0).uniform(0, 900, (3000, 1, 2))
    flat = (corners + np.array([[0, 0], [3, 0], [0, 3]])).reshape(-1, 6).tolist()
    expected = coco_mask.merge(coco_mask.frPyObjects(flat, 1000, 1000))["counts"]
    assert masks.from_polygons(flat, size_hw=(1000, 1000)).counts == expected


@pytest.mark.parametrize("size_hw", [(0, 5), (5, -1), (100_000, 100_000)])
def test_no_mask_is_made_at_a_size_that_no_image_has(size_hw: Shape) -> None:
    rle = {"size": list(size_hw), "counts": [size_hw[0] * size_hw[1]]}
    makers: list[Callable[[], object]] = [
        lambda: masks.empty(size_hw),
        lambda: masks.from_box((0, 0, 1, 1), size_hw=size_hw),
        lambda: masks.from_polygons([SQUARE], size_hw=size_hw),
        lambda: masks.from_coco(rle, size_hw=size_hw),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="must be positive and of at most"):
            make()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_box_without_finite_sides_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite sides"):
        masks.from_box((0, 0, value, 5), size_hw=(20, 30))


def test_a_box_that_reaches_far_outside_is_cut_to_the_image() -> None:
    assert masks.from_box((-1e300, -1e300, 1e300, 1e300), size_hw=(20, 30)).area == 600
    assert masks.from_box((-1e300, 3, 1e300, 5), size_hw=(20, 30)) == masks.from_box((0, 3, 30, 5), size_hw=(20, 30))


@pytest.mark.parametrize("way", [(4, 3), (9, 95), (3, 50), (97, 4)], ids=str)
@pytest.mark.parametrize("size_hw", [(20, 20), (25, 33), (47, 61), (90, 90), (20, 130), (160, 25)], ids=str)
def test_a_line_two_pixels_wide_stays_one_piece_at_any_size(size_hw: Shape, way: Shape) -> None:
    line = np.zeros((100, 100), np.uint8)
    cv2.line(line, (2, 2), way, 1, 2)
    pieces, _ = cv2.connectedComponents(masks.resize(line > 0, size_hw).astype(np.uint8), connectivity=8)
    assert pieces == 2, "background, and one line"


sides = st.tuples(*[st.integers(1, 9)] * 3).map(lambda t: (t[0] * t[1], t[0] * t[2]))


@settings(max_examples=400)
@given(sides, sides, st.data())
def test_a_mask_decoded_at_another_size_is_the_whole_one_resized(
    height: Shape, width: Shape, data: st.DataObject
) -> None:
    (own_hw, new_hw), mask = zip(height, width, strict=True), np.zeros((height[0], width[0]), np.bool_)
    rows, columns = (slice(*sorted(data.draw(st.tuples(*[st.integers(0, side)] * 2)))) for side in own_hw)
    mask[rows, columns] = data.draw(arrays(np.bool_, mask[rows, columns].shape, elements=st.booleans(), fill=fills))
    assert np.array_equal(masks.decode_resized(masks.encode(mask), new_hw), masks.resize(mask, new_hw))


@given(drawn, shapes)
def test_a_mask_resized_is_the_same_in_either_memory_order(mask: masks.Mask, shape: Shape) -> None:
    rows, columns = np.ascontiguousarray(mask), np.asfortranarray(mask)
    assert np.array_equal(masks.resize(rows, shape), masks.resize(columns, shape))


@given(drawn, shapes)
def test_resizing_keeps_something_of_everything_and_adds_nothing_to_nothing(mask: masks.Mask, shape: Shape) -> None:
    assert masks.resize(mask, shape).shape == shape
    assert masks.resize(mask, shape).any() == mask.any()


@given(shapes, st.integers(2, 5), st.data())
def test_shrinking_keeps_a_pixel_covered_a_third_as_much_as_the_most_covered_one_around_it(
    shape: Shape, by: int, data: st.DataObject
) -> None:
    mask = data.draw(arrays(np.bool_, (shape[0] * by, shape[1] * by), elements=st.booleans(), fill=fills))
    covered = mask.reshape(shape[0], by, shape[1], by).sum(axis=(1, 3))
    most = maximum_filter(covered, 3, mode="nearest")
    assert np.array_equal(masks.resize(mask, shape), (3 * covered >= most) & (covered > 0))


@given(drawn, st.integers(1, 4))
def test_the_band_is_what_lies_near_the_edge_on_both_sides_but_for_the_skeleton(mask: masks.Mask, width: int) -> None:
    expected = np.zeros(mask.shape, np.bool_)
    if 0 < mask.sum() < mask.size:
        near = (distance_transform_edt(mask) <= width) & (distance_transform_edt(~mask) <= width)
        expected = near & ~skeletonize(mask)
    assert np.array_equal(masks.edge_band(mask, width), expected)


def test_shrinking_a_wide_region_keeps_its_share_of_the_image() -> None:
    mask = np.zeros((300, 300), np.bool_)
    mask[61:211, 47:250] = True
    assert masks.resize(mask, (60, 60)).mean() == pytest.approx(mask.mean(), rel=0.04)


def test_a_semantic_map_becomes_one_instance_a_class_that_occurs() -> None:
    classes_HW = np.array([[0, 1, 1], [3, 0, 1]])
    scores_CHW = np.linspace(0, 1, 18).reshape(3, 2, 3)
    wall, door = masks.instances_from_classes(classes_HW, scores_CHW, classes=("wall", "roof", "door"))
    for instance, label, index in ((wall, "wall", 1), (door, "door", 3)):
        assert instance.mask is not None
        assert instance.label == label
        assert np.array_equal(masks.decode(instance.mask), classes_HW == index)
        assert instance.box_xyxy == instance.mask.box_xyxy
        assert instance.score == pytest.approx(scores_CHW[index - 1][classes_HW == index].mean())
    assert masks.instances_from_classes(np.zeros((2, 3), np.int64), scores_CHW, classes=("wall",)) == ()
