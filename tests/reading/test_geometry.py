"""Boxes and polygons from outside: repairs are reported, the rest is named, and areas are the formulas'."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from segdist.core import masks
from segdist.core.records import Box, Severity
from segdist.reading import geometry
from segdist.reading.geometry import UnusableAnnotation

SIZE_HW = (20, 30)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ([2, 3, 4, 5], (2, 3, 6, 8)),
        ([0, 0, 30, 20], (0, 0, 30, 20)),
        ([-0.6, 3, 4.6, 5], (0, 3, 4, 8)),
        ([0.25, 0.5, 0.5, 0.25], (0.25, 0.5, 0.75, 0.75)),
        ([-1, -1, 32, 22], (0, 0, 30, 20)),
        ([27, 18, 4, 3], (27, 18, 30, 20)),
    ],
)
def test_a_coco_box_becomes_corners_inside_the_image(written: list[float], found: tuple[float, ...]) -> None:
    repairs: list[str] = []
    assert geometry.box_from_xywh(written, size_hw=SIZE_HW, repairs=repairs) == pytest.approx(found)
    x, y, w, h = written
    repairs_of_corners: list[str] = []
    corners = geometry.box_from_xyxy([x, y, x + w, y + h], size_hw=SIZE_HW, repairs=repairs_of_corners)
    assert corners == pytest.approx(found)
    assert repairs == repairs_of_corners == [], "up to a pixel is rounding"
    assert geometry.box_as_written(written, repairs=repairs) == (x, y, x + w, y + h)


def test_a_box_as_written_may_lie_anywhere_and_have_no_size() -> None:
    assert geometry.box_as_written([-9, 40, 0, 0], repairs=[]) == (-9, 40, -9, 40)


def test_a_box_that_reaches_farther_outside_is_clipped_and_it_is_reported() -> None:
    for make, written in ((geometry.box_from_xywh, [-2, 3, 9, 4]), (geometry.box_from_xyxy, [-2, 3, 7, 7])):
        repairs: list[str] = []
        assert make(written, size_hw=SIZE_HW, repairs=repairs) == (0, 3, 7, 7)
        assert repairs == [f"the box {[float(v) for v in written]} reaches outside the image and was clipped"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("x y width height", "x, y, width, height"),
        ("x y w h", "x, y, w, h"),
        ("left top width height", "left, top, wid"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"rotation": 0}])
def test_a_box_written_as_an_object_is_read_and_reported(keys: str, said: str, more: dict[str, int]) -> None:
    repairs: list[str] = []
    written = dict(zip(keys.split(), [2, 3, 4, 5], strict=True)) | more
    assert geometry.box_from_xywh(written, size_hw=SIZE_HW, repairs=repairs) == (2, 3, 6, 8)
    assert len(repairs) == 1
    assert said in repairs[0]


@pytest.mark.parametrize(
    ("written", "code", "said"),
    [
        ([2, 3, 4], "box-malformed", r"\[x, y, width, height\], but has 3 numbers"),
        ([2, 3, -4, 5], "box-malformed", r"negative width or height, but is \[2.0, 3.0, -4.0, 5.0\]"),
        ([2, 3, 4, -5], "box-malformed", "negative width or height"),
        ([2, 3, 4, math.nan], "number-invalid", "bbox must hold finite numbers, but has nan"),
        ([2, 3, 4, None], "number-invalid", "bbox must hold finite numbers"),
        ([2, 3, 4, True], "number-invalid", "bbox must hold finite numbers"),
        ({"x": 2, "y": 3}, "number-invalid", "bbox must be a list of numbers"),
        ("2 3 4 5", "number-invalid", "bbox must be a list of numbers"),
    ],
)
def test_what_is_no_coco_box_stops_with_a_code_and_what_came(written: Any, code: str, said: str) -> None:
    with pytest.raises(UnusableAnnotation, match=said) as caught:
        geometry.box_from_xywh(written, size_hw=SIZE_HW, repairs=[])
    assert (caught.value.code, caught.value.severity) == (code, Severity.ERROR)
    assert caught.value.message == str(caught.value)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([2, 3, 4], r"a box must be \[x1, y1, x2, y2\], but has 3 numbers"),
        ([5, 3, 4, 9], r"`x1 <= x2 and y1 <= y2` must hold, but a box is \[5.0, 3.0, 4.0, 9.0\]"),
        ([2, 9, 4, 3], "`x1 <= x2 and y1 <= y2` must hold"),
    ],
)
def test_what_are_no_corners_stops_with_a_code_and_what_came(written: list[float], said: str) -> None:
    with pytest.raises(UnusableAnnotation, match=said) as caught:
        geometry.box_from_xyxy(written, size_hw=SIZE_HW, repairs=[])
    assert (caught.value.code, caught.value.severity) == ("box-malformed", Severity.ERROR)


@pytest.mark.parametrize(
    "box", [[3, 3, 3, 9], [3, 3, 9, 3], [-9, 3, 0, 9], [3, -9, 9, 0], [30, 3, 40, 9], [3, 20, 9, 30]]
)
def test_a_box_that_covers_nothing_of_the_image_is_skipped(box: list[float]) -> None:
    with pytest.raises(UnusableAnnotation, match=r"covers nothing of the image") as caught:
        geometry.box_from_xyxy(box, size_hw=SIZE_HW, repairs=[])
    assert (caught.value.code, caught.value.severity) == ("box-empty", Severity.SKIPPED)
    assert str([float(v) for v in box]) in caught.value.message


sides = st.integers(-5, 30).map(float)
boxes = st.tuples(sides, sides, st.floats(0, 9), st.floats(0, 9)).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(boxes, boxes)
def test_the_iou_of_boxes_is_that_of_pycocotools(a: Box, b: Box) -> None:
    xywh = [np.array([[x1, y1, x2 - x1, y2 - y1]]) for x1, y1, x2, y2 in (a, b)]
    expected = np.nan_to_num(coco_mask.iou(xywh[0], xywh[1], [0]))[0, 0]
    assert geometry.box_iou(a, b) == pytest.approx(expected, abs=1e-9)


def test_numbers_written_as_text_are_read_and_reported() -> None:
    repairs: list[str] = []
    assert geometry.numbers(["1.5", 2, "3e0"], "bbox", repairs) == [1.5, 2.0, 3.0]
    assert repairs == ["numbers of bbox were written as strings"]
    assert geometry.numbers([1, 2.5], "bbox", repairs) == [1.0, 2.5]
    assert len(repairs) == 1


def test_many_numbers_are_read_as_few_are() -> None:
    mixed = [n / 2 if n % 2 else n for n in range(4 * geometry._MANY)]
    repairs: list[str] = []
    assert geometry.numbers(mixed, "polygon", repairs) == [float(v) for v in mixed]
    assert repairs == []
    assert geometry.numbers([*mixed, "1.5"], "polygon", repairs)[-1] == 1.5
    assert len(repairs) == 1
    for wrong, said in ((math.nan, "nan"), (10**400, "1000"), (True, "True"), (None, "None")):
        with pytest.raises(UnusableAnnotation, match=f"polygon must hold finite numbers, but has {said}"):
            geometry.numbers([*mixed, wrong], "polygon", [])


SQUARE = [2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]
DRAWN = masks.from_polygons([SQUARE], size_hw=SIZE_HW)


@pytest.mark.parametrize(
    ("written", "repairs"),
    [
        ([SQUARE], []),
        (SQUARE, ["the polygon was not put into a list"]),
        ([[2, 2], [12, 2], [12, 12], [2, 12]],
         ["the polygon was not put into a list", "the polygon was written as [x, y] pairs"]),
        ([[[2, 2], [12, 2], [12, 12], [2, 12]]], ["the polygon was written as [x, y] pairs"]),
        ([[str(v) for v in SQUARE]], ["numbers of polygon were written as strings"]),
        ([SQUARE, [3, 3, 4, 4]], ["without 1 part of fewer than three points"]),
        ([SQUARE, [3, 3, 4, 4], []], ["without 2 parts of fewer than three points"]),
        (str([SQUARE]), ["the segmentation was written as text"]),
        ({"size": list(SIZE_HW), "counts": DRAWN.counts.decode()}, []),
    ],
    ids=str,
)  # fmt: skip
def test_a_segmentation_is_the_same_mask_however_it_is_written_and_repairs_are_reported(
    written: Any, repairs: list[str]
) -> None:
    noted: list[str] = []
    assert geometry.mask_from_segmentation(written, size_hw=SIZE_HW, repairs=noted) == DRAWN
    assert noted == repairs


@pytest.mark.parametrize(
    ("written", "code", "severity", "said"),
    [
        ([[2, 2, 9, 2]], "polygon-too-short", Severity.SKIPPED, "at least three points, but has fewer"),
        ([[*SQUARE, 3]], "polygon-odd-length", Severity.ERROR, "x and y for each point, but has 9 numbers"),
        ([[*SQUARE[:7], math.inf]], "number-invalid", Severity.ERROR, "polygon must hold finite numbers, but has inf"),
        ([[*(v + 40 for v in SQUARE)]], "polygon-outside", Severity.SKIPPED, "outside the image"),
        ([[*(v - 13 for v in SQUARE)]], "polygon-outside", Severity.SKIPPED, "outside the image"),
        ([[v - 13 * (n % 2 == 0) for n, v in enumerate(SQUARE)]], "polygon-outside", Severity.SKIPPED, "outside the"),
        ([[v + 29 * (n % 2 == 0) for n, v in enumerate(SQUARE)]], "polygon-outside", Severity.SKIPPED, "outside the"),
        ([[v + 19 * (n % 2) for n, v in enumerate(SQUARE)]], "polygon-outside", Severity.SKIPPED, "outside the"),
        ([[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]], "mask-empty", Severity.SKIPPED, "covers no pixel"),
        (7, "segmentation-malformed", Severity.ERROR, "a list of polygons or an RLE, but is 7"),
        ("no JSON", "segmentation-malformed", Severity.ERROR, "a list of polygons or an RLE, but is 'no JSON'"),
        ({"size": [3, 3], "counts": [9]}, "rle-malformed", Severity.ERROR, "RLE size"),
        ({"size": [20, 30], "counts": [600]}, "mask-empty", Severity.SKIPPED, "covers no pixel"),
        ([[0.0, 0.0, 30.0, 19.0] * 100_000], "polygon-too-large", Severity.ERROR, "an outline of at most"),
        ([[0.0] * (2 * masks.MOST_POINTS + 2)], "polygon-too-large", Severity.ERROR, "points, but have 1,000,001"),
        ([[]] * (masks.MOST_POINTS + 1), "polygon-too-large", Severity.ERROR, "points, but have 1,000,001"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_what_is_no_mask_stops_or_is_skipped_with_a_code_and_what_came(
    written: Any, code: str, severity: Severity, said: str
) -> None:
    with pytest.raises(UnusableAnnotation, match=said) as caught:
        geometry.mask_from_segmentation(written, size_hw=SIZE_HW, repairs=[])
    assert (caught.value.code, caught.value.severity) == (code, severity)


def test_how_far_a_polygon_reaches_outside_is_reported() -> None:
    for by, said in (
        ((-4.5, 0), "2.5 pixels"),
        ((0, -3), "1 pixels"),
        ((20, 0), "2 pixels"),
        ((0, 11.5), "3.5 pixels"),
    ):
        moved, repairs = (np.reshape(SQUARE, (-1, 2)) + by).ravel().tolist(), list[str]()
        geometry.mask_from_segmentation([moved], size_hw=SIZE_HW, repairs=repairs)
        assert repairs == [f"the polygon reaches {said} outside the image and was cut at its border"]


def test_a_polygon_within_the_first_row_or_column_and_one_of_three_pairs_are_as_drawn() -> None:
    pairs = [[2, 2], [12, 2], [12, 12]]
    for written, flat in (
        (pairs, [2, 2, 12, 2, 12, 12]),
        ([[0.1, 2, 0.9, 2, 0.9, 12, 0.1, 12]], [0.1, 2, 0.9, 2, 0.9, 12, 0.1, 12]),
        ([[2, 0.1, 12, 0.1, 12, 0.9, 2, 0.9]], [2, 0.1, 12, 0.1, 12, 0.9, 2, 0.9]),
    ):
        drawn = coco_mask.frPyObjects([[float(v) for v in flat]], *SIZE_HW)[0]["counts"]
        assert geometry.mask_from_segmentation(written, size_hw=SIZE_HW, repairs=[]).counts == drawn


BOWTIE = [2.0, 2.0, 22.0, 18.0, 22.0, 2.0, 2.0, 18.0]


def test_polygons_that_cross_themselves_are_reported_from_those_that_do_not() -> None:
    assert geometry.polygons_cross([BOWTIE], SIZE_HW)
    assert not geometry.polygons_cross([SQUARE], SIZE_HW)
    assert geometry.polygons_cross([SQUARE, [2, 2, 9, 2, 9, 9], BOWTIE], SIZE_HW)
    assert not geometry.polygons_cross([SQUARE, [2, 2, 9, 2, 9, 9], SQUARE[::-1]], SIZE_HW)
    assert not geometry.polygons_cross([[1, 1, 2, 2]], SIZE_HW)
    assert not geometry.polygons_cross([], SIZE_HW)
    parts = [SQUARE, BOWTIE, [2.0, 2.0, 9.0, 2.0, 9.0, 9.0]]
    values, starts = np.concatenate(parts), np.cumsum([0, *map(len, parts)])[:-1]
    areas = masks.polygon_areas(parts, size_hw=SIZE_HW)
    assert geometry.crosses_itself(values, starts, areas).tolist() == [False, True, False]
    assert geometry.crosses_itself(values, starts, areas[[1, 2]], [1, 2]).tolist() == [True, False]


@pytest.mark.parametrize("at", [0.0, 1500.0])
def test_only_loops_of_a_fifth_of_the_area_and_more_cross(at: float) -> None:
    """In a square of 300 pixels, a loop of opposite sense at a corner: it counts twice in the difference of areas."""
    size_hw = (2000, 2000)
    assert not geometry.polygons_cross(
        [(np.reshape([0, 0, 300, 0, 300, 300, 0, 300], (-1, 2)) + at).ravel().tolist()], size_hw
    )
    for side, crosses in ((60, False), (100, False), (200, True)):
        eight = [0, 0, 300, 0, 300, 300 + side, 300 + side, 300 + side, 300 + side, 300, 0, 300]
        assert geometry.polygons_cross([(np.reshape(eight, (-1, 2)) + at).ravel().tolist()], size_hw) is crosses, side


@pytest.mark.parametrize(
    ("stated", "size"),
    [
        ((20, 30), SIZE_HW),
        (("20", 30.0), SIZE_HW),
        ((1, 1), (1, 1)),
        ((0, 30), None),
        ((20, -30), None),
        ((20.5, 30), None),
        ((None, 30), None),
        (("wide", 30), None),
        ((True, 30), None),
        ((math.nan, 30), None),
        ((math.inf, 30), None),
        ((10**400, 30), None),
    ],
    ids=str,
)
def test_a_stated_size_is_two_whole_numbers_above_zero(stated: tuple[Any, Any], size: tuple[int, int] | None) -> None:
    found = geometry.stated_size(*stated)
    assert found == size
    assert found is None or all(type(side) is int for side in found)


def test_a_stated_size_beyond_the_limit_is_named() -> None:
    assert geometry.stated_size(20, 30, most=600) == SIZE_HW
    with pytest.raises(UnusableAnnotation, match=r"at most 599 pixels, but is 20 x 30") as caught:
        geometry.stated_size(20, 30, most=599)
    assert (caught.value.code, caught.value.severity) == ("image-size-invalid", Severity.ERROR)
