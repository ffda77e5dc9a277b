import io

import numpy as np
import pytest
from PIL import Image

from segdist import masks, panels
from segdist.records import Instance, Prediction, Sample

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
def test_a_panel_takes_any_size_and_shows_three_views(size: tuple[int, int]) -> None:
    sample = Sample("a", "", size, (Instance("wall", masks.encode(np.ones(size)), (0, 0, size[1], size[0])),))
    picture = panels.panel(grey(*size), sample, Prediction("a", ()), classes=CLASSES)
    height, width = (max(1, round(side * 420 / max(size))) for side in size)
    assert picture.shape[1] == 3 * width + 4 * 10
    assert picture.shape[0] > height


def test_a_panel_without_instances_is_a_panel() -> None:
    picture = panels.panel(grey(), Sample("a", "", (64, 64)), Prediction("a", ()))
    views = [picture[100, x] for x in (100, 600, 1000)]
    assert all((view == 128).all() for view in views)


def test_encoded_pictures_are_read_back_in_rgb() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    lossless = np.asarray(Image.open(io.BytesIO(panels.encode_png(red))))
    lossy = np.asarray(Image.open(io.BytesIO(panels.encode_jpeg(red)))).astype(int)
    assert (lossless == red).all()
    assert np.abs(lossy - red).max() < 12
