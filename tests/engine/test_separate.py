"""Objects out of regions: parts, and touching ones cut at their necks."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.records import Instance, Rle
from segdist.core.spec import EvaluateSpec, PostSpec
from segdist.engine.separate import separated, watershed

Mask = NDArray[np.bool_]


def discs(*xyr: tuple[int, int, int], size_hw: tuple[int, int] = (120, 200)) -> Mask:
    drawn = np.zeros(size_hw, np.uint8)
    for x, y, radius in xyr:
        cv2.circle(drawn, (x, y), radius, 1, -1)
    return drawn > 0


def region(mask_HW: Mask, label: str = "roof", score: float = 0.8) -> Instance:
    rle = masks.encode(mask_HW)
    return Instance(label, rle, rle.box_xyxy, score=score)


def post(mode: str, stuff: Sequence[str] = ()) -> PostSpec:
    return PostSpec.model_validate({"instances": mode, "stuff": list(stuff)})


def found(mask_HW: Mask, mode: str) -> list[Mask]:
    parts = separated([region(mask_HW)], post(mode), region_classes=("roof",))
    return [masks.decode(part.mask) for part in parts if part.mask]


@pytest.mark.parametrize("mode", ["components", "watershed"])
def test_parts_that_do_not_touch_are_objects_the_larger_first_and_no_pixel_is_lost(mode: str) -> None:
    whole = discs((40, 40, 25), (140, 70, 30))
    parts = found(whole, mode)
    assert [int(p.sum()) for p in parts] == sorted((int(p.sum()) for p in parts), reverse=True)
    assert len(parts) == 2
    assert (np.sum(parts, axis=0) == whole).all()


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("distance", [1.6, 1.8])
def test_touching_discs_are_cut_at_their_neck_at_any_size(distance: float, scale: int) -> None:
    radius = 12 * scale
    first, second = (40 * scale, 40 * scale), (round(40 * scale + distance * radius), 40 * scale)
    whole = discs((*first, radius), (*second, radius), size_hw=(80 * scale, 120 * scale))
    parts = found(whole, "watershed")
    assert len(found(whole, "components")) == 1
    assert len(parts) == 2
    middle = (first[0] + second[0]) / 2
    left = next(p for p in parts if p[first[1], first[0]])
    columns = np.nonzero(left)[1]
    assert abs(columns.max() - middle) <= 2
    assert (np.sum(parts, axis=0) == whole).all()


def test_a_shape_without_a_neck_stays_whole() -> None:
    for shape in (discs((60, 60, 40)), discs((60, 60, 30), (72, 60, 30)), np.pad(np.ones((30, 120), np.bool_), 20)):
        assert len(found(shape, "watershed")) == 1


def test_a_small_object_beside_a_large_one_is_its_own() -> None:
    parts = found(discs((60, 60, 40), (109, 60, 10)), "watershed")
    assert sorted(int(p.sum()) > 1000 for p in parts) == [False, True]


def test_stuff_and_what_the_network_found_as_objects_stay_as_they_are() -> None:
    two = discs((40, 40, 20), (140, 70, 20))
    given = [region(two, "wall"), region(two, "roof"), region(two, "car")]
    kept = separated(given, post("components", stuff=["wall"]), region_classes=("wall", "roof"))
    assert [i.label for i in kept] == ["wall", "roof", "roof", "car"]
    assert all(i.score == 0.8 for i in kept)
    assert list(separated(given, PostSpec(), region_classes=("wall", "roof"))) == given


def test_an_empty_region_and_a_thin_line_are_no_trouble() -> None:
    nothing = Instance("roof", masks.empty((9, 9)), (0.0, 0.0, 0.0, 0.0))
    assert separated([nothing], post("watershed"), region_classes=("roof",)) == (nothing,)
    line = np.zeros((20, 40), np.bool_)
    line[5, 3:37] = True
    assert (watershed(line) > 0).sum() == 34


def test_a_file_that_does_not_ask_for_it_keeps_its_fingerprint() -> None:
    assert EvaluateSpec().post.instances == "as_found"


@pytest.mark.parametrize("mode", ["components", "watershed"])
def test_a_part_is_looked_at_in_its_own_box_however_many_there_are(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of specks in a photograph took minutes while each was sought in all of it."""
    whole = np.zeros((83, 163), np.bool_)
    whole[1::4, 3::4] = whole[2::4, 3::4] = True
    whole[:, 100:] = False
    looked_at: list[int] = []
    place = masks.place

    def placed(mask_HW: Mask, at_yx: tuple[int, int], size_hw: tuple[int, int]) -> Rle:
        looked_at.append(mask_HW.size)
        return place(mask_HW, at_yx, size_hw)

    monkeypatch.setattr(masks, "place", placed)
    parts = found(whole, mode)
    assert len(parts) == 21 * 25
    assert (np.sum(parts, axis=0) == whole).all()
    assert sum(looked_at) == whole.sum()
