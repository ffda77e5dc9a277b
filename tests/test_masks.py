"""Run lengths agree with NumPy and pycocotools, and what comes from outside is checked."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from segdist import masks

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


def test_a_mask_that_reaches_outside_its_image_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie in its image"):
        masks.place(np.ones((3, 3), np.bool_), (0, 2), (4, 4))


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


def test_no_masks_are_encoded_to_none() -> None:
    assert masks.encode_many(np.zeros((0, 4, 5))) == []


@given(st.tuples(*[st.floats(-9, 30)] * 4))
def test_a_box_is_filled_to_whole_pixels_inside_the_image(box_xyxy: tuple[float, ...]) -> None:
    expected = np.zeros((15, 20), np.bool_)
    x1, y1, x2, y2 = (round(v) for v in box_xyxy)
    for y in range(15):
        for x in range(20):
            expected[y, x] = x1 <= x < x2 and y1 <= y < y2
    assert np.array_equal(masks.decode(masks.from_box(box_xyxy, size_hw=(15, 20))), expected)


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
        ({"size": [4, 5], "counts": "3q"}, "outside the COCO alphabet: 'q'"),
        ({"size": [4, 5], "counts": "\N{LATIN SMALL LETTER E WITH ACUTE}"}, "ascii"),
        ({"size": [4, 5], "counts": "P"}, "middle of a number"),
        ({"size": [4, 5], "counts": "o" * 12 + "0"}, "no image has room for"),
        ({"size": [4, 5], "counts": [10**30]}, "must fit an image"),
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
