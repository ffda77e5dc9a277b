"""Cleaning: against scikit-image where it has the same step, and thin cracks survive what is relative to them."""

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from skimage.morphology import closing, disk, opening, remove_small_objects

from segdist.core import masks
from segdist.core.spec import CleanStep
from segdist.labelling.cleaning import clean, fill_holes, remove_parts, smooth, snap

SIZE_HW = (48, 64)


def blobs(seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(SIZE_HW), 2)
    return np.asarray(noise > np.median(noise))


def steps(*what: object) -> list[CleanStep]:
    return [CleanStep.model_validate(w) for w in what]


def cleaned(
    mask: np.ndarray, *what: object, image: np.ndarray | None = None, box: object = (0, 0, 64, 48)
) -> np.ndarray:
    pixels = np.zeros((*SIZE_HW, 3), np.uint8) if image is None else image
    return masks.decode(clean(masks.encode(mask), pixels, box, steps(*what)))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_all_holes_are_filled_as_scipy_fills_them(seed: int) -> None:
    mask = blobs(seed)
    assert np.array_equal(fill_holes(mask, 1.0), ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize("seed", range(20))
def test_holes_are_reported_from_bays_of_every_side(seed: int) -> None:
    mask = np.random.default_rng(seed).random((7, 9)) < 0.6
    assert np.array_equal(fill_holes(mask, 1.0), ndimage.binary_fill_holes(mask))


def test_a_hole_of_an_object_that_fills_the_picture_is_filled() -> None:
    mask = np.ones((6, 7), np.bool_)
    mask[2:4, 3] = False
    assert fill_holes(mask, 1.0).all()


def test_a_hole_of_just_the_share_of_the_object_is_filled_and_a_larger_one_is_not() -> None:
    ring = np.pad(np.ones((3, 3), np.bool_), 1)
    ring[2, 2] = False
    assert fill_holes(ring, 1 / 8)[2, 2]
    assert not fill_holes(ring, 1 / 9)[2, 2]


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_removed_as_scikit_image_removes_them_by_area(seed: int) -> None:
    mask = blobs(seed)
    limit = 0.05 * mask.sum()
    expected = remove_small_objects(mask, max_size=int(np.ceil(limit)) - 1, connectivity=2)
    assert np.array_equal(remove_parts(mask, 0.05), expected)


@pytest.mark.parametrize("radius", [2, 3])
@pytest.mark.parametrize(("name", "reference"), [("open", opening), ("close", closing)])
def test_opening_and_closing_are_those_of_scikit_image(name: str, reference: object, radius: int) -> None:
    mask = np.pad(blobs()[8:-8, 8:-8], 8)
    expected = reference(mask, disk(radius))  # type: ignore[operator]
    assert np.array_equal(cleaned(mask, {name: {"radius": radius}}), expected)


def test_opening_leaves_what_the_frame_of_the_picture_cuts() -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[:2, 5:60] = mask[15:35, 20:40] = True
    assert cleaned(mask, {"open": {"radius": 2}})[:2, 8:57].all()


def test_a_crack_of_few_pixels_keeps_its_parts_however_large_the_image() -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[10, 5:25], mask[10, 28:48], mask[40, 60] = True, True, True
    kept = cleaned(mask, {"remove_parts": {"relative_area": 0.1}})
    assert kept.sum() == 40
    assert not kept[40, 60]


def test_a_part_of_just_the_share_of_the_object_is_kept() -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[10, :30], mask[20, :10] = True, True
    assert np.array_equal(remove_parts(mask, 0.25), mask)
    assert remove_parts(mask, 0.26).sum() == 30


@pytest.mark.parametrize(
    "step", ["fill_holes", "remove_parts", "clip_to_box", "open", "close", "smooth", {"snap": {"window": 2.0}}], ids=str
)
def test_a_step_does_in_the_middle_of_a_large_image_what_it_does_in_a_small_one(step: object) -> None:
    mask = np.pad(blobs()[8:-8, 8:-8], 8)
    mask[18:23, 28:33] = True
    mask[20, 30] = False
    image = np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3), np.uint8)
    box, by = (11.0, 9.0, 50.0, 40.0), ((100, 70), (50, 40))
    expected = np.pad(cleaned(mask, step, image=image, box=box), by)
    large = masks.encode(np.pad(mask, by))
    moved = (box[0] + 50, box[1] + 100, box[2] + 50, box[3] + 100)
    found = masks.decode(clean(large, np.pad(image, (*by, (0, 0)), mode="reflect"), moved, steps(step)))
    assert not np.array_equal(found, masks.decode(large)), "the step has something to do"
    assert np.array_equal(found, expected)


def test_nothing_is_done_to_an_empty_mask_nor_without_steps() -> None:
    assert not cleaned(np.zeros(SIZE_HW, np.bool_), "fill_holes").any()
    assert np.array_equal(cleaned(blobs()), blobs())


def test_the_mask_is_clipped_to_the_box_with_its_margin() -> None:
    kept = cleaned(np.ones(SIZE_HW, np.bool_), {"clip_to_box": {"margin": 0.1}}, box=(10, 10, 30, 20))
    assert masks.encode(kept).box_xyxy == (8, 9, 32, 21)


def test_below_the_box_nothing_is_left_wherever_the_mask_begins() -> None:
    mask = np.zeros((200, 60), np.bool_)
    mask[100:160, 10:30] = True
    image = np.zeros((200, 60, 3), np.uint8)
    found = clean(masks.encode(mask), image, (5, 90, 40, 130), steps({"clip_to_box": {"margin": 0}}))
    assert found.box_xyxy == (10, 100, 30, 130)


def test_smoothing_rounds_a_corner_and_leaves_a_straight_edge() -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[10:40, 10:50] = True
    found = smooth(mask, 2.0)
    assert np.array_equal(found[20:30], mask[20:30])
    assert not found[10, 10]


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_smoothing_is_half_of_scipys_gaussian(sigma: float) -> None:
    share = ndimage.gaussian_filter(blobs().astype(np.float64), sigma, mode="mirror")
    plain = np.abs(share - 0.5) > 1e-4
    assert np.array_equal(smooth(blobs(), sigma)[plain], share[plain] > 0.5)


@pytest.mark.parametrize(("pixels", "window"), [(1, 1.5), (2, 3.0), (3, 5.0)])
def test_the_edge_moves_as_equation_9_of_lankton_and_tannenbaum_has_it(pixels: int, window: float) -> None:
    rng, square = np.random.default_rng(2), np.ones((3, 3))
    mask = np.pad(blobs()[8:-8, 8:-8], 8)
    colours = np.where(ndimage.binary_dilation(mask)[..., None], (160, 90, 60), (120, 110, 130))
    image = (colours + rng.integers(-40, 40, colours.shape)).astype(np.uint8)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float64)

    def distance(weight: np.ndarray) -> np.ndarray:
        around = ndimage.gaussian_filter(weight.astype(float), window, mode="mirror")[..., None] + 1e-4
        mean = ndimage.gaussian_filter(lab * weight[..., None], (window, window, 0), mode="mirror") / around
        return np.asarray(((lab - mean) ** 2).sum(axis=2))

    grown = ndimage.binary_dilation(mask, square, pixels)
    near = grown & ~ndimage.binary_erosion(mask, square, pixels, border_value=1)
    beyond = ndimage.binary_dilation(mask, square, pixels + max(int(window / 2), 1))
    inside, outside = distance(mask), distance(beyond & ~ndimage.binary_dilation(mask, square))
    plain = ~near | (np.abs(inside - outside) > 0.1)
    expected = np.where(near, inside < outside, mask)
    assert plain[near].mean() > 0.9
    assert (expected != mask).sum() > 20
    assert np.array_equal(snap(mask, image, pixels=pixels, window=window)[plain], expected[plain])


def test_the_edge_snaps_to_where_the_colour_changes() -> None:
    truth = np.zeros(SIZE_HW, np.bool_)
    truth[20:24, 4:60] = True
    image = np.where(truth[..., None], 70, 180).astype(np.uint8).repeat(3, axis=2)
    wide = ndimage.binary_dilation(truth, np.ones((3, 3)))
    assert np.array_equal(snap(wide, image, pixels=1, window=7.5), truth)
    assert np.array_equal(snap(truth, image, pixels=1, window=7.5), truth)


def test_a_step_that_would_erase_the_object_is_passed_over() -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[10, 5:50] = True
    assert np.array_equal(cleaned(mask, {"open": {"radius": 3}}), mask)


def test_steps_are_named_once_each_and_round_trip_through_json() -> None:
    (step,) = steps("fill_holes")
    assert step.model_dump(mode="json") == {"fill_holes": {"relative_area": 1.0}}
    assert CleanStep.model_validate(step.model_dump(mode="json")) == step
    with pytest.raises(ValidationError, match="must be one key"):
        CleanStep.model_validate({"open": {}, "close": {}})
    with pytest.raises(ValidationError, match="fill_hole"):
        CleanStep.model_validate("fill_hole")
