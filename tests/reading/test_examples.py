"""Decoding, the one geometry of all families, and what an example holds."""

import io
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segdist.augment import augmentations
from segdist.core import masks
from segdist.core.errors import DataError
from segdist.core.plugins import Example
from segdist.core.records import Instance, Sample
from segdist.reading.examples import decode_image, letterbox, make_example, most_likely, pad, restore, scaled_size


def encoded(image_HWC: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) % 256], axis=-1).astype(np.uint8)


def crack(size_hw: tuple[int, int]) -> masks.Mask:
    canvas = np.zeros(size_hw, np.uint8)
    points = [(10, 20), (180, 90), (260, 300), (620, 470)]
    for a, b in pairwise(points):
        cv2.line(canvas, a, b, 1, 2)
    return canvas.astype(np.bool_)


def example_of(
    instances: tuple[Instance, ...], *, size_hw: tuple[int, int] = (480, 640), image_size: int = 128
) -> Example:
    sample = Sample("a", "a.png", size_hw, instances)
    return make_example(
        sample,
        encoded(gradient(*size_hw)),
        classes=("crack", "wall"),
        image_size=image_size,
        rng=np.random.default_rng(0),
    )


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    image_HWC = gradient(40, 60)
    np.testing.assert_array_equal(
        decode_image(encoded(image_HWC, "PNG", exif=exif.tobytes())), np.rot90(image_HWC, k=-1)
    )


@pytest.mark.parametrize("size_hw", [(1024, 768), (700, 1333), (64, 64)])
def test_reduced_jpeg_decoding_is_never_smaller_than_asked_and_looks_the_same(size_hw: tuple[int, int]) -> None:
    content = encoded(gradient(*size_hw), "JPEG", quality=95)
    full, reduced = decode_image(content), decode_image(content, longest=128)
    assert full.shape[:2] == size_hw
    assert max(reduced.shape) >= min(128, max(size_hw))
    difference = np.abs(letterbox(full, 64).astype(int) - letterbox(reduced, 64).astype(int))
    assert np.median(difference) <= 3


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    assert abs(float(decode_image(encoded(values)).mean()) - 127.5) < 2


@pytest.mark.parametrize("content", [b"", b"no image", encoded(gradient(64, 64))[:120]])
def test_what_cannot_be_decoded_is_named(content: bytes) -> None:
    with pytest.raises(DataError, match=r"wall_17\.jpg"):
        decode_image(content, name="wall_17.jpg")


def test_a_thin_crack_survives_shrinking_in_one_piece() -> None:
    mask_HW = crack((480, 640))
    for size_hw in [(240, 320), (96, 128), (48, 64)]:
        small_HW = masks.resize(mask_HW, size_hw)
        assert cv2.connectedComponents(small_HW.astype(np.uint8), connectivity=8)[0] == 2, size_hw


def test_a_wide_region_keeps_its_area_when_shrinking() -> None:
    disc_HW = cv2.circle(np.zeros((400, 400), np.uint8), (200, 190), 120, 1, -1).astype(np.bool_)
    small_HW = masks.resize(disc_HW, (100, 100))
    assert small_HW.sum() * 16 == pytest.approx(disc_HW.sum(), rel=0.03)


def test_masks_and_boxes_share_the_scale_of_the_image() -> None:
    mask_HW = crack((480, 640))
    rle = masks.encode(mask_HW)
    example = example_of((Instance("crack", rle, rle.box_xyxy), Instance("other", rle, rle.box_xyxy)))
    assert example.image_HWC.shape == (96, 128, 3)
    assert example.masks_NHW.shape == (1, 96, 128)
    assert example.labels.tolist() == [0]
    tight = masks.encode(example.masks_NHW[0]).box_xyxy
    assert np.abs(np.array(tight) - example.boxes_xyxy[0]).max() <= 1


def test_crowds_and_boxes_without_mask_are_ignored_but_known_pixels_are_not() -> None:
    known = masks.from_box((0, 0, 200, 200), size_hw=(480, 640))
    crowd = masks.from_box((400, 0, 640, 100), size_hw=(480, 640))
    example = example_of(
        (
            Instance("wall", known, known.box_xyxy),
            Instance("crack", None, (100, 100, 400, 400)),
            Instance("crack", crowd, crowd.box_xyxy, is_crowd=True),
        )
    )
    assert example.labels.tolist() == [1]
    assert not (example.ignore_HW & example.masks_NHW[0]).any()
    assert example.ignore_HW[60, 60]
    assert example.ignore_HW[5, 120]


def test_a_sample_without_instances_gives_empty_stacks_of_the_right_shape() -> None:
    example = example_of(())
    assert example.masks_NHW.shape == (0, 96, 128)
    assert example.boxes_xyxy.shape == (0, 4)
    assert not example.ignore_HW.any()


@pytest.mark.parametrize("size_hw", [(480, 640), (77, 31), (30, 40)])
def test_restore_undoes_letterbox_and_padding(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    smooth_HW = np.outer(np.linspace(-1, 1, height), np.linspace(-1, 1, width)).astype(np.float32)
    scaled = cv2.resize(smooth_HW, scaled_size(size_hw, 128)[::-1], interpolation=cv2.INTER_AREA)
    padded = torch.from_numpy(np.asarray(pad(scaled, 128)))
    restored = restore(padded[None], size_hw=size_hw, image_size=128)
    assert restored.shape == (1, *size_hw)
    assert np.abs(restored[0].numpy() - smooth_HW).max() < 0.1


def test_augmentations_are_applied_in_the_order_named_and_repeat_with_the_seed() -> None:
    rle = masks.encode(crack((480, 640)))
    sample = Sample("a", "a.png", (480, 640), (Instance("crack", rle, rle.box_xyxy),))
    content = encoded(gradient(480, 640))
    made = [
        make_example(
            sample,
            content,
            classes=("crack",),
            image_size=128,
            augment=augmentations(["crop", "flip", "noise"]),
            rng=np.random.default_rng(3),
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(made[0].image_HWC, made[1].image_HWC)
    np.testing.assert_array_equal(made[0].masks_NHW, made[1].masks_NHW)


@pytest.mark.parametrize("size_hw", [(37, 50), (64, 20), (5, 5)])
def test_the_likeliest_class_is_that_of_all_classes_at_the_images_size_and_the_first_of_equals(
    size_hw: tuple[int, int],
) -> None:
    scores_Khw = torch.rand((4, 16, 16), generator=torch.Generator().manual_seed(1))
    scores_Khw[3] = scores_Khw[1]
    all_KHW = restore(scores_Khw, size_hw=size_hw, image_size=32)
    class_HW, best_HW = most_likely(scores_Khw, size_hw=size_hw, image_size=32)
    np.testing.assert_array_equal(class_HW, all_KHW.numpy().argmax(0))
    np.testing.assert_array_equal(best_HW, all_KHW.numpy().max(0))
    assert set(class_HW.flatten().tolist()) == {0, 1, 2}
