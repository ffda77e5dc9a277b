"""Cleaning: against scikit-image where it has the same step, and thin cracks survive what is relative to them."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from skimage.morphology import closing, disk, opening, remove_small_objects

from segdist import masks
from segdist.labelling.cleaning import clean, fill_holes, remove_parts, smooth, snap
from segdist.spec import CleanStep

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


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_removed_as_scikit_image_removes_them_by_area(seed: int) -> None:
    mask = blobs(seed)
    limit = 0.05 * mask.sum()
    expected = remove_small_objects(mask, max_size=int(np.ceil(limit)) - 1, connectivity=2)
    assert np.array_equal(remove_parts(mask, 0.05), expected)


@pytest.mark.parametrize(("name", "reference"), [("open", opening), ("close", closing)])
def test_opening_and_closing_are_those_of_scikit_image(name: str, reference: object) -> None:
    mask = np.pad(blobs()[8:-8, 8:-8], 8)
    expected = reference(mask, disk(2))  # type: ignore[operator]
    assert np.array_equal(cleaned(mask, {name: {"radius": 2}}), expected)


def test_a_crack_of_few_pixels_keeps_its_parts_however_large_the_image() -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[10, 5:25], mask[10, 28:48], mask[40, 60] = True, True, True
    kept = cleaned(mask, {"remove_parts": {"relative_area": 0.1}})
    assert kept.sum() == 40
    assert not kept[40, 60]


def test_the_mask_is_clipped_to_the_box_with_its_margin() -> None:
    kept = cleaned(np.ones(SIZE_HW, np.bool_), {"clip_to_box": {"margin": 0.1}}, box=(10, 10, 30, 20))
    assert masks.encode(kept).box_xyxy == (8, 9, 32, 21)


def test_smoothing_rounds_a_corner_and_leaves_a_straight_edge() -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[10:40, 10:50] = True
    found = smooth(mask, 2.0)
    assert np.array_equal(found[20:30], mask[20:30])
    assert not found[10, 10]


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
