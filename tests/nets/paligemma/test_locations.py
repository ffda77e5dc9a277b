import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdist.nets.paligemma.locations import are_valid, decode_box, encode_box, pixel_box, widened

HALVES = [
    # height or width 1023, so that pixel k lies at bin k exactly and k + 0.5 half-way
    ((0.5, 1.5, 2.5, 3.5), (2, 0, 4, 2)),  # x1 y1 x2 y2 -> y1 x1 y2 x2, to the even bin
    ((510.5, 511.5, 1022.5, 1021.5), (512, 510, 1022, 1022)),
    ((-3.0, -0.6, 1023.0, 1030.0), (0, 0, 1023, 1023)),
]
"""By hand from big_vision's rule: clip(round_half_even(share * 1023), 0, 1023)."""


@pytest.mark.parametrize(("box", "bins"), HALVES)
def test_halves_go_to_the_even_bin_and_what_lies_outside_is_clipped(
    box: tuple[float, ...], bins: tuple[int, ...]
) -> None:
    assert encode_box(box, size_hw=(1023, 1023)) == bins


def test_the_order_is_y1_x1_y2_x2_and_each_side_has_its_own_length() -> None:
    assert encode_box((10, 20, 60, 40), size_hw=(40, 100)) == (512, 102, 1023, 614)


def test_the_whole_image_is_0_0_1023_1023_and_decodes_to_itself() -> None:
    bins = encode_box((0, 0, 640, 480), size_hw=(480, 640))
    assert bins == (0, 0, 1023, 1023)
    assert decode_box(bins, size_hw=(480, 640)) == (0, 0, 640, 480)


def test_the_other_convention_multiplies_and_divides_by_1024() -> None:
    assert encode_box((10, 20, 60, 40), size_hw=(40, 100), scale=1024) == (512, 102, 1023, 614)
    assert decode_box((512, 256, 1023, 768), size_hw=(100, 100), scale=1024) == (25.0, 50.0, 75.0, 1023 / 1024 * 100)


@given(st.integers(1, 1023), st.integers(1, 1023), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_whole_pixels_come_back_in_images_of_up_to_1023_pixels(height: int, width: int, a: int, b: int, c: int) -> None:
    x1, y1 = a % width, b % height
    x2, y2 = x1 + 1 + c % (width - x1), y1 + 1 + c % (height - y1)
    bins = encode_box((x1, y1, x2, y2), size_hw=(height, width))
    assert are_valid(bins)
    assert pixel_box(bins, size_hw=(height, width)) == (x1, y1, x2, y2)


@given(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4), st.integers(1, 5000), st.integers(1, 5000))
def test_bins_follow_the_float32_formula_and_lie_within_half_a_bin(box: list[float], height: int, width: int) -> None:
    bins = encode_box(box, size_hw=(height, width))
    shares = np.array([box[1] / height, box[0] / width, box[3] / height, box[2] / width])
    assert np.abs(np.array(bins) / 1023 - shares.clip(0, 1)).max() <= 0.5 / 1023 + 1e-6


def test_truncated_edges_are_those_of_big_visions_evaluator() -> None:
    bins = encode_box((70, 0, 128, 128), size_hw=(128, 128))
    assert pixel_box(bins, size_hw=(128, 128))[0] == 70
    assert pixel_box(bins, size_hw=(128, 128), edges="truncate")[0] == int(559 / 1023 * 128) == 69


@pytest.mark.parametrize("bins", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (5, 9, 9, 5), (0, 0, 0, 0)])
def test_boxes_of_no_size_or_inside_out_are_invalid(bins: tuple[int, int, int, int]) -> None:
    assert not are_valid(bins)


@given(st.integers(0, 1023), st.integers(0, 1023))
def test_an_object_smaller_than_a_bin_is_widened_to_one(y: int, x: int) -> None:
    wide = widened((y, x, y, x))
    assert are_valid(wide)
    assert wide[2] - wide[0] == wide[3] - wide[1] == 1
    assert widened(wide) == wide
