"""Augmentations keep image, masks and boxes together."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from segdist.augment import _FOUND, augmentations
from segdist.errors import SpecError
from segdist.masks import encode
from segdist.plugins import Example


def example_with_bright_object() -> Example:
    """A dark picture whose one thin object is white, so that the picture itself tells where the mask must be."""
    canvas = np.zeros((96, 128), np.uint8)
    cv2.polylines(canvas, [np.array([(20, 15), (50, 40), (70, 80)], np.int32)], isClosed=False, color=1, thickness=5)
    mask_HW = canvas.astype(np.bool_)
    return Example(
        image_id="a",
        image_HWC=np.where(mask_HW[..., None], 220, 20).astype(np.uint8).repeat(3, axis=2),
        labels=np.array([0]),
        masks_NHW=mask_HW[None],
        boxes_xyxy=np.array([encode(mask_HW).box_xyxy], np.float32),
        scores=np.ones(1, np.float32),
        ignore_HW=np.zeros((96, 128), np.bool_),
    )


@pytest.mark.parametrize("name", sorted(_FOUND))
def test_image_masks_and_boxes_stay_together(name: str) -> None:
    (function,) = augmentations([name])
    for seed in range(12):
        example = function(example_with_bright_object(), np.random.default_rng(seed))
        assert example.image_HWC.dtype == np.uint8
        assert max(example.image_HWC.shape) <= 128
        assert example.masks_NHW.shape[1:] == example.image_HWC.shape[:2] == example.ignore_HW.shape
        assert len(example.masks_NHW) == len(example.labels) == len(example.scores) == len(example.boxes_xyxy) == 1
        grey = example.image_HWC.mean(axis=2)
        bright = grey > (grey.min() + grey.max()) / 2
        common, whole = (bright & example.masks_NHW[0]).sum(), (bright | example.masks_NHW[0]).sum()
        assert common / whole > 0.7, seed
        tight = np.array(encode(example.masks_NHW[0]).box_xyxy)
        assert np.abs(tight - example.boxes_xyxy[0]).max() <= 3, seed


@pytest.mark.parametrize("name", sorted(_FOUND))
def test_same_seed_same_picture_and_an_image_without_objects_is_no_special_case(name: str) -> None:
    (function,) = augmentations([name])
    bare = Example(
        "a",
        example_with_bright_object().image_HWC,
        np.zeros(0, np.int64),
        np.zeros((0, 96, 128), np.bool_),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros((96, 128), np.bool_),
    )
    first, second = (function(bare, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.image_HWC, second.image_HWC)
    assert first.masks_NHW.shape == (0, *first.image_HWC.shape[:2])


def test_crop_keeps_a_thin_structure_in_one_piece() -> None:
    canvas = np.zeros((96, 128), np.uint8)
    cv2.line(canvas, (0, 10), (127, 90), 1, 1)
    whole = example_with_bright_object()
    thin = Example(
        "a",
        whole.image_HWC,
        whole.labels,
        canvas.astype(np.bool_)[None],
        whole.boxes_xyxy,
        whole.scores,
        whole.ignore_HW,
    )
    (crop,) = augmentations(["crop"])
    for seed in range(10):
        mask_HW = crop(thin, np.random.default_rng(seed)).masks_NHW[0]
        assert cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)[0] == 2


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"`brightnes`.*Did you mean `brightness`"):
        augmentations(["flip", "brightnes"])


def test_reading_the_names_does_not_import_torch() -> None:
    check = "import sys, segdist.augment, segdist.data.examples; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
