"""Skeletons against scikit-image's, on everything small and on much that is drawn."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.morphology import skeletonize

from segdist.core.skeletons import skeleton


def test_every_neighbourhood_becomes_what_scikit_image_makes_of_it() -> None:
    for number in range(2**9):
        mask_HW = np.pad(((number >> np.arange(9)) & 1).astype(np.bool_).reshape(3, 3), 1)
        assert np.array_equal(skeleton(mask_HW), skeletonize(mask_HW)), mask_HW


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_any_small_mask_becomes_what_scikit_image_makes_of_it(mask_HW: np.ndarray) -> None:
    assert np.array_equal(skeleton(mask_HW), skeletonize(mask_HW))


@pytest.mark.parametrize("smooth", [0.7, 1.5, 3.0, 6.0])
def test_drawn_regions_with_holes_and_parts_have_scikit_images_lines(smooth: float) -> None:
    rng = np.random.default_rng(int(10 * smooth))
    for _ in range(12):
        mask_HW = cv2.GaussianBlur(rng.random((90, 120)), (0, 0), smooth) > 0.5
        assert np.array_equal(skeleton(mask_HW), skeletonize(mask_HW))


def test_a_wide_region_that_touches_the_frame_has_scikit_images_line() -> None:
    mask_HW = np.zeros((150, 200), np.bool_)
    mask_HW[0:120, 30:200] = True
    mask_HW[40:50, 60:90] = False
    assert np.array_equal(skeleton(mask_HW), skeletonize(mask_HW))


def test_nothing_has_no_line_and_the_mask_given_stays_as_it_is() -> None:
    assert not skeleton(np.zeros((4, 5), np.bool_)).any()
    mask_HW = np.ones((6, 9), np.bool_)
    skeleton(mask_HW)
    assert mask_HW.all()
