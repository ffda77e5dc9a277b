import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from segdist.core import masks, panels
from segdist.core.panels import drawing
from segdist.core.records import Instance, Prediction, Sample

CLASSES = ("wall", "window")


def instance(label: str, box: tuple[int, int, int, int], *, score: float = 1.0, size: int = 64) -> Instance:
    rle = masks.from_box(box, size_hw=(size, size))
    return Instance(label, rle, rle.box_xyxy, score)


def grey(height: int = 64, width: int = 64) -> panels.ImageHWC:
    return np.full((height, width, 3), 128, np.uint8)


def test_the_first_colours_are_far_apart_for_every_kind_of_colour_blindness() -> None:
    # Dichromats' confusion, simulated with the linear-RGB matrices of Viénot, Brettel and Mollon (1999).
    protan = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    colours = np.array([panels.colour(i) for i in range(8)]) / 255
    for matrix in (np.eye(3), protan, deutan):
        seen = np.clip((colours**2.2) @ matrix.T, 0, 1) ** (1 / 2.2) * 255
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert apart[~np.eye(8, dtype=bool)].min() > 30


def test_every_class_has_a_colour_of_its_own() -> None:
    assert len({panels.colour(i) for i in range(40)}) == 40


def test_an_overlay_colours_inside_and_leaves_outside_as_it_was() -> None:
    image = grey()
    drawn = panels.overlay(image, [instance("wall", (20, 20, 44, 44))], CLASSES, labels=False)
    assert drawn.shape == image.shape
    assert (image == 128).all()
    assert (drawn[:16] == 128).all()
    expected = 128 * 0.55 + np.array(panels.colour(0)) * 0.45
    assert np.abs(drawn[32, 32] - expected).max() <= 1


def test_a_small_object_stays_visible_on_a_large_one_whatever_their_order() -> None:
    pair = [instance("window", (24, 24, 40, 40)), instance("wall", (0, 0, 64, 64))]
    drawn = [panels.overlay(grey(), order, CLASSES, labels=False) for order in (pair, pair[::-1])]
    assert (drawn[0] == drawn[1]).all()
    assert np.abs(drawn[0][32, 32] - (128 * 0.55 + np.array(panels.colour(1)) * 0.45)).max() <= 1


def test_an_instance_without_a_mask_is_drawn_as_its_box() -> None:
    drawn = panels.overlay(grey(), [Instance("wall", None, (10, 10, 50, 50))], CLASSES, labels=False)
    assert tuple(drawn[10, 30]) == panels.colour(0)
    assert (drawn[30, 30] == 128).all()


def test_names_are_written_inside_the_picture_even_for_objects_at_its_edge() -> None:
    found = [instance("window", (0, 0, 4, 4), score=0.5, size=300), instance("wall", (296, 296, 300, 300), size=300)]
    plain = panels.overlay(grey(300, 300), found, CLASSES, labels=False)
    named = panels.overlay(grey(300, 300), found, CLASSES)
    changed = (plain != named).any(axis=2)
    assert changed[:30, :100].any()
    assert changed[270:, 250:].any()


@pytest.mark.parametrize("size", [(64, 64), (600, 200), (1, 1), (30, 2000)])
def test_a_panel_takes_any_size_and_shows_four_views(size: tuple[int, int]) -> None:
    sample = Sample("a", "", size, (Instance("wall", masks.encode(np.ones(size)), (0, 0, size[1], size[0])),))
    picture = panels.panel(grey(*size), sample, Prediction("a", ()), classes=CLASSES)
    height, width = (max(1, round(side * 420 / max(size))) for side in size)
    columns = (picture.shape[1] - 10) // (width + 10)
    assert picture.shape[1] == 10 + columns * (width + 10)
    assert picture.shape[0] > 4 // columns * height


@pytest.mark.parametrize(
    ("size", "columns"), [((64, 64), 2), ((48, 64), 2), ((64, 48), 2), ((64, 640), 1), ((640, 64), 4)]
)
def test_a_panel_is_about_square_whatever_the_image(size: tuple[int, int], columns: int) -> None:
    picture = panels.panel(grey(*size), Sample("a", "", size), Prediction("a", ()))
    width = round(size[1] * 420 / max(size))
    assert picture.shape[1] == 10 + columns * (width + 10)


def test_an_odd_number_of_views_leaves_the_last_place_white() -> None:
    picture = panels.panel(grey(), Sample("a", "", (64, 64)), Prediction("a", ()), bleed=True)
    assert picture.shape[1] == 10 + 3 * 430
    assert (picture[-300:-100, -400:-50] == 255).all()


def test_a_panel_without_instances_is_a_panel() -> None:
    picture = panels.panel(grey(), Sample("a", "", (64, 64)), Prediction("a", ()))
    views = [picture[y, x] for y in (200, 700) for x in (100, 600)]
    assert all((view == 128).all() for view in views[:3])
    assert (views[3] == 128 // 2 + 115).all(), "paler, and no error in it"


def test_the_error_view_tells_missed_invented_mistaken_and_unknown_pixels_apart() -> None:
    truth = (
        instance("wall", (0, 0, 20, 20)), instance("window", (20, 0, 40, 20)), Instance("wall", None, (40, 40, 64, 64)),
    )  # fmt: skip
    found = (instance("wall", (20, 0, 40, 20)), instance("wall", (0, 40, 20, 64)), instance("wall", (40, 40, 60, 60)))
    shown = panels.errors(grey(), Sample("a", "", (64, 64), truth), found)
    assert tuple(shown[10, 10]) == panels.ERRORS["missed"]
    assert tuple(shown[10, 30]) == panels.ERRORS["taken for another class"]
    assert tuple(shown[50, 10]) == panels.ERRORS["invented"]
    assert tuple(shown[50, 50]) == tuple(shown[62, 62]) == (160, 160, 160), "nobody knows what is right there"
    assert tuple(shown[30, 50]) == (179, 179, 179)


def test_edges_too_far_out_are_red_and_too_far_in_blue() -> None:
    sample = Sample("a", "", (64, 64), (instance("wall", (16, 16, 48, 48)),))
    wide = panels.edge_bleed(grey(), sample, [instance("wall", (6, 6, 58, 58))])
    narrow = panels.edge_bleed(grey(), sample, [instance("wall", (26, 26, 38, 38))])
    exact = panels.edge_bleed(grey(), sample, sample.instances)
    out, into = panels.EDGES.values()
    assert tuple(wide[30, 6]) == out
    assert tuple(narrow[30, 26]) == into
    assert exact[30, 16].min() > 200, "on the edge it is white"


def test_signed_distance_is_that_of_scipy_outside_and_inside() -> None:
    mask = masks.decode(masks.from_box((16, 20, 40, 48), size_hw=(64, 64)))
    distance = panels.signed_distance(mask)
    assert distance[~mask] == pytest.approx(distance_transform_edt(~mask)[~mask], rel=1e-6)
    assert distance[mask] == pytest.approx(1 - distance_transform_edt(mask)[mask], rel=1e-6, abs=1e-6)
    assert np.isinf(panels.signed_distance(np.zeros((4, 4), np.bool_))).all()


def test_two_models_stand_beside_the_truth_each_with_its_errors() -> None:
    sample = Sample("a", "", (64, 64), (instance("wall", (0, 0, 20, 20)),))
    picture = panels.versus(grey(), sample, {"one": sample.instances, "other": ()}, classes=CLASSES)
    assert picture.shape[1] == 5 * 420 + 6 * 10


def test_encoded_pictures_are_read_back_in_rgb() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    lossless = np.asarray(Image.open(io.BytesIO(panels.encode_png(red))))
    lossy = np.asarray(Image.open(io.BytesIO(panels.encode_jpeg(red)))).astype(int)
    assert (lossless == red).all()
    assert np.abs(lossy - red).max() < 12


@pytest.mark.parametrize("size_hw", [(60, 80), (30, 40)], ids=["own", "smaller"])
def test_of_an_object_in_a_large_picture_no_more_is_kept_than_there_is_of_it(size_hw: tuple[int, int]) -> None:
    """Of thousands of specks in a photograph the whole masks took gigabytes, and minutes to draw."""
    whole = np.zeros((60, 80), np.bool_)
    whole[20:24, 30:40] = True
    speck = Instance("a", masks.encode(whole), (30, 20, 40, 24))
    shape = drawing.DrawnInstance.of(speck, size_hw, ("a",))
    scale = 60 // size_hw[0]
    assert shape.mask_HW is not None
    assert (shape.mask_HW.shape, shape.at_yx) == ((4 // scale, 10 // scale), (20 // scale, 30 // scale))
    picture = drawing.overlay(np.zeros((*size_hw, 3), np.uint8), [speck], ("a",), labels=False)
    touched = np.argwhere(picture.any(axis=2))
    assert np.abs(touched.min(axis=0) - shape.at_yx).max() <= 1, "the outline may lie beside it"
    edge = np.array(shape.at_yx) + shape.mask_HW.shape - 1
    assert np.abs(touched.max(axis=0) - edge).max() <= 1
