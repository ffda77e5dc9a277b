"""Mask images mean what their authors drew, however the file stores it."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdist.core.errors import DataError
from segdist.core.masks import decode
from segdist.reading import label_maps
from segdist.reading.label_maps import decode_values, rles_by_value

SHAPE = np.zeros((8, 10), np.uint8)
SHAPE[2:5, 3:7] = 1


def saved(image: Image.Image | np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def palette(values: np.ndarray[Any, Any], *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(values, "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (saved(SHAPE), SHAPE),
        (saved(SHAPE * 255), SHAPE * 255),
        (saved(Image.fromarray(SHAPE * 255).convert("1")), SHAPE),
        (saved(SHAPE.astype(np.uint16) * 40_000), SHAPE.astype(int) * 40_000),
        (saved(SHAPE.astype(np.int32) * 70_000, "TIFF"), SHAPE.astype(int) * 70_000),
        (saved(SHAPE.astype(np.float32) * 3, "TIFF"), SHAPE * 3),
        (saved(np.dstack([SHAPE * 9] * 3)), SHAPE * 9),
        (saved(np.dstack([SHAPE * 9, SHAPE * 0, SHAPE * 1])), SHAPE.astype(int) * 0x090001),
        (saved(palette(SHAPE * 2, (0, 0, 0), (128, 0, 0), (0, 128, 0))), SHAPE * 2),
        (saved(palette(SHAPE * 2, (255, 255, 255), (128, 0, 0), (0, 128, 0))), SHAPE * 2),
        (saved(palette(SHAPE * 2, (0, 0, 0), (90, 90, 90), (40, 40, 40))), SHAPE * 2),
        (saved(Image.merge("LA", [Image.fromarray(SHAPE * 5), Image.new("L", (10, 8), 255)])), SHAPE * 5),
    ],
)
def test_numbers_are_those_that_the_file_stores(content: bytes, wanted: np.ndarray[Any, Any]) -> None:
    found = decode_values(content)
    np.testing.assert_array_equal(found.values_HW, wanted)
    assert found.note == ""


def test_a_grey_palette_whose_first_entry_is_white_is_read_by_its_greys() -> None:
    for drawn in (SHAPE, SHAPE * 0, SHAPE * 0 + 1):  # black on white: index 0 is white, and where the object is not
        found = decode_values(saved(palette(1 - drawn, (255, 255, 255), (0, 0, 0))))
        np.testing.assert_array_equal(found.values_HW, drawn * 255)
        assert "palette" in found.note


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (3, 4, 5)])
def test_a_mask_that_only_the_alpha_channel_holds_is_read_from_it(colour: tuple[int, int, int]) -> None:
    layers = [np.full(SHAPE.shape, value, np.uint8) for value in colour]
    for content in (saved(np.dstack([*layers, SHAPE * 255])), saved(np.dstack([*layers, SHAPE * 200]), "TIFF")):
        found = decode_values(content)
        np.testing.assert_array_equal(found.values_HW > 0, SHAPE > 0)
        assert "alpha" in found.note


def test_numbers_that_are_not_whole_and_noise_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    for values in (SHAPE + np.float32(0.5), SHAPE + np.float32(np.nan)):
        with pytest.raises(DataError, match="not whole"):
            decode_values(saved(values.astype(np.float32), "TIFF"))
    monkeypatch.setattr(label_maps, "_MOST_RUNS", 30)
    with pytest.raises(DataError, match="must have regions"):
        decode_values(saved(np.indices((8, 10)).sum(axis=0).astype(np.uint8) % 2))
    monkeypatch.setattr(label_maps, "_MOST_RUNS", 10**6)
    monkeypatch.setattr(label_maps, "_MOST_NUMBERS", 30)
    with pytest.raises(DataError, match="different numbers"):
        decode_values(saved(np.arange(80, dtype=np.int32).reshape(8, 10), "TIFF"))


def test_objects_are_taken_apart_from_numbers_of_any_type() -> None:
    for dtype in (np.uint8, np.uint16, np.int32, np.int64):
        found = rles_by_value((SHAPE * 7).astype(dtype))
        assert list(found) == [7]
        np.testing.assert_array_equal(decode(found[7]), SHAPE > 0)
