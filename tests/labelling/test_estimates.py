"""Classical estimates against scikit-image and SciPy, and on drawings whose answer is plain."""

import cv2
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.filters import threshold_otsu
from skimage.morphology import black_tophat, skeletonize, white_tophat

from segdist.labelling import estimates
from segdist.labelling.estimates import blob, foreground, line, middle_points, stands_out_as_line
from segdist.reading.geometry import cut_out

SIZE_HW = (60, 80)


@pytest.mark.parametrize("margin", [0.0, 0.25])
@pytest.mark.parametrize(
    "box", [(5, 8, 13, 28), (5.3, 8.7, 12.2, 27.1), (0, 0, 80, 60), (-9, -7, 3, 2), (79, 59, 90, 99), (3, 4, 3, 4)]
)
def test_a_cut_holds_every_pixel_that_the_widened_box_touches(box: tuple[float, ...], margin: float) -> None:
    rows, columns = cut_out(box, SIZE_HW, margin=margin)
    for span, (low, high), size in ((columns, box[::2], 80), (rows, box[1::2], 60)):
        low, high = low - margin * (high - low), high + margin * (high - low)
        touched = [k for k in range(size) if k < high and k + 1 > low]
        assert list(range(size))[span] == (touched or [min(max(int(np.floor(low)), 0), size - 1)])


@pytest.mark.parametrize("box", [(90, 3, 95, 9), (-20, 3, -5, 9), (3, 70, 9, 99), (3, -9, 9, -4)])
def test_a_cut_of_a_box_outside_is_one_pixel_at_the_border(box: tuple[float, ...]) -> None:
    rows, columns = cut_out(box, SIZE_HW)
    assert np.zeros(SIZE_HW)[rows, columns].size > 0
    assert (rows.stop - rows.start == 1) or (columns.stop - columns.start == 1)


def scene(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A line on ground that the light falls on from one side, or a disc on even ground, and where it was drawn."""
    drawn = np.zeros(SIZE_HW, np.uint8)
    if kind == "disc":
        cv2.circle(drawn, (42, 28), 18, 1, -1)
    else:
        cv2.polylines(drawn, [np.array([[10, 12], [35, 40], [70, 44]])], isClosed=False, color=1, thickness=3)
    colours = {"dark line": (-70, -70, -60), "bright line": (70, 70, 60), "disc": (-60, 0, 30)}
    light = np.linspace(-60, 60, SIZE_HW[1])[:, None] * (kind != "disc")
    image = (140, 140, 130) + light + drawn[..., None] * colours[kind]
    noise = np.random.default_rng(0).integers(-4, 5, (*SIZE_HW, 3))
    return (image + noise).astype(np.uint8), drawn > 0


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (3, 3), 0))


@pytest.mark.parametrize(("kind", "tophat"), [("dark line", black_tophat), ("bright line", white_tophat)])
def test_a_line_is_what_the_top_hats_of_scikit_image_and_otsus_threshold_find(kind: str, tophat: object) -> None:
    image, _ = scene(kind)
    grey = blurred(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    discs = [cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)) for side in (5, 9, 17)]
    response = np.max([tophat(grey, disc) for disc in discs], axis=0)  # type: ignore[operator]
    expected = response > threshold_otsu(response)
    inner = np.s_[9:-9, 9:-9]  # at the frame, SciPy mirrors the image
    assert expected[inner].any()
    np.testing.assert_array_equal(line(image)[inner], expected[inner])


@pytest.mark.parametrize("kind", ["dark line", "bright line", "disc"])
def test_what_stands_out_is_found_as_the_kind_of_thing_it_is(kind: str) -> None:
    image, drawn = scene(kind)
    assert stands_out_as_line(image) is (kind != "disc")
    np.testing.assert_array_equal(foreground(image), blob(image) if kind == "disc" else line(image))
    found = foreground(image)
    assert (found & drawn).sum() / (found | drawn).sum() > 0.8


def test_a_blob_is_what_differs_from_the_border_in_lab_colours() -> None:
    image, _ = scene("disc")
    image[0], image[-1] = 255, 0  # fewer than half of the border's pixels
    lab = cv2.cvtColor(blurred(image), cv2.COLOR_RGB2LAB).astype(np.float64)
    frame = np.ones(SIZE_HW, np.int64)
    frame[1:-1, 1:-1] = 0
    frame[[0, 0, -1, -1], [0, -1, 0, -1]] = 2  # the corners belong to two sides
    middle = np.median(np.repeat(lab.reshape(-1, 3), frame.ravel(), axis=0), axis=0)
    distance = np.minimum(np.sqrt(((lab - middle) ** 2).sum(axis=2)), 255).astype(np.uint8)
    np.testing.assert_array_equal(blob(image), distance > threshold_otsu(distance))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("turned", [False, True])
def test_every_side_of_the_border_has_its_say(side: str, *, turned: bool) -> None:
    """Top, bottom and, once blurred, one side are grey, the rest is yellow: most of the border is grey."""
    image = np.full((40, 12, 3), (200, 200, 0), np.uint8)
    image[:3] = image[-3:] = 100
    image[:, 0 if side == "left" else -1] = (0, 0, 200)
    seen = np.ascontiguousarray(image.transpose(1, 0, 2) if turned else image)
    found = blob(seen).T if turned else blob(seen)
    assert found[6:-6, 3:-3].all()
    assert not found[0, 1:-1].any()


def test_colours_farther_apart_than_a_pixel_has_steps_are_reported_apart() -> None:
    image = np.full((*SIZE_HW, 3), (0, 0, 255), np.uint8)
    image[20:40, 30:50] = (255, 255, 0)
    found = blob(image)
    assert found[22:38, 32:48].all()
    assert found.sum() < 23 * 23


def test_a_line_is_of_the_kind_whose_peaks_stand_out_from_most_of_the_picture() -> None:
    """Narrow bright lines between dark ones: most of the picture is darker than what lies beside it."""
    bright = np.zeros(SIZE_HW, np.bool_)
    bright[:, 6::8] = bright[:, 7::8] = True
    image = np.where(bright[..., None], 200, 60).astype(np.uint8).repeat(3, axis=2)
    assert np.array_equal(line(image)[10:-10, 10:-10], bright[10:-10, 10:-10])


def test_the_separation_is_the_share_of_variance_that_is_not_left_within_the_two_sides() -> None:
    values = np.random.default_rng(1).normal(60, 9, (30, 40))
    values[:12] += 70
    pixels = values.clip(0, 255).astype(np.uint8)
    high = pixels > threshold_otsu(pixels)
    left = sum(pixels[side].var() * side.mean() for side in (high, ~high))
    assert estimates._separation(pixels) == pytest.approx(1 - left / pixels.var())
    assert estimates._separation(np.full((5, 5), 7, np.uint8)) == 0.0


def test_flat_ground_has_neither_line_nor_blob() -> None:
    flat = np.full((*SIZE_HW, 3), 120, np.uint8)
    assert not stands_out_as_line(flat)
    assert not foreground(flat).any()
    assert middle_points(foreground(flat), 3) == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_middle_points_lie_on_the_skeleton_of_the_largest_part_as_far_apart_as_may_be(count: int) -> None:
    mask = np.zeros(SIZE_HW, np.uint8)
    cv2.line(mask, (5, 5), (20, 5), 1, 3)
    cv2.polylines(mask, [np.array([[8, 50], [40, 20], [70, 45]])], isClosed=False, color=1, thickness=7)
    cv2.circle(mask, (40, 22), 7, 1, -1)
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    depth = ndimage.distance_transform_edt(largest)
    middle = np.argwhere(skeletonize(largest))[:, ::-1]
    found = np.array(middle_points(mask > 0, count)) - 0.5
    assert len(found) == count
    assert all((middle == point).all(axis=1).any() for point in found)
    x, y = found[0].astype(int)
    assert depth[y, x] >= 0.9 * max(depth[y, x] for x, y in middle), "the first is the deepest"
    for k in range(1, count):
        farthest = cdist(middle, found[:k]).min(axis=1).max()
        assert cdist(found[k : k + 1], found[:k]).min() == pytest.approx(farthest)


@pytest.mark.parametrize("upright", [False, True])
def test_the_first_middle_point_is_the_middle_of_the_bulge(*, upright: bool) -> None:
    """A line from frame to frame, thick at one place."""
    mask = np.zeros((31, 61), np.uint8)
    mask[15] = 1
    cv2.circle(mask, (20, 15), 8, 1, -1)
    drawn = np.ascontiguousarray(mask.T if upright else mask) > 0
    ((x, y),) = middle_points(drawn, 1)
    assert (x, y) == ((15.5, 20.5) if upright else (20.5, 15.5))


def test_there_are_no_more_middle_points_than_the_skeleton_has_pixels() -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[0, 0] = True
    assert middle_points(mask, 3) == [(0.5, 0.5)]
